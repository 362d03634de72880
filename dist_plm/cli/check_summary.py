"""Builds what --check prints: the numbers that follow from a configuration, to be read before a job is queued."""

from functools import singledispatch
from typing import Any

from dist_plm.cluster.check import AnySubmission, run_of
from dist_plm.cluster.submission.asked_of_slurm import ranks_per_node
from dist_plm.cluster.submission.asked_of_slurm import world_size as world_size_of
from dist_plm.core.errors import count_of, in_units
from dist_plm.plan.render import time_line, verdict_line
from dist_plm.plan.verdict import make_plan
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import num_microbatches, padded_vocab_size
from dist_plm.spec.flops import flops_per_token, num_parameters
from dist_plm.spec.inference.submissions import (
    EvaluateSubmissionConfig,
    GenerateSubmissionConfig,
    InferenceSubmission,
)
from dist_plm.spec.schedules import ScheduleConfig
from dist_plm.spec.schema import JobConfig, ModelConfig, ParallelConfig, SubmissionConfig, TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneSubmissionConfig
from dist_plm.spec.schema_run import ClusterConfig, TrainConfig

_NOT_HERE = "follows from {} as well, which the rows, which are not here, would tell: set it"


@singledispatch
def summary(config: Any, world_size: int) -> str:
    """One line a fact of a checked configuration."""
    return "ok"


@summary.register
def _(config: TrainingConfig, world_size: int) -> str:
    model, parallel, train = config.model, config.parallel, config.train
    tokens = train.global_batch * config.data.sequence_length
    chunks = f" in {parallel.virtual_pipeline} chunks" if parallel.virtual_pipeline > 1 else ""
    grid = f"data {parallel.data} x tensor {parallel.tensor} x pipeline {parallel.pipeline}"
    if parallel.context > 1:
        grid += f" x context {parallel.context}"
    lines = {
        "run": str(config.run.dir),
        "model": _model(model, config.data.sequence_length, parallel.tensor),
        "grid": f"{grid} = {count_of(world_size, 'process')}",
        "a rank holds": f"{_layers_of_ranks(parallel, model.layers)} of {count_of(model.layers, 'layer')}{chunks}, "
        f"{model.heads // parallel.tensor // parallel.context} of {count_of(model.heads, 'head')}",
        "a step": f"{count_of(train.global_batch, 'sample')} of {config.data.sequence_length} = {in_units(tokens)} tokens, in "
        f"{count_of(num_microbatches(train, parallel), 'microbatch')} of {train.micro_batch} on each data rank",
        "the run": _length(train, config.schedule, config.data.sequence_length),
    }
    if absent := [path for path in config.data.paths if not config.data.is_here(path)]:
        lines["not here"] = f"{', '.join(absent)}: looked at where the run starts"
    if (ramp := train.batch_rampup) is not None:
        lines["the batch"] = f"{count_of(ramp.start, 'sample')} at first, whole after {in_units(ramp.samples)} samples"
    if config.cluster.gpu is not None and model.vocab_size is not None and train.steps is not None:
        untold = config.objective.untold(model)
        lines |= _plan(config, world_size) if untold is None else {"memory": _NOT_HERE.format(untold)}
    width = max(map(len, lines))
    return "\n".join(["ok", *(f"  {name:{width}}  {text}" for name, text in lines.items())])


@summary.register(SubmissionConfig)
@summary.register(FinetuneSubmissionConfig)
def _(config: AnySubmission, world_size: int) -> str:
    told = summary(run_of(config), world_size_of(config.nodes, config.cluster))
    return f"{told}\n  Slurm         {_of_slurm(config, config.cluster)}"


@summary.register(EvaluateSubmissionConfig)
@summary.register(GenerateSubmissionConfig)
def _(config: InferenceSubmission, world_size: int) -> str:
    lines = {"job": config.submit.dir, "out": config.out, "Slurm": _of_slurm(config, config.cluster)}
    return "\n".join(["ok", *(f"  {name:5}  {text}" for name, text in lines.items())])


def _of_slurm(job: JobConfig, cluster: ClusterConfig) -> str:
    ranks, limit = ranks_per_node(cluster), cluster.time or "the partition's limit"
    return (
        f"{count_of(job.nodes, 'node')} of {count_of(ranks, 'rank')}, partition {cluster.partition or 'by default'}, "
        f"at most {limit}"
    )


def _plan(config: TrainingConfig, world_size: int) -> dict[str, str]:
    plan = make_plan(config, world_size)
    return {"memory": verdict_line(plan), "time": time_line(plan)}


def _length(train: TrainConfig, schedule: ScheduleConfig, sequence_length: int) -> str:
    if train.steps is None:
        return "as many steps as its epochs take; its rows, which are not here, tell how many"
    seen = BatchSizes.of(train).after(train.steps)
    warmup = f"{count_of(schedule.num_warmup_steps(train.steps), 'step')} of them warm-up"
    return (
        f"{count_of(train.steps, 'step')} = {in_units(seen * sequence_length)} tokens, {warmup}{_stop(train.stop_at)}"
    )


def _model(model: ModelConfig, sequence_length: int, tensor: int) -> str:
    if model.vocab_size is None:
        return f"{count_of(model.layers, 'layer')} of {model.hidden}; its size follows from the data's vocabulary"
    padded = padded_vocab_size(model.vocab_size, model.vocab_multiple, tensor)
    flops = flops_per_token(model, sequence_length)
    return (
        f"{in_units(num_parameters(model))} parameters, {in_units(flops)} FLOPs a token; vocabulary {model.vocab_size}, "
        f"padded to {padded}"
    )


def _layers_of_ranks(parallel: ParallelConfig, layers: int) -> str:
    """Layers that each rank holds, or the fewest and the most."""
    if parallel.stage_layers is None:
        return str(layers // parallel.pipeline)
    held = [sum(parallel.stage_layers[stage :: parallel.pipeline]) for stage in range(parallel.pipeline)]
    return str(held[0]) if len(set(held)) == 1 else f"{min(held)} to {max(held)}"


def _stop(stop: int | None) -> str:
    return "" if stop is None else f", ending early at step {stop}"
