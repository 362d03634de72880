"""What a checkpoint keeps of Megatron-core's optimizer wrappers, parameter by parameter.

The distributed optimizer (ZeRO-1) cuts its flat buffers over data ranks without regard for parameters, so each data rank
holds some span of the flattened parameter, or none. Saving joins the spans, loading takes the own one out of the whole.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.grad_scaler import DynamicGradScaler
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor, nn

from dist_plm.engines.base import ParameterState
from dist_plm.models.layout import Layout


class Span(NamedTuple):
    """The elements [start, stop) of a flattened parameter, and the data rank whose optimizer updates them."""

    data_rank: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Shard:
    """The span that this rank's optimizer updates. `tensors` are flat views of the weights, or of their fp32 masters,
    and of the optimizer's state."""

    start: int
    stop: int
    tensors: dict[str, Tensor]


class MegatronState:
    """Reads and writes the state behind an engine; see engines.base.Engine.

    Args:
        layouts: of all parameters of this rank.
        data: group of the ranks that hold the same parameters.
    """

    def __init__(
        self, layouts: list[Layout], optimizer: MegatronOptimizer, data: dist.ProcessGroup, world: dist.ProcessGroup
    ) -> None:
        self._layouts, self._optimizer = layouts, optimizer
        # Before the first step too there is something to save, and something to load into.
        optimizer.init_state_fn(optimizer.optimizer, optimizer.config)
        self._data, self._world = data, world
        self._scaler: DynamicGradScaler | None = getattr(optimizer, "grad_scaler", None)  # under fp16 alone
        self._spans: list[list[Span]] | None = None
        self._names: list[str] = []

    def parameter_states(self) -> Iterator[ParameterState]:
        for layout, spans in zip(self._layouts, self._agree(), strict=True):
            yield ParameterState(layout, self._whole(layout.parameter, spans))

    @torch.no_grad()
    def load(self, read: Callable[[Layout, str], Tensor]) -> None:
        self._agree()
        for layout in self._layouts:
            shard = self._shard(layout.parameter)
            for name in self._names:
                if shard is None and name != "weight":
                    continue
                values = read(layout, name)
                if name == "weight":
                    layout.parameter.copy_(values)
                if shard is not None:
                    shard.tensors[name].copy_(values.reshape(-1)[shard.start : shard.stop])

    def scalars(self) -> dict[str, Any]:
        steps = [float(state["step"]) for state in self._optimizer.optimizer.state.values() if "step" in state]
        # A rank whose span is empty counts no steps.
        most = torch.tensor(max(steps, default=0.0), dtype=torch.float64, device=self._layouts[0].parameter.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._world)
        scalars: dict[str, Any] = {"optimizer_steps": int(most)}
        if self._scaler is not None:
            state = self._scaler.state_dict()
            scalars["loss_scale"] = float(state["scale"])
            scalars["steps_since_overflow"] = state["growth_tracker"]
            scalars["hysteresis_left"] = state["hysteresis_tracker"]
        return scalars

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        for state in self._optimizer.optimizer.state.values():
            if "step" in state and "optimizer_steps" in scalars:
                state["step"].fill_(float(scalars["optimizer_steps"]))
        if self._scaler is not None and scalars.get("loss_scale") is not None:
            self._scaler.load_state_dict(
                {
                    "scale": torch.tensor([scalars["loss_scale"]], dtype=torch.float32),
                    "growth_tracker": scalars["steps_since_overflow"],
                    "hysteresis_tracker": scalars["hysteresis_left"],
                }
            )

    def _shard(self, parameter: nn.Parameter) -> Shard | None:
        if isinstance(self._optimizer, DistributedOptimizer):
            if parameter not in self._optimizer.model_param_gbuf_map:
                return None
            span = self._optimizer._get_model_param_range_map(parameter)["param"]
            group, position = self._optimizer.model_param_group_index_map[parameter]
            master = self._optimizer.optimizer.param_groups[group]["params"][position]
            start, stop = span.start, span.end
        else:
            master = getattr(parameter, "main_param", parameter)
            start, stop = 0, parameter.numel()
        state = self._optimizer.optimizer.state[master]
        tensors = {"weight": master} | {name: value for name, value in state.items() if value.shape == master.shape}
        return Shard(start, stop, {name: tensor.detach().view(-1) for name, tensor in tensors.items()})

    def _whole(self, parameter: nn.Parameter, spans: list[Span]) -> dict[str, Tensor]:
        """The tensors of a parameter, put together from the spans of all data ranks."""
        shard = self._shard(parameter)
        if not self._is_sharded:
            assert shard is not None
            return {name: shard.tensors[name].float().view(parameter.shape) for name in self._names}
        joined = torch.empty(len(self._names), parameter.numel(), dtype=torch.float32, device=parameter.device)
        for rank, start, stop in spans:
            part = torch.empty(len(self._names), stop - start, dtype=torch.float32, device=parameter.device)
            if rank == self._data.rank():
                assert shard is not None
                for row, name in zip(part, self._names, strict=True):
                    row.copy_(shard.tensors[name])
            dist.broadcast(part, group=self._data, group_src=rank)
            joined[:, start:stop] = part
        return {name: row.view(parameter.shape) for name, row in zip(self._names, joined, strict=True)}

    @property
    def _is_sharded(self) -> bool:
        return isinstance(self._optimizer, DistributedOptimizer) and self._data.size() > 1

    def _agree(self) -> list[list[Span]]:
        """Which data rank holds which span of each parameter, and the names of its tensors. Asked once: neither changes
        while a run lasts."""
        if self._spans is None:
            shards = [self._shard(layout.parameter) for layout in self._layouts]
            own = [(shard.start, shard.stop) if shard is not None else None for shard in shards]
            names = next((list(shard.tensors) for shard in shards if shard is not None), [])
            gathered: list[Any] = [(own, names)]
            if self._is_sharded:
                gathered = [None] * self._data.size()
                dist.all_gather_object(gathered, (own, names), group=self._data)
            self._names = max((names for _, names in gathered), key=len)
            self._spans = [
                [Span(rank, *held[i]) for rank, (held, _) in enumerate(gathered) if held[i] is not None]
                for i in range(len(self._layouts))
            ]
        return self._spans
