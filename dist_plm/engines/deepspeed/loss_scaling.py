"""The loss scale of DeepSpeed's optimizers under fp16."""

from collections.abc import Mapping
from typing import Any

from dist_plm.engines.state import LossScaler


class DeepSpeedScaler:
    """See engines.state.LossScaler."""

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler
        # It would end the run: how many overflows in a row do that is for train.max_skipped to say.
        scaler.raise_error_at_min_scale = False

    def state(self) -> dict[str, Any]:
        scaler = self._scaler
        steps, window = scaler.cur_iter - scaler.last_overflow_iter - 1, scaler.scale_window
        return {
            "loss_scale": float(scaler.cur_scale),
            # Since the scale grew, where it has: Megatron-core counts anew from there.
            "steps_since_overflow": (steps - 1) % window + 1 if steps else 0,
            "hysteresis_left": scaler.cur_hysteresis,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._scaler.cur_scale = state["loss_scale"]
        self._scaler.last_overflow_iter = self._scaler.cur_iter - state["steps_since_overflow"] - 1
        # It backs off at 1, and at nothing below; Megatron-core counts on.
        self._scaler.cur_hysteresis = max(state["hysteresis_left"], 1)


def scaler_of(optimizer: Any) -> LossScaler | None:
    """The dynamic loss scaling of DeepSpeed's optimizer, None where there is none."""
    scaler = getattr(optimizer, "loss_scaler", None)
    return DeepSpeedScaler(scaler) if getattr(scaler, "dynamic", False) else None
