"""Says which boxes of the logical tensors a rank writes, and which of the ranks that hold the same values does it.

Names in a checkpoint are `model.<canonical name>` for weights and `optimizer.<state>.<canonical name>` for each tensor of
the optimizer; values are fp32, so that neither precision nor engine nor process grid shows.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dist_plm.checkpoint.io.host_memory import HostMemory
from dist_plm.models.sharding import Shard, ShardSpec

if TYPE_CHECKING:  # Megatron-core is two thirds of what looking into a checkpoint would import
    from dist_plm.distributed.groups import Groups

#: Boxes are cut along dim 0 to at most this size: it balances the writers, and bounds what a reader loads for a small box.
FRAGMENT_BYTES = 32 * 2**20
_ITEM_BYTES = 4  # fp32


class Fragment(NamedTuple):
    """A box of the logical tensor `name` of shape `shape`, beginning at `start`; `values` lie in host memory."""

    name: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    values: Tensor


@dataclass(frozen=True, slots=True)
class ReplicaRank:
    """Where a rank stands among those that hold the same values: `replica` counts data and context ranks."""

    tensor: int
    tensor_size: int
    replica: int
    replicas: int

    @classmethod
    def of(cls, groups: "Groups") -> "ReplicaRank":
        at, grid = groups.coordinates, groups.grid
        return cls(at.tensor, grid.tensor, at.context + grid.context * at.data, grid.context * grid.data)


def checkpoint_name(state: str, canonical: str) -> str:
    """The name under which a checkpoint keeps `state` ("weight", "exp_avg", …) of the logical tensor `canonical`."""
    return f"model.{canonical}" if state == "weight" else f"optimizer.{state}.{canonical}"


def whole(name: str, shape: tuple[int, ...]) -> Shard:
    """A logical tensor as one shard."""
    zeros = (0,) * len(shape)
    return Shard(name, shape, zeros, zeros, shape)


def cut(shard: Shard, limit_bytes: int = FRAGMENT_BYTES) -> Iterator[Shard]:
    """The shard in boxes of whole rows, each of at most `limit_bytes` or one row. None where it is empty."""
    if shard.numel == 0:
        return
    rows = shard.size[0]
    rows_a_box = max(1, limit_bytes // (shard.numel // rows * _ITEM_BYTES))
    for first in range(0, rows, rows_a_box):
        yield replace(
            shard,
            start=(shard.start[0] + first, *shard.start[1:]),
            local_start=(shard.local_start[0] + first, *shard.local_start[1:]),
            size=(min(rows_a_box, rows - first), *shard.size[1:]),
        )


class Dealer:
    """Deals boxes, or files, to `count` ranks that all see the same in the same order: each goes to the least loaded one."""

    def __init__(self, count: int) -> None:
        self._loads = [(0, rank) for rank in range(count)]

    def take(self, size: int) -> int:
        load, rank = self._loads[0]
        heapq.heapreplace(self._loads, (load + size, rank))
        return rank


class HostCopies:
    """Copies of a rank's boxes in host memory, page-locked for CUDA, which is kept for the next copy."""

    def __init__(self) -> None:
        self.memory = HostMemory()
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    @torch.no_grad()
    def take(self, states: Iterable[tuple[ShardSpec, dict[str, Tensor]]], place: ReplicaRank) -> list[Fragment]:
        """Copies the part of `states` that this rank writes, going through all of them. Each value of the model is
        written by one rank: tied copies by none, what tensor ranks hold whole by one of them."""
        split, whole = Dealer(place.replicas), Dealer(place.replicas * place.tensor_size)
        fragments: list[Fragment] = []
        on_device, failure = False, None
        for shard_spec, tensors in states:
            if shard_spec.copy:
                continue
            writers = whole if shard_spec.split_dim is None else split
            me = place.replica if shard_spec.split_dim is not None else place.replica * place.tensor_size + place.tensor
            for state, tensor in tensors.items():
                for box in (box for shard in shard_spec.shards for box in cut(shard)):
                    # A tensor rank that holds more padding than others has less to write, but all of its data ranks agree.
                    if writers.take(box.numel) != me:
                        continue
                    on_device |= tensor.is_cuda
                    try:
                        fragments.append(self._copy(checkpoint_name(state, box.name), box, box.local(tensor)))
                    except (OSError, MemoryError) as error:  # other ranks go through `states` with this one
                        failure = error
        if on_device:
            torch.cuda.synchronize()
        if failure is not None:
            raise failure
        return fragments

    def _copy(self, name: str, box: Shard, source: Tensor) -> Fragment:
        key = (name, box.start)
        if key not in self._buffers:
            self._buffers[key] = self.memory.take(box.size, pinned=source.is_cuda)
        buffer = self._buffers[key]
        buffer.copy_(source, non_blocking=True)
        return Fragment(name, box.shape, box.start, buffer)


def names_held(shard_specs: Sequence[ShardSpec], states: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The checkpoint's tensors that these shard specs hold a part of, and their shapes."""
    return {
        checkpoint_name(state, shard.name): shard.shape
        for state in states
        for shard_spec in shard_specs
        for shard in shard_spec.shards
    }
