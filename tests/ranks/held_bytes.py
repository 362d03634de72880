"""Counts the bytes that a rank's engine has allocated for its parameters, while it trains a step."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dist_plm.distributed.groups import Groups
from tests.ranks.pool import World
from tests.ranks.training import build_on, groups_of, rank_batches

#: Where engines keep sums of gradients: on parameters, and on DeepSpeed's optimizers, by parameter group.
ON_PARAMETERS = ("grad", "main_grad", "grad_accum", "_hp_grad")
ON_OPTIMIZERS = ("averaged_gradients", "all_grad_tensors")
#: Elements to which Megatron-core's distributed optimizer lengthens parameters, and the ends of its buckets.
MEGATRON_PARAMETER, MEGATRON_BUCKET = 64, 128
#: Elements of each rank to which DeepSpeed lengthens the flat tensor of a parameter group.
DEEPSPEED_PARTITION = 2


@dataclass(frozen=True, slots=True)
class Held:
    """Holds the bytes of one rank.

    Args:
        allocated: for sums of gradients, as the update finds them.
        padded: what is to be allocated for these parameters by the engine's own rule of padding; None where gradients stay
            as backward passes made them.
        gradients: the same without padding.
        bucket: of the buffer that gradients go through.
    """

    stage: int
    weights: int
    masters: int
    moments: int
    gradients: int
    allocated: int
    padded: int | None
    bucket: int


@dataclass(slots=True)
class Watched:
    """Looks at an engine when its update begins, and whenever DeepSpeed gives its bucket back."""

    engine: Any
    allocated: int = 0
    buckets: set[int] = field(default_factory=lambda: {0})

    def __post_init__(self) -> None:
        theirs = getattr(self.engine, "_engine", None)
        if theirs is None:
            self.engine._update = self._before(self.engine._update, self._see_gradients)
            return
        theirs.step = self._before(theirs.step, self._see_gradients)
        if hasattr(theirs.optimizer, "_release_ipg_buffers"):
            release = theirs.optimizer._release_ipg_buffers
            theirs.optimizer._release_ipg_buffers = self._before(release, self._see_buckets)

    def _before(self, called, look):
        def both(*arguments, **options):
            look()
            return called(*arguments, **options)

        return both

    def _see_buckets(self) -> None:
        self.buckets.add(sum(one.untyped_storage().nbytes() for one in buckets_of(optimizer_of(self.engine))))

    def _see_gradients(self) -> None:
        self._see_buckets()
        apart = {storage(one) for one in buckets_of(optimizer_of(self.engine))}
        sizes = {storage(one): one.untyped_storage().nbytes() for one in gradients_of(self.engine)}
        self.allocated = sum(size for place, size in sizes.items() if place not in apart)


def hold_case(world: World, config) -> Held:
    """Runs on every rank of a case of the pool."""
    return hold(groups_of(world, config), config)


def hold_cases(world: World, configs: list) -> list[Held]:
    """Runs many configurations of the same grid, one after the other, in the same groups."""
    groups = groups_of(world, configs[0])
    return [hold(groups, config) for config in configs]


def hold(groups: Groups, config) -> Held:
    """Trains a step, and counts."""
    engine = build_on(groups, config)
    watched = Watched(engine)
    engine.train_step(rank_batches(config, groups, 0), 1e-3)
    state: Any = engine._state
    state._fill()
    shard_specs = state._shard_specs
    weights = sum(weight_of(one.parameter).numel() for one in shard_specs)
    fragments = [one for held in state._held.values() for one in held]
    masters = sum(4 * one.length for one in fragments if storage(one.tensor) != storage(weight_of(one.parameter)))
    moments = 0
    for one in fragments:
        kept = state._inner.state[one.tensor]
        names = [name for name, values in kept.items() if name != "step" and values.numel() == one.tensor.numel()]
        moments += sum(one.length * kept[name].element_size() for name in names)
    if hasattr(state._inner, "shared_moments"):
        count = sum(len(one.shards) for one in shard_specs)
        moments += sum(4 * v.numel() for slot in range(count) for v in state._inner.shared_moments(slot).values())
    holding = config.engine.holding(config.precision, config.parallel.data)
    trained = [one for one in shard_specs if one.parameter.requires_grad]
    if holding.gradients_over > 1:
        elements = sum(one.length for one in fragments if one.parameter.requires_grad)
    else:
        elements = sum(math.prod(one.shape) for one in trained)
    padded = None if holding.whole_gradients else holding.gradients * padded_elements(engine, trained, holding)
    return Held(
        stage=groups.coordinates.pipeline,
        weights=weights * shard_specs[0].parameter.element_size(),
        masters=masters,
        moments=moments,
        gradients=elements * holding.gradients,
        allocated=watched.allocated,
        padded=padded,
        bucket=max(watched.buckets),
    )


def weight_of(parameter: Tensor) -> Tensor:
    """What a rank keeps of a weight between passes; under ZeRO-3 its share."""
    return getattr(parameter, "ds_tensor", parameter)


def storage(tensor: Tensor) -> int:
    """Tells where a tensor's memory is."""
    return tensor.untyped_storage().data_ptr()


def optimizer_of(engine: Any) -> Any:
    """The engine's own wrapper of the optimizer."""
    return engine._optimizer if hasattr(engine, "_optimizer") else engine._engine.optimizer


def gradients_of(engine: Any) -> Iterator[Tensor]:
    """Yields every tensor that holds a part of a sum of gradients."""
    for chunk in engine._chunks:
        for parameter in chunk.parameters():
            found = (getattr(parameter, name, None) for name in ON_PARAMETERS)
            yield from (one for one in found if isinstance(one, Tensor) and one.numel())
    optimizer = optimizer_of(engine)
    for name in ON_OPTIMIZERS:
        yield from (one for group in (getattr(optimizer, name, None) or {}).values() for one in group or ())
    flat = getattr(optimizer, "grad_partitions_flat_buffer", None)
    yield from () if flat is None else (flat,)


def buckets_of(optimizer: Any) -> Iterator[Tensor]:
    """Yields the buffers of DeepSpeed that gradients go through."""
    for bucket in getattr(optimizer, "ipg_buckets", {}).values():
        yield from [bucket.buffer] if isinstance(bucket.buffer, Tensor) else bucket.buffer or ()


def padded_elements(engine: Any, trained: list, holding) -> int:
    """Counts elements with the padding that each engine says it adds, from the parameters as they are on this rank."""
    data = engine._groups.data_context.size()
    sizes = {one.parameter: math.prod(one.shape) for one in trained}
    theirs = getattr(engine, "_engine", None)
    if theirs is None:
        if holding.masters_over == 1:
            return sum(sizes.values())
        held = [bucket for chunk in engine._chunks for buffer in chunk.buffers for bucket in buffer.buckets]
        end = math.lcm(data, MEGATRON_BUCKET)
        return sum(up(sum(up(sizes[one], MEGATRON_PARAMETER) for one in bucket.params), end) for bucket in held)
    optimizer = theirs.optimizer
    if hasattr(optimizer, "grad_partitions_flat_buffer"):
        return sum(up(size, data) // data for size in sizes.values())
    if hasattr(optimizer, "bf16_groups"):
        return grouped(optimizer.bf16_groups, data)
    return grouped(optimizer.bit16_groups, data) // data if holding.gradients_over > 1 else sum(sizes.values())


def grouped(groups: Iterable[Iterable[Tensor]], data: int) -> int:
    """Counts the elements of parameter groups, each padded so that all ranks have as many."""
    return sum(up(sum(one.numel() for one in group), DEEPSPEED_PARTITION * data) for group in groups)


def up(count: int, multiple: int) -> int:
    """Rounds up."""
    return -(-count // multiple) * multiple
