"""Rank arithmetic of the process grid. Pure: neither torch nor a process group is needed.

Ranks are numbered with the tensor axis fastest, then context, then data, then pipeline: the order "tp-cp-ep-dp-pp" of
Megatron-core's `parallel_state`. Ranks of one tensor group, which talk most, are so neighbours on one node, and the
stages of a pipeline, which talk least, lie farthest apart::

    rank = tensor + T * (context + C * (data + D * pipeline))
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from dist_plm.spec.schema import ParallelConfig

Axis = Literal["tensor", "context", "data", "pipeline"]

#: Fastest first.
AXES: tuple[Axis, ...] = get_args(Axis)


class Coordinates(NamedTuple):
    """The place of a rank along each axis, each from 0."""

    tensor: int
    context: int
    data: int
    pipeline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The degree of each axis."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1

    def __post_init__(self) -> None:
        assert all(degree >= 1 for degree in self.shape), f"every degree is at least 1: {self}"

    @property
    def shape(self) -> Coordinates:
        """The degrees in the order of `AXES`."""
        return Coordinates(self.tensor, self.context, self.data, self.pipeline)

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.tensor * self.context * self.data * self.pipeline

    def coordinates(self, rank: int) -> Coordinates:
        """Where `rank` stands."""
        assert 0 <= rank < self.size, f"rank {rank} is not of {self}"
        place = []
        for degree in self.shape:
            rank, index = divmod(rank, degree)
            place.append(index)
        return Coordinates(*place)

    def rank_at(self, *, tensor: int = 0, context: int = 0, data: int = 0, pipeline: int = 0) -> int:
        """The rank that stands there; the inverse of `coordinates`."""
        place = Coordinates(tensor, context, data, pipeline)
        assert all(0 <= index < degree for index, degree in zip(place, self.shape, strict=True)), (
            f"{place} is not of {self}"
        )
        rank = 0
        for index, degree in zip(reversed(place), reversed(self.shape), strict=True):
            rank = rank * degree + index
        return rank

    def groups(self, axes: Axis | Collection[Axis]) -> list[tuple[int, ...]]:
        """Every group of ranks that differ along `axes` alone: each rank is in exactly one of them.

        Members are in ascending order, which is the order of their coordinates along `axes`, fastest axis first; groups
        are in the order of their first members. No axis at all gives every rank a group of its own.
        """
        along = {axes} if isinstance(axes, str) else set(axes)
        assert along <= set(AXES), f"unknown axes: {sorted(along - set(AXES))}"
        members: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.size):
            fixed = tuple(i for axis, i in zip(AXES, self.coordinates(rank), strict=True) if axis not in along)
            members.setdefault(fixed, []).append(rank)
        return [tuple(ranks) for ranks in members.values()]


def grid_of(parallel: ParallelConfig) -> Grid:
    """Gives the process grid of a finalised run."""
    assert parallel.data is not None
    return Grid(data=parallel.data, tensor=parallel.tensor, pipeline=parallel.pipeline, context=parallel.context)
