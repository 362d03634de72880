"""What a checkpoint keeps of DeepSpeed's optimizers, parameter by parameter: joined from fragments and cut into them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.engines.base import ParameterState
from dist_plm.engines.deepspeed_parts import flat_tensors, refresh_weights
from dist_plm.engines.partition import Fragment
from dist_plm.models.layout import Layout
from dist_plm.optim.build import MOMENTS, fill_state
from dist_plm.parallel.groups import Groups


class DeepSpeedState:
    """Reads and writes the state behind an engine; see engines.base.Engine.

    Args:
        shapes: of the parameters of `layouts`, as they were before ZeRO-3 emptied them.
        wrapper: DeepSpeed's optimizer, or the inner one where nothing wraps it.
        sharded: data ranks hold different fragments.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        shapes: Sequence[torch.Size],
        fragments: Sequence[Fragment],
        wrapper: Any,
        inner: torch.optim.Optimizer,
        groups: Groups,
        *,
        sharded: bool,
    ) -> None:
        self._layouts, self._shapes, self._wrapper, self._inner = layouts, shapes, wrapper, inner
        self._groups, self._sharded = groups, sharded and groups.data_context.size() > 1
        self._held: dict[Tensor, list[Fragment]] = {}
        for fragment in fragments:
            self._held.setdefault(fragment.parameter, []).append(fragment)
        self._names = ("weight", *MOMENTS[type(inner).__name__.lower()])

    def parameter_states(self) -> Iterator[ParameterState]:
        self._fill()
        for layout, shape in zip(self._layouts, self._shapes, strict=True):
            joined = torch.zeros(len(self._names), shape.numel(), device=self._groups.device.torch_device)
            for row, name in zip(joined, self._names, strict=True):
                for fragment in self._held.get(layout.parameter, ()):
                    row[fragment.start : fragment.start + fragment.length] = self._view(fragment, name)
            if self._sharded:
                # Each element is held once and zero elsewhere, so the sum is exact.
                dist.all_reduce(joined, group=self._groups.data_context)
            yield ParameterState(layout, {n: row.view(shape) for n, row in zip(self._names, joined, strict=True)})

    @torch.no_grad()
    def load(self, read: Callable[[Layout, str], Tensor]) -> None:
        self._fill()
        for layout in self._layouts:
            for name in self._names:
                values = read(layout, name).reshape(-1)
                for fragment in self._held.get(layout.parameter, ()):
                    self._view(fragment, name).copy_(values[fragment.start : fragment.start + fragment.length])
        refresh_weights(self._wrapper)

    def scalars(self) -> dict[str, Any]:
        steps = [float(state["step"]) for state in self._inner.state.values() if "step" in state]
        most = torch.tensor(max(steps, default=0.0), dtype=torch.float64, device=self._groups.device.torch_device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._groups.world)
        scalars: dict[str, Any] = {"optimizer_steps": int(most)}
        scaler = self._scaler()
        if scaler is not None:
            scalars["loss_scale"] = float(scaler.cur_scale)
            scalars["steps_since_overflow"] = scaler.cur_iter - scaler.last_overflow_iter - 1
            scalars["hysteresis_left"] = scaler.cur_hysteresis
        return scalars

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        self._fill()
        for state in self._inner.state.values():
            if "step" in state and "optimizer_steps" in scalars:
                state["step"].fill_(float(scalars["optimizer_steps"]))
        scaler = self._scaler()
        if scaler is not None and scalars.get("loss_scale") is not None:
            scaler.cur_scale = scalars["loss_scale"]
            scaler.last_overflow_iter = scaler.cur_iter - scalars["steps_since_overflow"] - 1
            scaler.cur_hysteresis = scalars["hysteresis_left"]

    def _view(self, fragment: Fragment, name: str) -> Tensor:
        tensor = fragment.tensor if name == "weight" else self._inner.state[fragment.tensor][name]
        return tensor.detach().view(-1)[fragment.offset : fragment.offset + fragment.length]

    def _fill(self) -> None:
        """Before the first step DeepSpeed's inner optimizer has no state, and in ZeRO-3 no parameters."""
        for tensor in flat_tensors(self._wrapper):
            fill_state(self._inner, [tensor])

    def _scaler(self) -> Any:
        scaler = getattr(self._wrapper, "loss_scaler", None)
        return scaler if getattr(scaler, "dynamic", False) else None
