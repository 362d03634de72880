"""What looking at a run costs: 200 steps with all of train.observe and train.heal on, records of each, and the trackers
TensorBoard and CSV, beside 200 with nothing, in CPU time.

    torchrun --standalone --nproc-per-node 2 bench/observe.py
    torchrun --standalone --nproc-per-node 2 bench/observe.py --steps 40 --every 20

Each rank holds two engines of one model, over the same batches. They make their steps in turns, each first every other time, so
that what else the machine does falls on both alike. Prints seconds of processors of all ranks, and what looking adds.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from train_cpu_sides import TIMEOUT, Case

from dist_plm.checkpoint.train_state import TrainState
from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.collectives import gather
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import grid_of
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import host_group, init_process_group, shutdown
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.objectives.base import LossTerm
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_run import HealConfig, ObserveConfig, TrackConfig
from dist_plm.train.build import engine_settings
from dist_plm.train.healing.alarms import Alarms
from dist_plm.train.healing.memory_copies import MemoryCopies
from dist_plm.train.healing.spikes import SpikeWatch
from dist_plm.train.metrics_logger import MetricsLogger
from dist_plm.train.observing.observer import build_observer
from dist_plm.train.reporting import build_recorder
from dist_plm.train.stopping import Control, StopSignals

CASE = Case("gpt", "fp32", layers=4, hidden=192, heads=4, vocab=4096, length=128, rows=8)
#: Steps that do not count.
WARM_UP = 5
#: Given to TensorBoard's thread, so that what it writes of a step counts with it, and not with one of the other side.
WRITING_SECONDS = 0.002


def side_of(config: PretrainConfig, groups: Groups, run_dir: Path, *, looks: bool) -> Callable[[int], float]:
    """A step, by its number from 1; gives the CPU seconds that it took this rank."""
    device = groups.device.torch_device
    model, shard_specs = build_model(
        config.model, config.parallel, config.precision, groups, device, seed=config.train.seed
    )
    engine = build_engine(
        engine_settings(config), groups, device, model, {config.objective.name: LossTerm(1.0, "labels")}
    )
    control = Control(StopSignals(()), host_group(TIMEOUT), cast(Any, None))  # nobody asks for its lease
    observer = build_observer(
        config.train, config.cluster, engine, control, groups, (model, shard_specs), run_dir, f"node{groups.rank}"
    )
    alarms, batches = Alarms(SpikeWatch(config.train.heal)), batches_of(groups)
    copies = MemoryCopies(engine, config.train.heal.memory_every, control.of_all)
    metrics_logger = metrics_logger_of(config, run_dir) if looks and groups.rank == 0 else None

    def plain(number: int) -> float:
        began = time.process_time()
        engine.train_step(batches, 1e-4)
        return time.process_time() - began

    def looking(number: int) -> float:
        began = time.process_time()
        observer.profile.take_request()
        if metrics_logger is not None:
            metrics_logger.begin_step()
        with observer.step(number):
            result = engine.train_step(batches, 1e-4)
        alarms.note_step(number, result, samples=0)
        seen = CASE.rows * max(number, 1)
        if metrics_logger is not None:
            metrics_logger.end_step(number, result, 1e-4, batch=CASE.rows, samples_seen=seen)
        observed = observer.look(number, batches)
        if metrics_logger is not None:
            metrics_logger.note_observed(observed)
            metrics_logger.flush(force=False)
        if copies.is_due(number):
            copies.take(TrainState(step=number, samples_seen=seen, engine=engine.scalars(), stream={}))
        time.sleep(WRITING_SECONDS)
        return time.process_time() - began

    return looking if looks else plain


def metrics_logger_of(config: PretrainConfig, run_dir: Path) -> MetricsLogger:
    """Builds what a run's first rank writes records with."""
    lease = SimpleNamespace(check=lambda: None)  # nobody else starts this run
    return build_recorder(config, run_dir, 0, None, cast(Any, lease))


def batches_of(groups: Groups) -> Sequence[Batch]:
    """Gives this rank's share of the batch, as one microbatch."""
    own = CASE.rows // groups.grid.data
    first = own * groups.coordinates.data
    rows = {name: values[first : first + own] for name, values in CASE.batch.items()}
    return [{"samples": torch.arange(first, first + own), **rows}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="steps of each side (200)")
    parser.add_argument("--every", type=int, default=100, help="steps between two looks of each kind (100)")
    args = parser.parse_args()
    env = from_environment(os.environ)
    config = CASE.config(env.world_size)
    observe = ObserveConfig(
        parts_every=args.every, replicas_every=args.every, passes_every=args.every, layers_every=args.every
    )
    heal = HealConfig(mode="on", memory_every=args.every)
    config = replace(
        config,
        train=replace(config.train, steps=args.steps, observe=observe, heal=heal),
        track=TrackConfig(to=("tensorboard", "csv")),
    )
    device = choose("cpu", env.local_rank)
    init_process_group(env, device, TIMEOUT)
    groups = build_groups(grid_of(config.parallel), device, timeout=TIMEOUT)
    with tempfile.TemporaryDirectory() as folder:
        off, on = (side_of(config, groups, Path(folder), looks=looks) for looks in (False, True))
        for number in range(1 - WARM_UP, 1):
            off(number), on(number)
        seconds = {off: 0.0, on: 0.0}
        for number in range(1, args.steps + 1):
            for side in (off, on) if number % 2 else (on, off):
                seconds[side] += side(number)
    both = gather(groups.world, (seconds[off], seconds[on]))
    plain, looking = (sum(column) for column in zip(*both, strict=True))
    if groups.rank == 0:
        print(
            f"{args.steps} steps on {groups.grid.size} ranks, all of train.observe and a copy in memory every {args.every}, "
            f"records, TensorBoard and CSV of each: {plain:.2f} s of processors without, {looking:.2f} s with: "
            f"{looking / plain - 1:+.2%}"
        )
    shutdown()


if __name__ == "__main__":
    main()
