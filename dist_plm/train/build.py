"""The one visible list of a run's parts, in the order they are made."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.checkpoint.ownership import claim
from dist_plm.checkpoint.storage import Storage, open_storage
from dist_plm.config import runfile
from dist_plm.config.credentials import mask
from dist_plm.config.decode import encode
from dist_plm.config.origins import Origin
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REQUEUE
from dist_plm.core.streams import tell
from dist_plm.distributed.collectives import on_first
from dist_plm.distributed.device import Device, choose
from dist_plm.distributed.grid import grid_of
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.distributed.launch_env import LaunchEnv, from_environment
from dist_plm.distributed.world import host_group, init_process_group, shutdown
from dist_plm.engines.base import Engine
from dist_plm.engines.build import build_engine
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.models.build import ModelChunk, build_model
from dist_plm.models.sharding import ShardSpec
from dist_plm.monitor.progress import say
from dist_plm.optim.depth import trained_from
from dist_plm.optim.schedules import learning_rate
from dist_plm.spec.derived import checkpoints_of, peak_learning_rate
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.schedules import ScheduleConfig
from dist_plm.spec.schema import TrainingConfig
from dist_plm.spec.schema_run import HealConfig
from dist_plm.train.data import RunData
from dist_plm.train.divergence import Health
from dist_plm.train.ending.closing_summary import closing_summary
from dist_plm.train.ending.patience import Patience
from dist_plm.train.ending.proposed_runs import proposed_runs
from dist_plm.train.evaluation import MoreMeasures
from dist_plm.train.healing.acts import History, rate_factor
from dist_plm.train.healing.alarms import Alarms
from dist_plm.train.healing.memory_copies import MemoryCopies
from dist_plm.train.healing.rollback import roll_back
from dist_plm.train.healing.spikes import SpikeWatch
from dist_plm.train.loop import train
from dist_plm.train.metrics_logger import MetricsLogger
from dist_plm.train.observing.observer import build_observer
from dist_plm.train.opening.open_here import make_run_directory, open_here, open_log
from dist_plm.train.parts import Parts, build_checkpoints, build_evaluator, measure_peak_tflops, open_loader
from dist_plm.train.reporting import close_records, closing_records, open_records, write_origins
from dist_plm.train.startup.arithmetic import prepare_cpu, set_arithmetic
from dist_plm.train.startup.device_memory import advice_on_memory
from dist_plm.train.startup.resume import stream_of
from dist_plm.train.startup.resume_point import find_resumed
from dist_plm.train.startup.run_position import Position
from dist_plm.train.startup.start import Start, agree_on, begin, collective_timeout, hang_limits, refuse_together
from dist_plm.train.startup.starting_position import gives_all_weights, restoring, starting_position
from dist_plm.train.stopping import StopSignals

log = logging.getLogger(__name__)

Preflight = Callable[[TrainingConfig, LaunchEnv, Device, dist.ProcessGroup], None]
#: Builds what a run has measured beside the loss of its validation samples.
Measuring = Callable[[TrainingConfig, Groups], MoreMeasures]
#: Shows what a run is about to learn.
Showing = Callable[[TrainingConfig, RunData], None]


def run_training(
    config: TrainingConfig,
    environ: Mapping[str, str] = os.environ,
    overrides: Sequence[str] = (),
    preflight: Preflight | None = None,
    command: str = "pretrain",
    measuring: Measuring = lambda config, groups: MoreMeasures(),
    showing: Showing = lambda config, data: None,
    origins: Callable[[Mapping[str, Any]], Mapping[str, Origin]] = lambda _: {},
) -> int:
    """Trains one run to its end, or to a signal. Every rank calls it. Returns the exit code.

    Args:
        command: that started it, by the name of its script, which the commands shown at the end repeat.
        overrides, origins: settings on the command line, which those commands repeat; tells who set each of all settings.
        measuring, showing: see Measuring and Showing; the second is called on rank 0.
        preflight: looks, once the ranks have met, whether the run can start where it is. Collective.
    Raises:
        UserError: before any process group is made where the configuration is at fault.
    """
    env = from_environment(environ)
    config, data, unreadable = open_here(config, env)
    with StopSignals(config.checkpoint.signals) as signals:
        device = choose(config.cluster.device, env.local_rank)
        set_arithmetic(config.train, config.precision, device)
        timeout = collective_timeout(config.train, config.cluster.timeout_minutes, device)
        with signals.heard_at_once():
            init_process_group(env, device, timeout, shared_memory=config.cluster.shared_memory)
        host = host_group(timedelta(minutes=config.cluster.timeout_minutes))
        refuse_together(unreadable, env, host)
        agree_on(encode(config), env, host)
        refuse_together(make_run_directory(config.run, env, data, private=config.cluster.private_runs), env, host)
        if preflight is not None:
            preflight(config, env, device, host)
        grid, virtual = grid_of(config.parallel), config.parallel.virtual_pipeline
        groups = build_groups(grid, device, virtual_pipeline=virtual, timeout=timeout)
        assert data is not None
        limits = hang_limits(config.train, timeout, device)
        start = begin(Path(config.run.dir or ""), limits, env, environ, signals, groups, host)
        console = say if env.rank == 0 else None
        restore_logging, problem = open_log(start, console)
        refuse_together(problem, env, groups.world)
        prepare_cpu(config.precision, groups, env, environ)
        if env.rank == 0:
            write_origins(start.run_dir, origins(encode(config)))
            for split, samples in data.samples.items():
                log.info("%s samples: %s", {"train": "training"}.get(split, split), samples.describe())
            for warning in data.warnings:
                log.warning(warning)
            showing(config, data)
        with start.watchdog:
            finished = _run(config, start, device, groups, data, measuring(config, groups))
        restore_logging()
        shutdown()
    if finished and env.rank == 0:
        started, proposed = [command, *overrides], list(proposed_runs(config, device))
        tell(mask(closing_summary(start.run_dir, config.checkpoint, started, config.model, config.data, proposed)))
    return EXIT_FINISHED if finished else EXIT_REQUEUE


@dataclass(frozen=True, slots=True)
class _Trained:
    """Holds what is trained, and where its checkpoints are."""

    chunks: list[ModelChunk]
    shard_specs: list[ShardSpec]
    engine: Engine
    storage: Storage


def _run(
    config: TrainingConfig, start: Start, device: Device, groups: Groups, data: RunData, more: MoreMeasures
) -> bool:
    """Lists the parts of a run in the order in which they are made, and trains. Whether it got to its end. Collective."""
    fits = partial(advice_on_memory, config.model, config.parallel, config.engine, config.train.micro_batch)
    with fits():
        storage = _own_checkpoints(config, start, groups)
        # Before anything is read: what earlier starts have begun, they cannot end from now on.
        on_first(groups.world, storage.clean)
        found, begun = find_resumed(config.train.resume, storage, groups.world, verify=config.checkpoint.verify)
        trained = _build_trained(config, device, groups, data, storage, drawn=not gives_all_weights(found))
        stream = stream_of(config.data, config.objective, config.train, data.samples["train"])
        position = _begin(config, trained, found, stream, groups)
        position.begun_as = begun
        config = replace(config, train=position.counted(config.train))
        peak = measure_peak_tflops(config.precision.name, config.cluster.peak_tflops, groups)
        metrics_logger = open_records(config, start, position, found, peak, groups, data.count_tokens)
    with closing_records(metrics_logger, start.watchdog, start.run_dir, config.track, groups.world), fits():
        parts = _build_parts(config, start, groups, data, more, trained, stream, found, position, metrics_logger)
        finished = train(parts, position)
    close_records(metrics_logger, start.run_dir, config.track, finished=finished)
    if not finished:
        log.info(
            "stopped after step %d (%s), all of it saved: started again the run goes on",
            position.step,
            parts.control.reason,
        )
    return finished


def _own_checkpoints(config: TrainingConfig, start: Start, groups: Groups) -> Storage:
    """Opens the place of the run's checkpoints for this start, to which it belongs from now on. Collective."""
    lease = start.lease
    storage = open_storage(checkpoints_of(config.run, config.checkpoint))
    storage.guard, storage.mark = lease.check, f".{lease.run}.{lease.start}"
    on_first(groups.world, lambda: claim(storage, start.owner))
    return storage


def _build_trained(
    config: TrainingConfig, device: Device, groups: Groups, data: RunData, storage: Storage, *, drawn: bool
) -> _Trained:
    """Builds this rank's part of the model, its weights `drawn` or still to be read, and what trains it. Collective."""
    model, shard_specs = build_model(
        config.model,
        config.parallel,
        config.precision,
        groups,
        device.torch_device,
        seed=config.train.seed,
        token_loss=config.objective.token_loss,
        frozen=frozen_tensors(config.model, config.train.freeze),
        filled=drawn,
    )
    engine = build_engine(engine_settings(config), groups, device.torch_device, model, data.objective.losses)
    return _Trained(model, shard_specs, engine, storage)


def _begin(
    config: TrainingConfig, trained: _Trained, found: Checkpoint | None, stream: Mapping[str, Any], groups: Groups
) -> Position:
    """Puts the engine where the run begins, or goes on from the checkpoint that was found. Collective."""
    return starting_position(
        found,
        config.model,
        config.data,
        config.objective,
        config.train,
        config.checkpoint,
        encode(config),
        stream,
        trained.storage,
        trained.engine,
        trained.shard_specs,
        groups.world,
    )


def _build_parts(
    config: TrainingConfig,
    start: Start,
    groups: Groups,
    data: RunData,
    more: MoreMeasures,
    trained: _Trained,
    stream: Mapping[str, Any],
    found: Checkpoint | None,
    position: Position,
    metrics_logger: MetricsLogger | None,
) -> Parts:
    """Builds what the loop trains with. Collective."""
    engine, storage, shard_specs, heal = trained.engine, trained.storage, trained.shard_specs, config.train.heal
    control, stops = start.control(), config.train.early_stopping
    restore = restoring(storage, engine, shard_specs, groups.world)
    peak_rate = peak_learning_rate(config.optim, config.train.global_batch)
    return Parts(
        train=config.train,
        parallel=config.parallel,
        checkpoint=config.checkpoint,
        learning_rate=partial(_learning_rate, config.schedule, config.train.steps, peak_rate),
        trained_from=partial(trained_from, every=config.train.unfreeze_every, layers=config.model.top),
        engine=engine,
        batches=lambda position: open_loader(data, config.data, config.train, position, groups),
        evaluate=build_evaluator(config.train, data, groups, start.run_dir, more.texts),
        checkpoints=build_checkpoints(config.checkpoint, runfile.text(config), storage, groups),
        control=control,
        watchdog=start.watchdog,
        metrics_logger=metrics_logger,
        stream=stream,
        alarms=_alarms(heal, found),
        health=Health(proof=max(heal.before, 1) if heal.rolls_back else 1),
        roll_back=partial(roll_back, restore=restore, skip=config.data.skip_samples),
        observer=build_observer(
            config.train,
            config.cluster,
            engine,
            control,
            groups,
            (trained.chunks, shard_specs),
            start.run_dir,
            start.launch.node_name,
        ),
        copies=MemoryCopies(engine, heal.memory_every, control.of_all),
        patience=None if stops is None else Patience.after(stops, position.patience),
        named_sets=more.named_sets,
        named_sets_every=config.named_sets_every,
    )


def _alarms(heal: HealConfig, found: Checkpoint | None) -> Alarms:
    """Builds what looks out for bad steps, with what it had seen when the checkpoint was saved."""
    alarms = Alarms(SpikeWatch(heal))
    if found is not None:
        alarms.load(found.train_state.loop.get("heal", {}))
    return alarms


def _learning_rate(schedule: ScheduleConfig, steps: int, peak: float, step: int, history: History) -> float:
    """Gives the rate of the update after `step` others."""
    return learning_rate(schedule, step=step, steps=steps, peak=peak) * rate_factor(history, step + 1)


def engine_settings(config: TrainingConfig) -> EngineSettings:
    """Picks what an engine reads of a finalised run."""
    return EngineSettings(
        engine=config.engine,
        model=config.model,
        optim=config.optim,
        parallel=config.parallel,
        precision=config.precision,
        train=config.train,
        sequence_length=config.data.sequence_length,
        run_dir=config.run.dir or ".",
    )
