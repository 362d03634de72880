"""Gives a matrix or bias over a vocabulary the rows of tokens that the weights at hand do not have."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from dist_plm.models.sharding import Shard, ShardSpec

ShardReader = Callable[[ShardSpec], Tensor]
#: Rows that are held at a time while their mean is taken.
_ROWS = 2**14


class GrownRows:
    """Reads weights, of which some have fewer rows than the model.

    Args:
        read: of the weights, fp32 values shaped like a shard_spec's parameter, 0 where it is padding.
        shapes: of their tensors, by canonical name.
        grown: names of those that have fewer rows.
        fresh: gives the values with which a new run begins; None: new rows are the mean of the others.
    """

    def __init__(
        self, read: ShardReader, shapes: Mapping[str, tuple[int, ...]], grown: frozenset[str], fresh: ShardReader | None
    ) -> None:
        self._weights, self._shapes, self._grown, self._fresh = read, shapes, grown, fresh
        self._means: dict[str, Tensor] = {}

    def read(self, shard_spec: ShardSpec) -> Tensor:
        """Gives fp32 values shaped like shard_spec.parameter, the same whatever the grid."""
        if self._grown.isdisjoint(shard.name for shard in shard_spec.shards):
            return self._weights(shard_spec)
        (shard,) = shard_spec.shards
        known = self._shapes[shard.name]
        first, size = shard.start[0], shard.size[0]
        held = min(max(known[0] - first, 0), size)
        old = replace(shard, shape=known, start=(min(first, known[0]), *shard.start[1:]), size=(held, *shard.size[1:]))
        values = self._weights(replace(shard_spec, shards=(old,)))
        new = shard.local(values)[held:]
        if len(new) and self._fresh is not None:
            new.copy_(shard.local(self._fresh(shard_spec))[held:])
        elif len(new):
            columns = tuple(slice(a, a + n) for a, n in zip(shard.start[1:], shard.size[1:], strict=True))
            new.copy_(self._mean(shard.name)[columns].expand_as(new))
        return values

    def _mean(self, name: str) -> Tensor:
        """Averages the rows that there are, in fp64."""
        if name not in self._means:
            count, *rest = self._shapes[name]
            total = torch.zeros(rest, dtype=torch.float64)
            for first in range(0, count, _ROWS):
                total += (
                    self._weights(_rows(name, self._shapes[name], first, min(first + _ROWS, count))).double().sum(0)
                )
            self._means[name] = (total / count).float()
        return self._means[name]


def _rows(name: str, shape: tuple[int, ...], first: int, stop: int) -> ShardSpec:
    """Describes some whole rows of a tensor."""
    size, zeros = (stop - first, *shape[1:]), (0,) * len(shape)
    parameter = nn.Parameter(torch.empty(size, device="meta"), requires_grad=False)
    return ShardSpec(parameter, (Shard(name, shape, (first, *zeros[1:]), zeros, size),), None, copy=False)
