"""The one visible list of a run's parts, in the order they are made."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import cast

import torch.distributed as dist

from dist_plm.checkpoint.fragments import Place
from dist_plm.checkpoint.ownership import claim
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import Storage, open_storage
from dist_plm.config import runfile
from dist_plm.config.decode import encode
from dist_plm.core.errors import (
    EXIT_FINISHED,
    EXIT_REQUEUE,
    CheckpointError,
    ConfigError,
    DataError,
    Diverged,
    Refusal,
    SaveFailedError,
)
from dist_plm.core.files import make_directory
from dist_plm.core.streams import tell
from dist_plm.data.loader.batch import Batch
from dist_plm.data.loader.loader import MicrobatchLoader
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.distributed.collectives import on_first
from dist_plm.distributed.device import Device, choose, make_deterministic
from dist_plm.distributed.fp8 import check_fp8
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.distributed.launch_env import LaunchEnv, from_environment
from dist_plm.distributed.world import host_group, init_process_group, shutdown
from dist_plm.engines.build import build_engine
from dist_plm.models.build import build_model
from dist_plm.monitor.logs import setup_logging
from dist_plm.monitor.peak_flops import Precision, device_peak_tflops
from dist_plm.monitor.progress import say
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import checkpoints_of
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.data import RunData, open_data, vocab_size_of
from dist_plm.train.evaluation import Evaluator
from dist_plm.train.loop import Parts, Position, train
from dist_plm.train.records import closing_summary, open_records
from dist_plm.train.startup.attempt import Start, begin, collective_timeout, refuse_together
from dist_plm.train.startup.going_on import find_own_or_named
from dist_plm.train.startup.load_weights import begin_with, check_initial, open_initial
from dist_plm.train.startup.memory import advice_on_memory
from dist_plm.train.startup.precheck import check_checkpoint
from dist_plm.train.startup.resume import RUN_FILE, begin_from, restore, stream_of
from dist_plm.train.stopping import StopSignals

log = logging.getLogger(__name__)

Preflight = Callable[[PretrainConfig, LaunchEnv, Device], None]

#: Of the collectives of a save, during which other ranks may still be writing.
SAVE_TIMEOUT = timedelta(hours=6)


def run_pretrain(
    config: PretrainConfig,
    environ: Mapping[str, str] = os.environ,
    overrides: Sequence[str] = (),
    preflight: Preflight | None = None,
) -> int:
    """Trains one run to its end, or to a signal. Every rank calls it. Returns the exit code.

    Args:
        overrides: settings on the command line, which the commands shown at the end repeat.
        preflight: looks, once the ranks have met, whether the run can start where it is. Collective.
    Raises:
        Refusal: before any process group is made where the configuration is at fault.
    """
    env = from_environment(environ)
    config, data, unreadable = open_here(config, env)
    with StopSignals(config.checkpoint.signals) as signals:
        device = choose(config.cluster.device, env.local_rank)
        if config.train.deterministic:
            make_deterministic(device)
        if config.precision.name == "fp8":
            check_fp8(device)
        timeout = collective_timeout(config, device)
        init_process_group(env, device, timeout)
        refuse_together(unreadable, env, host_group(timeout))
        refuse_together(_make_directory(config, env), env, host_group(timeout))
        if preflight is not None:
            preflight(config, env, device)
        grid, virtual = grid_of(config), config.parallel.virtual_pipeline
        groups = build_groups(grid, device, virtual_pipeline=virtual, timeout=timeout)
        assert data is not None
        _agree(config, groups)
        start = begin(config, env, environ, signals, groups)
        console = say if env.rank == 0 else None
        restore_logging, problem = _open_log(start, console)
        refuse_together(problem, env, groups.world)
        if env.rank == 0:
            log.info("training samples: %s", data.samples["train"].describe())
        with start.watchdog, advice_on_memory(config):
            finished = _run(config, start, device, groups, data)
        restore_logging()
        shutdown()
    if finished and env.rank == 0:
        tell(closing_summary(config, overrides))
    return EXIT_FINISHED if finished else EXIT_REQUEUE


def _make_directory(config: PretrainConfig, env: LaunchEnv) -> str | None:
    """Makes the run's directory; why that cannot be."""
    try:
        if env.local_rank == 0:
            make_directory(Path(config.run.dir or ""), private=config.cluster.private_runs)
    except OSError as error:
        return f"run.dir = {config.run.dir} cannot be made: {error.strerror} ({error.filename})"
    return None


def _open_log(start: Start, console: Callable[[str], None] | None) -> tuple[Callable[[], None], str | None]:
    """Opens this rank's log file; returns what closes it again, or why it, perhaps alone, cannot have one."""
    try:
        launch = start.launch
        return setup_logging(start.run_dir, rank=launch.rank, node=launch.node_name, console=console), None
    except Refusal as error:
        return lambda: None, str(error)


def open_here(config: PretrainConfig, env: LaunchEnv) -> tuple[PretrainConfig, RunData | None, str | None]:
    """The configuration complete, and the data that it reads, having looked at what it begins with; or why this rank,
    perhaps alone, cannot read them.

    Raises:
        ConfigError: the configuration is at fault, which every rank finds alike.
        DataError, CheckpointError: the only rank cannot read its data, or what it begins with.
    """
    try:
        config = finalize(config, world_size=env.world_size, vocab_size=vocab_size_of(tokenizer_store(config.data)))
        data = open_data(config)
        if config.model.vocab_size is None:
            raise ConfigError(
                [f"model.vocab_size is missing: {config.data.stores[0]} is no prepared store, and does not tell it"]
            )
        check_initial(config)
        if env.rank == 0:  # all ranks read it together, once they have met
            check_checkpoint(config, data.samples["train"])
        return config, data, None
    except (DataError, CheckpointError) as error:
        if env.world_size == 1:
            raise
        return config, None, str(error)


def _run(config: PretrainConfig, start: Start, device: Device, groups: Groups, data: RunData) -> bool:
    fence = start.fence
    storage = open_storage(checkpoints_of(config))
    storage.guard, storage.mark = fence.check, f".{fence.run}.{fence.start}"
    on_first(groups.world, lambda: claim(storage, start.owner))
    model, layouts = build_model(config, groups, device.torch_device)
    engine = build_engine(config, groups, device.torch_device, model, data.objective.losses)
    # Before anything is read: what earlier starts have begun, they cannot end from now on.
    on_first(groups.world, storage.clean)
    stream = stream_of(config, data.samples["train"])
    position = Position()
    found, begun = find_own_or_named(config.train.resume, storage, groups.world, verify=config.checkpoint.verify)
    if found is not None:
        position = restore(found, config, stream, engine, layouts, groups.world)
        if found.storage.url == storage.url:
            position.saved_step = position.step
    elif config.model.init_from is not None:
        begin_with(open_initial(config.model.init_from, groups.world), config, engine, layouts, groups.world)
    elif config.train.init_from is not None:
        position = begin_from(storage, config, engine, layouts, groups.world)
    position.begun_as = begun
    peak = _peak_tflops(config, device, groups)
    recorder = open_records(config, start, position, found, peak, groups)
    evaluate = None
    if config.train.eval_samples > 0:
        evaluate = Evaluator(config, groups, data.samples["validation"], data.objective)
    parts = Parts(
        config=config,
        engine=engine,
        batches=lambda position: open_loader(config, groups, device, data, position),
        evaluate=evaluate,
        checkpoints=build_checkpoints(config, storage, groups),
        control=start.control(host_group(timedelta(minutes=config.cluster.timeout_minutes))),
        watchdog=start.watchdog,
        recorder=recorder,
        stream=stream,
    )
    try:
        finished = train(parts, position)
    except (Diverged, SaveFailedError):
        if recorder is not None:
            recorder.close()
        dist.barrier(group=groups.world)  # torchrun ends the others with the first: rank 0 has something to say
        raise
    if recorder is not None:
        recorder.close()
    if not finished:
        log.info(
            "stopped after step %d (%s), all of it saved: started again the run goes on",
            position.step,
            parts.control.reason,
        )
    return finished


def build_checkpoints(config: PretrainConfig, storage: Storage, groups: Groups) -> CheckpointWriter:
    """Builds what saves a run. Collective."""
    settings = config.checkpoint
    return CheckpointWriter(
        storage,
        group=host_group(SAVE_TIMEOUT),
        place=Place.of(groups),
        retention=Retention(
            latest=settings.keep, every=settings.keep_every, best=settings.keep_best, best_is=settings.best_is
        ),
        background=settings.background,
        on_failure=settings.on_failure,
        attachments={RUN_FILE: runfile.text(config)},
    )


def grid_of(config: PretrainConfig) -> Grid:
    parallel = config.parallel
    assert parallel.data is not None
    return Grid(data=parallel.data, tensor=parallel.tensor, pipeline=parallel.pipeline, context=parallel.context)


def open_loader(
    config: PretrainConfig,
    groups: Groups,
    device: Device,
    data: RunData,
    position: Position,
) -> Iterator[Batch]:
    """Opens this rank's microbatches from `position` to the end of the run."""
    train_config = config.train
    stop = train_config.stop_at or train_config.steps
    return iter(
        MicrobatchLoader(
            data.samples["train"],
            data.objective.collate,
            micro_batch=train_config.micro_batch,
            global_batch=train_config.global_batch,
            data_rank=groups.coordinates.data,
            data_size=groups.grid.data,
            start_step=position.step,
            stop_step=stop,
            first_sample=position.samples,
            runs=BatchSizes.of(train_config).runs(position.samples, stop - position.step),
            num_workers=config.data.loader_workers,
            prefetch=config.data.prefetch,
            pin_memory=device.kind == "cuda",
        )
    )


def _agree(config: PretrainConfig, groups: Groups) -> None:
    """Refuses to start where ranks were given different configurations. Collective."""
    facts = json.dumps(encode(config), sort_keys=True).encode()
    digests: list[str] = [""] * groups.grid.size
    dist.all_gather_object(digests, hashlib.sha256(facts).hexdigest(), group=groups.world)
    if differing := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
        raise ConfigError(
            [f"ranks {differing} were started with another configuration than rank 0: start all with the same command"]
        )


def _peak_tflops(config: PretrainConfig, device: Device, groups: Groups) -> float | None:
    """Gives the peak of all devices together; rank 0 measures while the others wait, so that nothing disturbs it.
    Collective."""
    peak = None
    if groups.rank == 0:
        one = device_peak_tflops(
            device.torch_device, cast(Precision, config.precision.name), override=config.cluster.peak_tflops
        )
        peak = one * groups.grid.size if one is not None else None
    dist.barrier(group=groups.world)
    return peak
