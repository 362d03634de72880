"""Whole runs on the ranks of the pool, over a small store: the training loop with everything a real run has."""

import contextlib
import itertools
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.config.decode import decode
from dist_plm.data.loader import microbatch_loader
from dist_plm.data.store.store import TokenStoreWriter
from dist_plm.distributed.world import leave
from dist_plm.engines.loss_terms import LossTerms
from dist_plm.engines.megatron.engine import MegatronEngine
from dist_plm.models import init
from dist_plm.spec.rules.finalize import finalize, num_microbatches
from dist_plm.spec.schema import PretrainConfig
from dist_plm.tasks.evaluate.in_training import more_measures
from dist_plm.train import build, stopping
from dist_plm.train.build import run_training
from dist_plm.train.prefetcher import Prefetcher
from tests.ranks.pool import World

SETTINGS: dict[str, Any] = {
    "run": {"name": "run"},
    "model": {"family": "gpt", "layers": 2, "hidden": 32, "heads": 2, "vocab_size": 97, "vocab_multiple": 8},
    "objective": {"name": "causal"},
    "data": {"path": "", "sequence_length": 16, "loader_workers": 0},
    "optim": {"name": "adamw", "lr": 1e-2},
    "schedule": {"name": "cosine", "warmup_steps": 2},
    "engine": {"name": "megatron", "zero_stage": 1},
    "precision": {"name": "fp32"},
    "train": {"steps": 12, "global_batch": 8, "micro_batch": 2, "eval_samples": 8},
    "checkpoint": {"every": 4},
    "cluster": {"device": "cpu", "peak_tflops": 0.1},
}
#: Small models take no longer on one, and on a busy machine two threads wait for each other longer than they compute.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
#: What a record holds of how long things took, by names and beginnings of names.
TIMES = ("tokens_per_second", "step_seconds", "mfu", "step_parts/", "slow/")


def timeless(record: Mapping[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock."""
    return {name: value for name, value in record.items() if not name.startswith(TIMES)}


def make_store(prefix: Path) -> Path:
    draw = np.random.default_rng(0)
    with TokenStoreWriter(prefix, np.dtype(np.uint16)) as writer:
        for _ in range(200):
            writer.add_document(np.cumsum(draw.integers(0, 5, draw.integers(5, 60))) % 97)
    return prefix


def settings(store: Path, run_dir: Path, **overrides: Any) -> PretrainConfig:
    """The small configuration with `section__key=value` changes."""
    values = {section: dict(content) for section, content in SETTINGS.items()}
    values["data"]["path"] = str(store)
    if not Path(store).is_dir():  # a prepared one has splits of its own
        values["data"]["split"] = (0.8, 0.1, 0.1)
    values["run"]["dir"] = str(run_dir)
    for path, value in overrides.items():
        section, key = path.split("__")
        values.setdefault(section, {})[key] = value
    return decode(PretrainConfig, values)


def run_case(world: World, config: PretrainConfig, port: int, end: str = "") -> int:
    """One run in process groups of its own; its exit code.

    Args:
        end: of the job that it is in, as Slurm tells it.
    """
    dist.barrier()  # the other rank may still be connecting
    leave()
    place = {"RANK": world.rank, "WORLD_SIZE": world.size, "LOCAL_RANK": world.rank, "LOCAL_WORLD_SIZE": world.size}
    environ = {name: str(value) for name, value in place.items()}
    with undrawn_as_nan():
        return run_training(
            config,
            {**environ, **ONE_THREAD, "SLURM_JOB_END_TIME": end, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            measuring=more_measures,
        )


def counted_case(world: World, config: PretrainConfig, port: int) -> tuple[int, int]:
    """A run; its exit code, and how many tensors this rank drew."""
    calls, original = itertools.count(), init._draw

    def counted(*arguments: Any) -> None:
        next(calls)
        original(*arguments)

    init._draw = counted
    try:
        return run_case(world, config, port), next(calls)
    finally:
        init._draw = original


@contextlib.contextmanager
def undrawn_as_nan() -> Iterator[None]:
    """Has weights be NaN that are not drawn: in new memory there is often what was there in the run before."""
    original = build.build_model

    def built(*arguments: Any, **options: Any) -> Any:
        model, shard_specs = original(*arguments, **options)
        if not options.get("filled", True):
            for shard_spec in shard_specs:
                shard_spec.parameter.detach().fill_(math.nan)
        return model, shard_specs

    build.build_model = built
    try:
        yield
    finally:
        build.build_model = original


def killed_case(world: World, config: PretrainConfig, port: int, victim: int, seed: int, while_saving: bool) -> int:
    """A run in which rank `victim` dies by SIGKILL, a random time after a random step, or after the second or third save,
    begins, at the latest when the next save, or the second step after, does.

    Begins are counted, not timed: a slow machine gets as far before it dies as a quick one."""
    draw = random.Random(seed)
    delay, at = draw.uniform(0, 0.04), 1 + seed % 3 if while_saving else draw.randint(1, 9)
    if world.rank != victim:
        return run_case(world, config, port)

    def arm(*_: Any) -> None:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    owner, name, most = (CheckpointWriter, "save", 1) if while_saving else (MegatronEngine, "train_step", 2)
    with before(owner, name, at, arm), before(owner, name, at + most, die):
        return run_case(world, config, port)


def signalled_case(
    world: World, config: PretrainConfig, port: int, where: str, at: int, twice: bool = False
) -> tuple[int, float | None]:
    """A run whose last rank gets SIGTERM, or in evaluation SIGUSR1, at the `at`-th call of a point of the loop, or once it
    waits for data that do not come there; its exit code, and the seconds from the signal to its end.

    `twice`: a second one, as soon as it counts as another and a checkpoint is complete."""
    if world.rank != world.size - 1:
        return run_case(world, config, port), None
    sent: list[float] = []
    same, stopping.SAME_SIGNAL_SECONDS = stopping.SAME_SIGNAL_SECONDS, 0.2

    def send(*_: Any) -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGUSR1 if where == "evaluation" else signal.SIGTERM)
        if twice:
            time.sleep(stopping.SAME_SIGNAL_SECONDS + 0.2)
            while not (Path(config.run.dir or "") / "checkpoints" / "latest").exists():  # written in the background
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)

    waits = threading.Event()

    def stall(*_: Any) -> None:
        # Data are taken ahead: the steps before may still be on their way.
        waits.clear()
        waits.wait()
        threading.Timer(0.3, send).start()
        time.sleep(3600)

    owner, name, act = {
        "step": (MegatronEngine, "train_step", send),
        "evaluation": (MegatronEngine, "eval_step", send),
        "data": (microbatch_loader, "to_tensors", stall),
    }[where]
    try:
        with before(owner, name, at, act), idle_for_data(waits):
            code = run_case(world, config, port)
    finally:
        stopping.SAME_SIGNAL_SECONDS = same
    return code, time.monotonic() - sent[0]


@contextlib.contextmanager
def idle_for_data(waits: threading.Event) -> Iterator[None]:
    """Sets `waits` whenever the loop finds that the data of its next step have not come."""
    original = Prefetcher.wait

    def looked(prefetcher: Prefetcher, seconds: float) -> bool:
        ready = original(prefetcher, seconds)
        if not ready:
            waits.set()
        return ready

    Prefetcher.wait = looked
    try:
        yield
    finally:
        Prefetcher.wait = original


def signalled_in_step_case(
    world: World, config: PretrainConfig, port: int, step: int, microbatch: int, long: bool
) -> tuple[int, int]:
    """A run whose last rank gets SIGTERM in the forward pass of a microbatch of a step, both counted from 1: the exit code,
    and how many forward passes this rank began in all. `long`: steps count as long from the second on too."""
    if long:
        stopping.LONG_STEP_SECONDS = 0.0
    passes = itertools.count(1)
    config = finalize(config, world_size=world.size, vocab_size=None)
    count = num_microbatches(config.train, config.parallel)
    last = [0]
    original = LossTerms.of

    def counted(*arguments: Any, **options: Any) -> Any:
        last[0] = next(passes)
        if world.rank == world.size - 1 and last[0] == (step - 1) * count + microbatch:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    LossTerms.of = counted
    try:
        return run_case(world, config, port), last[0]
    finally:
        LossTerms.of = original
        stopping.LONG_STEP_SECONDS = 5.0


@contextlib.contextmanager
def before(owner: Any, name: str, at: int, act: Callable[..., None]) -> Iterator[None]:
    """Has `act` called before the `at`-th call of `owner.name`, which goes on as it is."""
    original = getattr(owner, name)
    calls = itertools.count(1)

    def replaced(*arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            act()
        return original(*arguments, **options)

    setattr(owner, name, replaced)
    try:
        yield
    finally:
        setattr(owner, name, original)
