"""Keeps copies of a run's state in host memory, so that it goes back by few steps, and without reading files.

A rank copies what its own optimizer holds, as it lies, as a run goes back on the grid that it is on. A run that goes on from
a checkpoint has no copy until the next one is due; until then it goes back to the checkpoint.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor

from dist_plm.checkpoint.finite import are_finite
from dist_plm.checkpoint.io.host_memory import HostMemory
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import described
from dist_plm.engines.base import Engine
from dist_plm.spec.derived import is_due

log = logging.getLogger(__name__)

#: The newer one may have been made of a bad step's weights, or of those of the steps that led to it.
_KEPT = 2
_ITEM_BYTES = 4  # of the fp32 that HostMemory gives


class _Copy(NamedTuple):
    train_state: TrainState
    values: list[Tensor]


class _Problem(NamedTuple):
    """Says what keeps a rank from making a copy: numbers that are not finite, or `failure`, having no memory for it."""

    is_broken: bool
    failure: str | None


class MemoryCopies:
    """Holds the last two copies of a run's state.

    Args:
        every: so many steps one is made; 0: never.
        of_all: gives what each rank tells, by rank. Collective.
    """

    def __init__(self, engine: Engine, every: int, of_all: Callable[[_Problem], list[_Problem]]) -> None:
        self._engine, self._every, self._of_all = engine, every, of_all
        self._memory = HostMemory()
        self._copies: list[_Copy] = []
        self._spare: list[list[Tensor]] = []

    def is_due(self, step: int) -> bool:
        """Tells whether a copy is made after a step."""
        return is_due(step, self._every)

    def take(self, train_state: TrainState) -> None:
        """Copies the engine's state in place of the oldest copy; not where any rank holds numbers that are not finite. Once one
        has no memory for it, none is made, and none kept. Collective."""
        values = self._engine.own_values()
        told = self._of_all(_Problem(not are_finite(values), self._make_room(values)))
        if failures := [f"rank {rank}: {one.failure}" for rank, one in enumerate(told) if one.failure is not None]:
            self._every, self._copies, self._spare, self._memory = 0, [], [], HostMemory()  # gives back what there was
            log.warning("no memory for copies of the run's state, only checkpoints are gone back to: %s", failures[0])
        elif broken := [rank for rank, one in enumerate(told) if one.is_broken]:
            log.warning("step %d is not copied: rank %d has numbers that are not finite", train_state.step, broken[0])
        else:
            room = self._spare.pop() if self._spare else self._copies.pop(0).values
            _copy(values, room)
            self._copies.append(_Copy(deepcopy(train_state), room))

    def _make_room(self, values: Sequence[Tensor]) -> str | None:
        """Says why there is none."""
        if self._spare or len(self._copies) == _KEPT:
            return None
        try:
            self._spare.append([_room_for(self._memory, one) for one in values])
        except (OSError, MemoryError) as error:
            return described(error)
        return None

    def newest(self, first: int, before: int) -> int | None:
        """Gives the newest step from `first` to before `before` that there is a copy of."""
        steps = (copy.train_state.step for copy in self._copies)
        return max((step for step in steps if first <= step < before), default=None)

    def restore(self, step: int) -> TrainState:
        """Puts the engine into the state that it had after a step, of which there is a copy. Collective."""
        (copy,) = (copy for copy in self._copies if copy.train_state.step == step)
        _copy(copy.values, self._engine.own_values())
        self._engine.load_scalars(copy.train_state.engine)
        self._engine.spread_weights()
        log.info("went back to the copy in memory of step %d", step)
        return deepcopy(copy.train_state)

    def forget(self, after: int) -> None:
        """Drops copies of steps that the run has gone back from."""
        self._spare += [copy.values for copy in self._copies if copy.train_state.step > after]
        self._copies = [copy for copy in self._copies if copy.train_state.step <= after]


def _room_for(memory: HostMemory, values: Tensor) -> Tensor:
    room = memory.take((-(-values.nbytes // _ITEM_BYTES),), pinned=values.is_cuda)
    return room.view(values.dtype)[: values.numel()].view(values.shape)


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)
    if any(one.is_cuda for one in (*sources, *targets)):
        torch.cuda.synchronize()
