"""Builds the parts of a run from the sections that each reads."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

import torch.distributed as dist

from dist_plm.checkpoint.fragments import ReplicaRank
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import Storage
from dist_plm.data.loader.batch import Batch
from dist_plm.data.loader.microbatch_loader import MicrobatchLoader
from dist_plm.distributed.groups import Groups
from dist_plm.distributed.world import host_group
from dist_plm.monitor.peak_flops import Precision, device_peak_tflops
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.schema import SamplesConfig
from dist_plm.spec.schema_run import CheckpointConfig, TrainConfig
from dist_plm.train.data import RunData
from dist_plm.train.evaluation import Evaluator, TextMeasures, whole_run
from dist_plm.train.loop import Position
from dist_plm.train.reporting import write_predictions
from dist_plm.train.startup.load_weights import RUN_FILE

#: Of the collectives of a save, during which other ranks may still be writing.
SAVE_TIMEOUT = timedelta(hours=6)


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


def open_loader(
    data: RunData,
    settings: SamplesConfig,
    train: TrainConfig,
    position: Position,
    groups: Groups,
) -> Iterator[Batch]:
    """Opens this rank's microbatches from `position` to the end of the run."""
    stop = train.stop_at or train.steps
    return iter(
        MicrobatchLoader(
            data.samples["train"],
            whole_run(data.objective, train.num_samples),
            micro_batch=train.micro_batch,
            global_batch=train.global_batch,
            data_rank=groups.coordinates.data,
            data_size=groups.grid.data,
            start_step=position.step,
            stop_step=stop,
            first_sample=position.samples,
            runs=BatchSizes.of(train).runs(position.samples, stop - position.step),
            num_workers=settings.loader_workers,
            prefetch=settings.prefetch,
            pin_memory=groups.device.kind == "cuda",
            trim=data.trim,
        )
    )


def measure_peak_tflops(precision: str, override: float | None, groups: Groups) -> float | None:
    """Gives the peak of all devices together, or `override` times their number. Collective: rank 0 measures while
    the others wait, so that nothing disturbs it."""
    peak = None
    if groups.rank == 0:
        one = device_peak_tflops(groups.device.torch_device, cast(Precision, precision), override=override)
        peak = one * groups.grid.size if one is not None else None
    dist.barrier(group=groups.world)
    return peak
