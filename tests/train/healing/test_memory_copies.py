"""Copies of a run's state in memory: which are kept, and what they put an engine back into."""

from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from dist_plm.checkpoint.io.host_memory import HostMemory
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.distributed.collectives import gather
from dist_plm.train.healing.memory_copies import MemoryCopies
from tests.parts import engine_of, model_of
from tests.ranks.pool import World
from tests.ranks.training import configure, groups_of, learning_rates, losses_of, rank_batches

pytestmark = pytest.mark.ranks


def without_memory(*_, **__):
    raise MemoryError


def mapped_bytes() -> int:
    """Of this process, by all HostMemory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "memfd:checkpoint" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def copies_case(world: World, config) -> list:
    """What there is on this rank as one thing after another happens, with the optimizer's steps that it counts then."""
    groups = groups_of(world, config)
    model, _ = model_of(config, groups, groups.device.torch_device)
    engine = engine_of(config, groups, groups.device.torch_device, model, losses_of(config))
    copies = MemoryCopies(engine, 1, partial(gather, groups.world))
    seen, last = [], groups.rank == groups.grid.size - 1

    def look(what: str) -> None:
        there = [step for step in range(9) if copies.newest(step, step + 1) is not None]
        seen.append((what, there, engine.scalars()["optimizer_steps"], copies.is_due(1)))

    def go(step: int) -> None:
        engine.train_step(rank_batches(config, groups, step), learning_rates(config)[step])
        copies.take(TrainState(step=step, samples_seen=8 * step, engine=engine.scalars(), stream={}))

    for step in (1, 2, 3):
        go(step)
    look("two are kept")
    wanted = [values.clone() for values in engine.own_values()]
    if last:
        engine.own_values()[0][:1] = float("nan")
    copies.take(TrainState(step=4, samples_seen=32, engine=engine.scalars(), stream={}))
    look("none with numbers that are not finite on one rank")
    copies.restore(2)
    copies.forget(2)
    look("gone back")
    go(3)
    assert all(map(torch.equal, engine.own_values(), wanted)), "the same step again"
    look("on from there")
    copies.forget(0)
    look("none from before")
    for held in (0, 1):
        before, full = mapped_bytes(), MemoryCopies(engine, 1, partial(gather, groups.world))
        for step in range(held):
            full.take(TrainState(step=step, samples_seen=8, engine=engine.scalars(), stream={}))
        with patch.object(HostMemory, "take", without_memory if last else HostMemory.take):
            full.take(TrainState(step=4, samples_seen=32, engine=engine.scalars(), stream={}))
        assert (full.newest(0, 9), full.is_due(5)) == (None, False), "one rank had no memory for it"
        assert mapped_bytes() == before, "no rank keeps what is of no use any more"
    return seen


def test_which_copies_are_kept(ranks):
    outcomes = ranks.run(2, copies_case, configure(2))
    assert outcomes == 2 * [
        [
            ("two are kept", [2, 3], 3, True),
            ("none with numbers that are not finite on one rank", [2, 3], 3, True),
            ("gone back", [2], 2, True),
            ("on from there", [2, 3], 3, True),
            ("none from before", [], 3, True),
        ]
    ]


def test_nothing_is_copied_by_default():
    assert not any(MemoryCopies(None, 0, lambda one: [one]).is_due(step) for step in range(9))
