"""Saves and opens checkpoints of the tiny model on the ranks of a test case."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dist_plm.checkpoint.fragments import ReplicaRank
from dist_plm.checkpoint.io import blobs
from dist_plm.checkpoint.io.async_writer import WriterProcess
from dist_plm.checkpoint.open_checkpoint import find
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.engines.base import Engine
from dist_plm.models.sharding import ShardSpec
from dist_plm.spec.schema import PretrainConfig
from tests.parts import engine_of as engine_over
from tests.parts import model_of
from tests.ranks.pool import World
from tests.ranks.times import LONG
from tests.ranks.training import grid_of, learning_rates, losses_of, rank_batches


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one rank: the losses of the steps it made, and its pieces of each state: name -> (start, shape, values)."""

    losses: list[float]
    states: dict[str, list[tuple[tuple[int, ...], tuple[int, ...], Tensor]]]


def engine_of(world: World, config: PretrainConfig) -> tuple[Groups, Engine, list[ShardSpec]]:
    groups = build_groups(
        grid_of(config), world.device, virtual_pipeline=config.parallel.virtual_pipeline, timeout=LONG
    )
    model, shard_specs = model_of(config, groups, world.device.torch_device)
    losses = losses_of(config)
    return groups, engine_over(config, groups, world.device.torch_device, model, losses), shard_specs


def writer_for(directory: Path, groups: Groups, **changes: Any) -> CheckpointWriter:
    settings: dict[str, Any] = {
        "group": groups.world,
        "retention": Retention(latest=9),
        "background": False,
        "on_failure": "stop",
        **changes,
    }
    return CheckpointWriter(LocalStorage(directory), place=ReplicaRank.of(groups), **settings)


def train_state_of(step: int, engine: Engine, **changes: Any) -> TrainState:
    return TrainState(**{"step": step, "samples_seen": 8 * step, "engine": engine.scalars(), "stream": {}, **changes})


def steps(engine: Engine, config: PretrainConfig, groups: Groups, first: int, last: int) -> list[float]:
    rates = learning_rates(config)
    return [engine.train_step(rank_batches(config, groups, s), rates[s]).loss for s in range(first, last)]


def pieces(engine: Engine) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...], Tensor]]]:
    held: dict[str, list] = {}
    for shard_spec, tensors in engine.parameter_states():
        for state, tensor in tensors.items():
            for shard in shard_spec.shards:
                held.setdefault(f"{state} {shard.name}", []).append(
                    (shard.start, shard.shape, shard.local(tensor).clone())
                )
    return held


def save_case(world: World, config: PretrainConfig, directory: Path, at: int) -> Outcome:
    """Makes `at` steps, saves, and goes on to the end."""
    groups, engine, _ = engine_of(world, config)
    losses = steps(engine, config, groups, 0, at)
    writer_for(directory, groups).save(engine.parameter_states(), train_state_of(at, engine))
    held = pieces(engine)
    return Outcome(losses + steps(engine, config, groups, at, config.train.steps), held)


def load_case(world: World, config: PretrainConfig, directory: Path) -> Outcome:
    """Opens the newest checkpoint and goes on to the end."""
    groups, engine, shard_specs = engine_of(world, config)
    found = find("auto", LocalStorage(directory), groups.world)
    assert found is not None
    found.check_model(shard_specs, groups.world)
    engine.load_parameter_states(found.read)
    engine.load_scalars(found.train_state.engine)
    held = pieces(engine)
    return Outcome(steps(engine, config, groups, found.train_state.step, config.train.steps), held)


def bytes_read_case(world: World, config: PretrainConfig, directory: Path) -> tuple[int, int]:
    """Opens the newest checkpoint: the bytes of its tensors, and how many of them this rank reads."""
    groups, engine, _ = engine_of(world, config)
    found = find("auto", LocalStorage(directory), groups.world)
    assert found is not None
    held, original = [], blobs._fill

    def counted(values: Tensor, stream: IO[bytes]) -> None:
        held.append(values.nbytes)
        original(values, stream)

    blobs._fill = counted
    try:
        engine.load_parameter_states(found.read)
    finally:
        blobs._fill = original
    return sum(4 * tensor.size.numel() for tensor in found.tensors.tensors.values()), sum(held)


def whole_states(outcomes: list[Outcome]) -> dict[str, Tensor]:
    """The logical tensors from all ranks' pieces; what several ranks hold must be equal to the bit."""
    result: dict[str, Tensor] = {}
    for outcome in outcomes:
        for name, parts in outcome.states.items():
            for start, shape, values in parts:
                target = result.setdefault(name, torch.full(shape, torch.nan))
                box = target[tuple(slice(a, a + n) for a, n in zip(start, values.shape, strict=True))]
                held = ~box.isnan()
                assert torch.equal(box[held], values[held]), f"ranks disagree on {name}"
                box.copy_(values)
    assert not any(tensor.isnan().any() for tensor in result.values()), "a part of some tensor is held by no rank"
    return result


@contextlib.contextmanager
def killed_until_it_fails(process: WriterProcess) -> Iterator[None]:
    """Kills the process in the middle of what it writes in the block, which must not end by itself.

    Again and again: one that is killed before it was told to write is replaced by another, which writes.
    """
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.2):
            if (pid := process.pid) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        ended.set()
        killer.join()
