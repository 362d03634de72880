"""Says what the whole job takes: GPU hours, jobs under a time limit, checkpoints on disk, tokens, energy, and cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dist_plm.core.errors import count_of, in_units
from dist_plm.plan.verdict import Plan
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import checkpoint_bytes, most_checkpoints

#: Seconds from a job's start to its first step: processes, NCCL, weights, compiling.
START_SECONDS = 180


@dataclass(frozen=True, slots=True)
class WholeJob:
    """Holds what the whole run takes; None where it is not known.

    Args:
        jobs: under the time limit, each requeued after the one before; None also where `too_short`.
        checkpoint_bytes: of one; `disk_bytes` of all that stay at once.
        epochs: of the samples of the store.
        too_short: whether a job reaches its time limit before its first step has ended.
    """

    hours: float
    gpu_hours: float
    jobs: int | None
    checkpoint_bytes: int
    disk_bytes: int
    tokens: int
    epochs: float | None
    kwh: float | None
    cost: float | None
    too_short: bool = False


def job_of(plan: Plan, *, limit_seconds: float | None = None, store_samples: int | None = None) -> WholeJob:
    """Counts what a planned run takes.

    Args:
        limit_seconds: of one job.
        store_samples: of an epoch of the data, where it is here.
    """
    config = plan.config
    cluster, train = config.cluster, config.train
    hours = plan.run_seconds / 3600
    gpu_hours = hours * plan.world_size
    each = math.inf if limit_seconds is None else limit_seconds - cluster.signal_seconds - START_SECONDS
    too_short = each < plan.step.seconds
    jobs = math.ceil(plan.run_seconds / each) if limit_seconds is not None and not too_short else None
    checkpoint = checkpoint_bytes(config.model, config.optim, train.freeze)
    steps = train.stop_at or train.steps
    samples = BatchSizes.of(train).after(steps)
    return WholeJob(
        hours=hours,
        gpu_hours=gpu_hours,
        jobs=jobs,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * most_checkpoints(config.checkpoint, steps),
        tokens=samples * config.data.sequence_length,
        epochs=samples / store_samples if store_samples else None,
        kwh=gpu_hours * cluster.gpu_watts / 1000 if cluster.gpu_watts is not None else None,
        cost=gpu_hours * cluster.gpu_hour_price if cluster.gpu_hour_price is not None else None,
        too_short=too_short,
    )


def job_lines(job: WholeJob) -> Iterator[str]:
    """Writes it, a line a fact."""
    jobs = f", in {count_of(job.jobs, 'job')} under the time limit" if job.jobs is not None else ""
    if job.too_short:
        jobs = (
            f"; under cluster.time a job never trains a step: give it more than cluster.signal_seconds + {START_SECONDS} s, "
            "in which it starts, and a step"
        )
    yield f"  the job      {job.hours:,.1f} hours = {job.gpu_hours:,.0f} GPU hours{jobs}"
    yield f"  checkpoints  {_size(job.checkpoint_bytes)} each, {_size(job.disk_bytes)} on disk at most"
    epochs = f" = {job.epochs:.2f} epochs of the store" if job.epochs is not None else ""
    yield f"  tokens       {in_units(job.tokens)}{epochs}"
    if job.kwh is not None:
        yield f"  energy       {job.kwh:,.0f} kWh"
    if job.cost is not None:
        yield f"  cost         {job.cost:,.0f}"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**40:,.2f} TiB" if num_bytes >= 2**40 else f"{num_bytes / 2**30:,.1f} GiB"
