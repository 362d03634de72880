"""Runs work on one rank, or on each, and lets all ranks of a group learn its outcome.

A group of None stands for a process that is alone.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.core.errors import CheckpointError, described

T = TypeVar("T")

#: Around so few a ring is as fast.
_RING_RANKS = 8


def all_reduce(values: Tensor, group: dist.ProcessGroup, op: Any = dist.ReduceOp.SUM) -> None:
    """Reduces values in place over a group; a rank alone in it has them already. Collective."""
    if group.size() > 1:
        dist.all_reduce(values, op=op, group=group)


def most_of_all(values: Tensor, group: dist.ProcessGroup) -> None:
    """Takes the largest of each value over a group on gloo, in place. Collective.

    Gloo hands values on around a ring: twice as many messages, one after the other, as there are ranks. Of a few values that
    wait is all there is, so over many ranks pairs exchange them, then pairs of pairs: log2 as many (recursive doubling; Thakur
    et al. 2005, "Optimization of Collective Communication Operations in MPICH").
    """
    size, rank = group.size(), group.rank()
    if size <= _RING_RANKS:
        all_reduce(values, group, dist.ReduceOp.MAX)
        return
    paired = 1 << (size.bit_length() - 1)
    if rank >= paired:  # one of those that are too many tells its partner, and is told at the end
        dist.send(values, group=group, group_dst=rank - paired)
        dist.recv(values, group=group, group_src=rank - paired)
        return
    others = torch.empty_like(values)
    if rank + paired < size:
        dist.recv(others, group=group, group_src=rank + paired)
        torch.maximum(values, others, out=values)
    distance = 1
    while distance < paired:
        sending = dist.isend(values, group=group, group_dst=rank ^ distance)
        dist.recv(others, group=group, group_src=rank ^ distance)
        assert sending is not None
        sending.wait()
        torch.maximum(values, others, out=values)
        distance *= 2
    if rank + paired < size:
        dist.send(values, group=group, group_dst=rank + paired)


def on_first(group: dist.ProcessGroup | None, work: Callable[[], T]) -> T:
    """Returns on every rank what `work` returns on the group's first rank. Collective.

    Raises:
        CheckpointError: on every rank, where `work` failed.
    """
    outcome: list[Any] = [None, None]
    if group is None or group.rank() == 0:
        try:
            outcome[0] = work()
        except CheckpointError as error:
            outcome[1] = (error.reason, error.remedy)
        except Exception as error:  # what storage of other makers raises is not known; the other ranks wait for it
            outcome[1] = (described(error), None)
    if group is not None:
        dist.broadcast_object_list(outcome, group=group, group_src=0)
    if outcome[1] is not None:
        reason, remedy = outcome[1]
        raise CheckpointError(reason, remedy)
    return outcome[0]


def on_each(group: dist.ProcessGroup, work: Callable[[], T]) -> T:
    """Returns what `work` returns on this rank, once all have done it. Collective.

    Raises:
        CheckpointError: on every rank, where `work` failed on any.
    """
    result, error = None, None
    try:
        result = work()
    except Exception as failure:
        error = f"rank {group.rank()}: {described(failure)}"
    if failed := [one for one in gather(group, error) if one is not None]:
        raise CheckpointError("; ".join(failed))
    return cast(T, result)


def gather(group: dist.ProcessGroup | None, value: T) -> list[T]:
    """Every rank's value, on every rank, in the order of ranks. Collective."""
    if group is None:
        return [value]
    values: list[Any] = [None] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values
