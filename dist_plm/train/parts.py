"""Holds the parts of a run, and builds them from the sections that each reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from dist_plm.checkpoint.fragments import ReplicaRank
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import Storage
from dist_plm.checkpoint.train_state import RUN_FILE
from dist_plm.data.loader.batch import Batch
from dist_plm.data.loader.microbatch_loader import MicrobatchLoader
from dist_plm.data.loader.skipped_samples import SkippedSamples
from dist_plm.data.sampling.blend import Blend
from dist_plm.distributed.groups import Groups
from dist_plm.distributed.world import host_group
from dist_plm.engines.base import Engine
from dist_plm.monitor.peak_flops import Precision, device_peak_tflops
from dist_plm.monitor.watchdog import Watchdog
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.schema import ParallelConfig, SamplesConfig
from dist_plm.spec.schema_run import CheckpointConfig, TrainConfig
from dist_plm.train.data import RunData, samples_to_end
from dist_plm.train.divergence import Health
from dist_plm.train.ending.patience import Patience
from dist_plm.train.evaluation import Evaluator, NamedMeasures, TextMeasures, whole_run
from dist_plm.train.healing.acts import skipped_samples
from dist_plm.train.healing.alarms import Alarms
from dist_plm.train.healing.memory_copies import MemoryCopies
from dist_plm.train.metrics_logger import MetricsLogger
from dist_plm.train.observing.observer import Observer
from dist_plm.train.reporting import write_predictions
from dist_plm.train.startup.run_position import Position
from dist_plm.train.stopping import Control

#: Of the collectives of a save, during which other ranks may still be writing.
SAVE_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a run is made of, as `train.build` lists it.

    Args:
        learning_rate: of an update, by the number of those before it and the history.
        trained_from: the least depth that is trained, likewise.
        batches: opens this rank's microbatches from a position on; raises DataError on every rank alike where there are
            not enough.
        evaluate: scores the held-out samples, calling its second argument between microbatches; None where evaluation
            is off.
        metrics_logger: on rank 0, None elsewhere.
        stream: what decides the samples, for the checkpoint.
        alarms: notices bad steps.
        roll_back: brings the run back to before one.
        observer: looks at what losses do not show.
        copies: of the run's state in host memory.
        named_sets: measures sets that have names, every `named_sets_every` steps that are evaluated (0: at all of them); None
            where none is named.
        patience: ends the run once evaluations no longer get better; None where nothing does.
    """

    train: TrainConfig
    parallel: ParallelConfig
    checkpoint: CheckpointConfig
    learning_rate: Callable[[int, Sequence[Mapping[str, Any]]], float]
    trained_from: Callable[[int], int]
    engine: Engine
    batches: Callable[[Position], Iterator[Batch]]
    evaluate: Callable[[Engine, Callable[[], None]], dict[str, float]] | None
    checkpoints: CheckpointWriter
    control: Control
    watchdog: Watchdog
    metrics_logger: MetricsLogger | None
    stream: Mapping[str, Any]
    alarms: Alarms
    roll_back: "Callable[[Parts, Position], None]"
    observer: Observer
    copies: MemoryCopies
    health: Health = field(default_factory=Health)
    patience: Patience | None = None
    named_sets: NamedMeasures | None = None
    named_sets_every: int = 0

    @property
    def goes_back_for_weights(self) -> bool:
        """Tells whether the run goes back where ranks that must hold the same weights do not."""
        return self.train.heal.rolls_back and self.train.observe.on_mismatch != "stop"


def build_checkpoints(settings: CheckpointConfig, run_file: str, storage: Storage, groups: Groups) -> CheckpointWriter:
    """Builds what saves a run, with the text of its run.yaml in each checkpoint. Collective."""
    return CheckpointWriter(
        storage,
        group=host_group(SAVE_TIMEOUT),
        place=ReplicaRank.of(groups),
        retention=Retention(
            latest=settings.keep, every=settings.keep_every, best=settings.keep_best, best_is=settings.best_is
        ),
        background=settings.background,
        on_failure=settings.on_failure,
        attachments={RUN_FILE: run_file},
    )


def build_evaluator(
    train: TrainConfig, data: RunData, groups: Groups, run_dir: Path, texts: TextMeasures | None
) -> Evaluator | None:
    """Builds what scores the validation samples; None where the run does not evaluate."""
    if train.eval_samples == 0:
        return None
    keep = partial(write_predictions, run_dir) if groups.rank == 0 else None
    validation = data.samples["validation"]
    return Evaluator(train, groups, validation, data.objective, data.trim, data.scorer, keep, texts)


def _check_samples(data: RunData, settings: SamplesConfig, train: TrainConfig, position: Position) -> None:
    """Makes sure, on every rank alike, that there are samples from `position` to the end of the run, whatever was skipped.

    Raises:
        DataError: there are not.
    """
    samples = data.samples["train"]
    if isinstance(samples, Blend):
        samples.check(samples_to_end(train, settings, position))


def open_loader(
    data: RunData,
    settings: SamplesConfig,
    train: TrainConfig,
    position: Position,
    groups: Groups,
) -> Iterator[Batch]:
    """Opens this rank's microbatches from `position` to the end of the run.

    Raises:
        DataError: see `_check_samples`.
    """
    _check_samples(data, settings, train, position)
    stop = train.stop_at or train.steps
    skipped = skipped_samples(settings.skip_samples, position.history)
    return iter(
        MicrobatchLoader(
            data.samples["train"],
            whole_run(data.learned, numbered(train.num_samples, skipped)),
            micro_batch=train.micro_batch,
            global_batch=train.global_batch,
            data_rank=groups.coordinates.data,
            data_size=groups.grid.data,
            start_step=position.step,
            stop_step=stop,
            first_sample=position.samples,
            runs=BatchSizes.of(train).runs(position.samples, stop - position.step),
            skipped=skipped,
            num_workers=settings.loader_workers,
            prefetch=settings.prefetch,
            pin_memory=groups.device.kind == "cuda",
            trim=data.trim,
        )
    )


def numbered(num_samples: int | None, skipped: SkippedSamples) -> int | None:
    """Gives the number that the sample after the last one would have."""
    return num_samples if num_samples is None else skipped.runs(0, num_samples)[-1][1]


def measure_peak_tflops(precision: str, override: float | None, groups: Groups) -> float | None:
    """Gives the peak of all devices together, or `override` times their number. Collective: rank 0 measures while
    the others wait, so that nothing disturbs it."""
    peak = None
    if groups.rank == 0:
        one = device_peak_tflops(groups.device.torch_device, cast(Precision, precision), override=override)
        peak = one * groups.grid.size if one is not None else None
    dist.barrier(group=groups.world)
    return peak
