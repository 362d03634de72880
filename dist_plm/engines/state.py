"""Gathers what a checkpoint keeps of an engine, parameter by parameter, from the fragments that its optimizer holds on each
rank, and cut into them again. Both engines describe their flat tensors as fragments, so that this is written once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_plm.config.extending.bodies import place_of
from dist_plm.core.errors import ConfigError
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import ParameterState
from dist_plm.engines.flat_parameters import FlatParameters, OptimizerShard
from dist_plm.engines.measuring.update_sizes import UpdateSizes
from dist_plm.models.sharding import Shard, ShardSpec
from dist_plm.optim.base import WholeTensorOptimizer, fill_state
from dist_plm.spec.optimizers import OptimConfig


class LossScaler(Protocol):
    """The dynamic loss scaling of an engine, under fp16 alone: `loss_scale`, `steps_since_overflow`, `hysteresis_left`."""

    def state(self) -> dict[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...


class Reach(Protocol):
    """Brings one of the inner optimizer's tensors, with its state, into memory before they are read, where they lie on
    NVMe between steps."""

    def __call__(self, tensor: Tensor) -> None: ...

    def release(self) -> None:
        """Ends the reading, and keeps what was written."""
        ...


class EngineState:
    """Reads and writes the state behind an engine; see engines.base.Engine.

    Args:
        shapes: of the parameters of `shard_specs`, as they were before ZeRO-3 emptied them.
        fragments: what the inner optimizer updates on this rank, and where it stands in its tensors; of what is frozen, where
            the weights themselves are.
        tensors: all that the inner optimizer updates; DeepSpeed has its flat ones outside of the parameter groups.
        flat: where logical tensors lie in the flattened parameters.
        sharded: data ranks hold different fragments.
        sharded_weights: of what is frozen as well.
        refresh: puts what was written to the fragments into the model's weights. Collective over data ranks.
        reach: None where everything is in memory.
    """

    def __init__(
        self,
        shard_specs: Sequence[ShardSpec],
        shapes: Sequence[torch.Size],
        fragments: Sequence[OptimizerShard],
        optim: OptimConfig,
        inner: torch.optim.Optimizer,
        tensors: Sequence[Tensor],
        groups: Groups,
        flat: FlatParameters,
        *,
        sharded: bool,
        sharded_weights: bool = False,
        scaler: LossScaler | None,
        refresh: Callable[[], None] = lambda: None,
        reach: Reach | None = None,
    ) -> None:
        self._shard_specs, self._shapes, self._tensors = shard_specs, shapes, tensors
        self._optim, self._inner = optim, inner
        self._flat, self._sizes = flat, None
        several = groups.data_context.size() > 1
        self._groups, self._sharded, self._sharded_weights = groups, sharded and several, sharded_weights and several
        self._scaler, self._refresh, self._reach = scaler, refresh, reach
        self._held: dict[Tensor, list[OptimizerShard]] = {}
        for fragment in fragments:
            self._held.setdefault(fragment.parameter, []).append(fragment)
        self._moments = self._moments_of_tensors()
        self._refuse_lost_moments()

    def parameter_states(self) -> Iterator[ParameterState]:
        self._fill()
        self._refuse_undeclared()
        for shard_spec, shape in zip(self._shard_specs, self._shapes, strict=True):
            yield ParameterState(shard_spec, self._joined(shard_spec, shape))
        self._release()
        yield from self._shared()

    def _joined(self, shard_spec: ShardSpec, shape: torch.Size) -> dict[str, Tensor]:
        names, held = self._names(shard_spec, shape), self._held.get(shard_spec.parameter, [])
        if not (self._sharded if shard_spec.parameter.requires_grad else self._sharded_weights):
            (whole,) = held
            return {name: self._view(whole, name).float().view(shape) for name in names}
        joined = torch.zeros(len(names), shape.numel(), device=self._groups.device.torch_device)
        for row, name in zip(joined, names, strict=True):
            for fragment in held:
                row[fragment.start : fragment.start + fragment.length] = self._view(fragment, name)
        # Each element is held once and zero elsewhere, so the sum is exact.
        dist.all_reduce(joined, group=self._groups.data_context)
        return {name: row.view(shape) for name, row in zip(names, joined, strict=True)}

    @torch.no_grad()
    def load(self, read: Callable[[ShardSpec, str], Tensor]) -> None:
        self._fill()
        for shard_spec, shape in zip(self._shard_specs, self._shapes, strict=True):
            held = [one for one in self._held.get(shard_spec.parameter, []) if one.length]
            for name in self._names(shard_spec, shape):
                for fragment in held:
                    self._view(fragment, name).copy_(_read_fragment(read, shard_spec, shape, name, fragment))
        for shard_spec, tensors in self._shared():
            for name, tensor in tensors.items():
                tensor.copy_(read(shard_spec, name))
        self._release()
        self._refresh()

    def own_values(self) -> list[Tensor]:
        self._fill()
        of_elements = [
            self._view(fragment, name)
            for shard_spec, shape in zip(self._shard_specs, self._shapes, strict=True)
            if shard_spec.parameter.requires_grad
            for name in self._names(shard_spec, shape)
            for fragment in self._held.get(shard_spec.parameter, [])
            if fragment.length
        ]
        return of_elements + [vector for _, tensors in self._shared() for vector in tensors.values()]

    def spread_weights(self) -> None:
        self._refresh()

    @contextmanager
    def measured_update(self) -> Iterator[dict[str, tuple[float, float]]]:
        found: dict[str, tuple[float, float]] = {}
        if self._reach is not None:  # they lie on NVMe
            yield found
            return
        if self._sizes is None:
            trained = [one for held in self._held.values() for one in held if one.parameter.requires_grad]
            device = self._groups.device.torch_device
            segment_map = self._flat.segment_map(trained, sharded=self._sharded, device=device)
            self._sizes = UpdateSizes(self._tensors, segment_map)
        before = self._sizes.copies()
        yield found
        found |= self._sizes.since(before)

    def scalars(self) -> dict[str, Any]:
        steps = [float(state["step"].max()) for state in self._inner.state.values() if "step" in state]
        # A rank whose fragments are empty counts no steps.
        most = torch.tensor(max(steps, default=0.0), dtype=torch.float64, device=self._groups.device.torch_device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._groups.world)
        return {"optimizer_steps": int(most)} | (self._scaler.state() if self._scaler is not None else {})

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        self._fill()
        for state in self._inner.state.values():
            if "step" in state and "optimizer_steps" in scalars:
                state["step"].fill_(float(scalars["optimizer_steps"]))
        if self._scaler is not None and scalars.get("loss_scale") is not None:
            self._scaler.load(scalars)

    def _names(self, shard_spec: ShardSpec, shape: torch.Size) -> tuple[str, ...]:
        if not shard_spec.parameter.requires_grad:
            return ("weight",)
        return "weight", *self._optim.element_moments(shard_spec.shards[0].name, tuple(shape))

    def _release(self) -> None:
        if self._reach is not None:
            self._reach.release()

    def _view(self, fragment: OptimizerShard, name: str) -> Tensor:
        if self._reach is not None and fragment.parameter.requires_grad:
            self._reach(fragment.tensor)
        state = self._inner.state[fragment.tensor] if name != "weight" else {"weight": fragment.tensor}
        if name not in state:
            raise self._differs(f"keeps no {name}, which the section's moments have: checkpoints would lack it")
        return state[name].detach().view(-1)[fragment.offset : fragment.offset + fragment.length]

    def _shared(self) -> Iterator[ParameterState]:
        """Moments that are logical vectors of their own, which each rank with a part of the tensor holds whole."""
        for slot, shard_spec, shard in self._slots():
            for name, vector in self._shared_of(slot).items():
                yield ParameterState(_vector(shard.name, vector, copy=shard_spec.copy), {name: vector})

    def _slots(self) -> Iterator[tuple[int, ShardSpec, Shard]]:
        """Lists the logical tensors that are trained, with their numbers among all."""
        slots = ((shard_spec, shard) for shard_spec in self._shard_specs for shard in shard_spec.shards)
        for slot, (shard_spec, shard) in enumerate(slots):
            if shard_spec.parameter.requires_grad:
                yield slot, shard_spec, shard

    def _shared_of(self, slot: int) -> dict[str, Tensor]:
        return self._inner.shared_moments(slot) if isinstance(self._inner, WholeTensorOptimizer) else {}

    def _fill(self) -> None:
        """Before the first step there is a state to save and to load into as well."""
        every = tuple(dict.fromkeys(name for names in self._moments.values() for name in names))

        def moments(tensor: Tensor) -> tuple[str, ...]:
            # One that is made of nothing, as where a stage trains nothing, is updated like any vector.
            return self._moments.get(tensor, every) or self._optim.element_moments("", (tensor.numel(),))

        fill_state(self._inner, self._optim, self._tensors, moments)

    def _moments_of_tensors(self) -> dict[Tensor, tuple[str, ...]]:
        """Names the moments of the elements of each tensor that the optimizer updates: those of all that it is made of."""
        found: dict[Tensor, dict[str, None]] = {}
        for shard_spec, shape in zip(self._shard_specs, self._shapes, strict=True):
            _, *names = self._names(shard_spec, shape)
            for fragment in self._held.get(shard_spec.parameter, []):
                if fragment.length and shard_spec.parameter.requires_grad:
                    found.setdefault(fragment.tensor, {}).update(dict.fromkeys(names))
        return {tensor: tuple(names) for tensor, names in found.items()}

    def _refuse_lost_moments(self) -> None:
        """Raises ConfigError for a moment that the section declares and that no checkpoint would have."""
        of_elements = {
            shard_spec.parameter: set(self._names(shard_spec, shape))
            for shard_spec, shape in zip(self._shard_specs, self._shapes, strict=True)
        }
        shared = [
            (slot, shard, names)
            for slot, shard_spec, shard in self._slots()
            if (names := set(self._optim.moments(shard.name, shard.shape)) - of_elements[shard_spec.parameter])
        ]
        if shared:
            self._fill()
        for slot, shard, names in shared:
            if lost := sorted(names.difference(self._shared_of(slot))):
                raise self._differs(
                    f"gives no {lost[0]} of {shard.name}, which the section's moments have and which is no number an element: "
                    "have its shared_moments give it"
                )

    def _refuse_undeclared(self) -> None:
        """Raises ConfigError for a moment that the optimizer keeps of its own, which no checkpoint would have."""
        for tensor, names in self._moments.items():
            for name, kept in self._inner.state[tensor].items():
                is_moment = isinstance(kept, Tensor) and kept.numel() > 1 and name != "step"
                if is_moment and name not in names:
                    raise self._differs(f"keeps {name}, which the section's moments lack: checkpoints would lose it")

    def _differs(self, how: str) -> ConfigError:
        optim, section = self._optim, type(self._optim)
        told = (
            f"optim.name = {optim.name!r}: {place_of(optim.body_module)} {how}; the section is {section.__name__} in "
        )
        return ConfigError([f"{told}{place_of(section.__module__)}, docs/extend.md says how"])


class Stateful:
    """The part of an engine that saves and loads what `_state` holds; see engines.base.Engine."""

    _state: EngineState

    def parameter_states(self) -> Iterator[ParameterState]:
        return self._state.parameter_states()

    def load_parameter_states(self, read: Callable[[ShardSpec, str], Tensor]) -> None:
        self._state.load(read)

    def own_values(self) -> list[Tensor]:
        return self._state.own_values()

    def spread_weights(self) -> None:
        self._state.spread_weights()

    def measured_update(self) -> AbstractContextManager[dict[str, tuple[float, float]]]:
        return self._state.measured_update()

    def scalars(self) -> dict[str, Any]:
        return self._state.scalars()

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        self._state.load_scalars(scalars)


def _read_fragment(
    read: Callable[[ShardSpec, str], Tensor],
    shard_spec: ShardSpec,
    shape: torch.Size,
    name: str,
    fragment: OptimizerShard,
) -> Tensor:
    """Reads the rows of a parameter that a fragment lies in, and gives its elements."""
    row, stop = shape[1:].numel(), fragment.start + fragment.length
    first = fragment.start // row
    values = read(shard_spec.rows(first, -(-stop // row)), name).reshape(-1)
    return values[fragment.start - first * row : stop - first * row]


def _vector(name: str, values: Tensor, *, copy: bool) -> ShardSpec:
    """The shard spec of a logical vector that every tensor rank holds whole."""
    size = (values.numel(),)
    stand_in = nn.Parameter(torch.empty(size, device="meta"), requires_grad=False)
    return ShardSpec(stand_in, (Shard(name, size, (0,), (0,), size),), None, copy)
