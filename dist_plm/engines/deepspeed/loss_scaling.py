"""The loss scale of DeepSpeed's optimizers under fp16, changed between their steps: by themselves they change it within a step,
and divide the gradients, which backward passes multiplied by the old scale, by the new one."""

from collections.abc import Mapping
from typing import Any

from dist_plm.engines.state import LossScaler


class DeepSpeedScaler:
    """See engines.state.LossScaler."""

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler
        # It would end the run: how many overflows in a row do that is for train.max_skipped to say.
        scaler.raise_error_at_min_scale = False

    def update(self, overflow: bool) -> None:
        """Counts a step that has ended, and grows in the last one of a window, as Megatron-core does."""
        scaler = self._scaler
        if overflow:
            scaler.update_scale(True)
        else:
            scaler.cur_iter += 1  # DeepSpeed looks at the steps before this one
            scaler.update_scale(False)
            scaler.cur_iter -= 1

    def state(self) -> dict[str, Any]:
        scaler = self._scaler
        return {
            "loss_scale": float(scaler.cur_scale),
            # Since the scale grew, where it has: Megatron-core counts anew from there.
            "steps_since_overflow": (scaler.cur_iter - scaler.last_overflow_iter - 1) % scaler.scale_window,
            "hysteresis_left": scaler.cur_hysteresis,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        scaler = self._scaler
        scaler.cur_scale = state["loss_scale"]
        # Checkpoints of an engine that grew a step later, or under a longer window, may have counted to the end of this one.
        steps = min(state["steps_since_overflow"], scaler.scale_window - 1)
        scaler.last_overflow_iter = scaler.cur_iter - steps - 1
        # It backs off at 1, and at nothing below; Megatron-core counts on.
        scaler.cur_hysteresis = max(state["hysteresis_left"], 1)


def scale_between_steps(wrapper: Any) -> LossScaler | None:
    """Has DeepSpeed's optimizer change its loss scale after each step, when gradients are divided by the one that they were
    multiplied by. None where nothing scales the loss, or nothing changes by how much."""
    optimizer: Any = wrapper  # not narrowed: methods are replaced
    inner = getattr(optimizer, "loss_scaler", None)
    if not getattr(inner, "dynamic", False):
        return None
    scaler, step = DeepSpeedScaler(inner), optimizer.step

    def stepped(*args: Any, **options: Any) -> Any:
        result = step(*args, **options)
        scaler.update(bool(optimizer.overflow))
        return result

    optimizer._update_scale = lambda *_: None
    optimizer.step = stepped
    return scaler
