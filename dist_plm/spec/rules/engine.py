"""What each engine can run, and which of its settings act: stages of ZeRO, overlap, precision."""

import math
from collections.abc import Callable, Iterator, Mapping

from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.schema import PretrainConfig


def _stage(config: PretrainConfig) -> Iterator[str]:
    engine, pipeline = config.engine, config.parallel.pipeline
    if engine.zero_stage < 2:
        return
    if engine.name == "megatron":
        yield (
            f"engine.zero_stage = {engine.zero_stage} is not supported by engine.name = 'megatron', whose sharding of "
            "gradients and weights (Megatron-FSDP) works on CUDA streams and with layers of its own alone: set "
            "engine=deepspeed, or engine.zero_stage=1"
        )
    elif pipeline > 1:
        yield (
            f"engine.zero_stage = {engine.zero_stage} does not work with parallel.pipeline = {pipeline}: a pipeline runs "
            "several forward passes before their backward passes, and DeepSpeed then reduces gradients that are not "
            "complete, without a word; set engine.zero_stage=1, or parallel.pipeline=1"
        )


def _overlap(config: PretrainConfig) -> Iterator[str]:
    engine = config.engine
    if engine.name == "deepspeed":
        names = ("overlap_grad_reduce", "overlap_param_gather")
        yield from no_effect(engine, "engine", names, "engine.name = 'deepspeed'")
        return
    if engine.overlap_param_gather and engine.zero_stage < 1:
        yield (
            f"engine.overlap_param_gather = true has nothing to gather with engine.zero_stage = {engine.zero_stage}: "
            "set engine.zero_stage=1, or engine.overlap_param_gather=false"
        )
    if engine.overlap_param_gather and not engine.overlap_grad_reduce:
        yield "engine.overlap_param_gather = true follows the buckets of engine.overlap_grad_reduce: set both to true"


def _deepspeed_keys(config: PretrainConfig) -> Iterator[str]:
    engine = config.engine
    if engine.name != "deepspeed" and engine.deepspeed:
        keys = ", ".join(f"engine.deepspeed.{key}" for key in engine.deepspeed)
        yield f"{keys} has no effect with engine.name = {engine.name!r}: set engine=deepspeed, or leave it out"


def _offload(config: PretrainConfig) -> Iterator[str]:
    """DeepSpeed takes these without a word, and does something else."""
    zero = config.engine.deepspeed.get("zero_optimization")
    for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
        offload = zero.get(key) if isinstance(zero, Mapping) else None
        device = offload.get("device", "none") if isinstance(offload, Mapping) else "none"
        needed = 3 if device == "nvme" else least
        if device != "none" and config.engine.zero_stage < needed:
            yield (
                f"engine.deepspeed.zero_optimization.{key}.device = {device!r} has no effect with engine.zero_stage = "
                f"{config.engine.zero_stage}: set engine.zero_stage={needed}, or leave it out"
            )
        elif key == "offload_optimizer" and device == "nvme" and config.optim.whole_tensors:
            yield (
                f"engine.deepspeed.zero_optimization.{key}.device = 'nvme' does not work with optim.name = "
                f"{config.optim.name!r}, which looks at all layers at once: set it to cpu, or optim=adamw"
            )


def _precision(config: PretrainConfig) -> Iterator[str]:
    precision, engine = config.precision, config.engine
    if engine.name != "deepspeed":
        return
    if engine.zero_stage == 0 and precision.name in ("bf16", "fp16"):
        yield (
            f"engine.zero_stage = 0 with precision.name = {precision.name!r} has no fp32 sums of gradients in DeepSpeed: set "
            "engine.zero_stage=1, or engine=megatron"
        )
    if precision.name != "fp16":
        return
    if config.cluster.device == "cpu":
        yield (
            "precision.name = 'fp16' is refused by DeepSpeed on cluster.device = 'cpu': set precision=bf16, or "
            "engine=megatron"
        )
    if not math.log2(precision.initial_loss_scale).is_integer():
        yield (
            f"precision.initial_loss_scale = {precision.initial_loss_scale:g} is not a power of two, as which DeepSpeed "
            "takes it: round it"
        )


ENGINE_RULES: tuple[Callable[[PretrainConfig], Iterator[str]], ...] = (
    _stage,
    _overlap,
    _deepspeed_keys,
    _offload,
    _precision,
)
