"""Rehearses the chosen ranks of a job, several at a time, and compares what they said."""

import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dist_plm.checkpoint.fragments import checkpoint_name
from dist_plm.core.errors import UserError
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import grid_of
from dist_plm.distributed.groups import build_groups
from dist_plm.plan.rehearsal.disagreements import disagreements
from dist_plm.plan.rehearsal.fake_world import fake_world
from dist_plm.plan.rehearsal.rank_rehearsal import TIMEOUT, RankRehearsal, rehearse_rank
from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.schema import TrainingConfig

#: The largest job whose groups are made to see how long that takes.
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Holds what was seen of a job.

    Args:
        ranks: those that were rehearsed, by number.
        problems: what real ranks would die or hang of, one a sentence.
        growth: seconds that making a rank's groups takes, by the number of ranks.
        seconds: that the rehearsal took, in `processes` processes.
    """

    config: TrainingConfig
    world_size: int
    ranks: Mapping[int, RankRehearsal]
    problems: Sequence[str]
    growth: Mapping[int, float]
    seconds: float
    processes: int


def rehearse(config: TrainingConfig, world_size: int, ranks: Sequence[int]) -> Rehearsal:
    """Rehearses ranks of a finalised run whose vocabulary is known.

    Raises:
        NotRehearsedError: it asks for what this machine lacks, or depends on numbers of other ranks.
        UserError: it cannot be begun, as data cannot be used.
    """
    began = time.perf_counter()
    processes = min(len(os.sched_getaffinity(0)), len(ranks))
    tasks = [(config, rank, world_size) for rank in ranks]
    with multiprocessing.get_context("fork").Pool(processes, _prepare, maxtasksperchild=4) as pool:
        found: dict[int, RankRehearsal] = {}
        for outcome in pool.imap_unordered(_rehearse, tasks, chunksize=1):
            if isinstance(outcome, UserError):
                raise outcome
            found[outcome.rank] = outcome
        growth = dict(pool.map(_time_groups, _sizes(config, world_size), chunksize=1))
    rehearsed = {rank: found[rank] for rank in ranks}
    seconds = time.perf_counter() - began
    return Rehearsal(
        config, world_size, rehearsed, problems_of(config, rehearsed, world_size), growth, seconds, processes
    )


def problems_of(config: TrainingConfig, ranks: Mapping[int, RankRehearsal], world_size: int) -> list[str]:
    """Finds what real ranks would die or hang of, and what a checkpoint would lack."""
    failures = [f"rank {rank} fails in {one.failure}" for rank, one in ranks.items() if one.failure is not None]
    # A rank that failed says no more: what it lacks would be told of all others.
    if failures:
        return failures
    return [
        *disagreements({rank: one.ledger for rank, one in ranks.items()}),
        *_save_problems(config, ranks, world_size),
    ]


def _save_problems(config: TrainingConfig, ranks: Mapping[int, RankRehearsal], world_size: int) -> Iterator[str]:
    """Each element of a checkpoint is written by one rank; whether all are, only all ranks can tell."""
    writers: dict[Any, int] = {}
    left = {checkpoint_name("weight", one.name): math.prod(one.shape) for one in tensors_of(config.model)}
    for rank, one in ranks.items():
        for (name, start), (numel, whole) in one.boxes.items():
            if (other := writers.setdefault((name, start), rank)) != rank:
                yield f"ranks {other} and {rank} both save {name} from element {list(start)} on"
            left[name] = left.get(name, whole) - numel
    if len(ranks) == world_size and (missing := [name for name, count in left.items() if count != 0]):
        yield f"a checkpoint would not hold all of {', '.join(missing)}: ranks save other parts than there are"


def _prepare() -> None:
    torch.set_num_threads(1)
    choose("cpu", 0)


def _rehearse(task: tuple[TrainingConfig, int, int]) -> RankRehearsal | UserError:
    try:
        return rehearse_rank(*task)
    except UserError as error:
        return error


def _sizes(config: TrainingConfig, world_size: int) -> list[tuple[TrainingConfig, int]]:
    """The job, and those with two and four times as many data ranks and so on."""
    data, sizes = config.parallel.data or 1, []
    for factor in (1, 2, 4, 8, 16):
        if factor == 1 or world_size * factor <= _LARGEST:
            parallel = replace(config.parallel, data=data * factor)
            sizes.append((replace(config, parallel=parallel), world_size * factor))
    return sizes


def _time_groups(task: tuple[TrainingConfig, int]) -> tuple[int, float]:
    config, world_size = task
    with fake_world(0, world_size):
        began = time.perf_counter()
        virtual = config.parallel.virtual_pipeline
        build_groups(grid_of(config.parallel), choose("cpu", 0), virtual_pipeline=virtual, timeout=TIMEOUT)
        return world_size, time.perf_counter() - began
