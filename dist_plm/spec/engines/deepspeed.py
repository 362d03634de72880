"""Declares DeepSpeed's engine."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dist_plm.config.decode import show
from dist_plm.spec.engines.base import EngineConfig, Holding
from dist_plm.spec.optimizers import OptimConfig

if TYPE_CHECKING:
    from dist_plm.spec.schema import PrecisionConfig, TrainingConfig

#: DeepSpeed's old names of its offload settings, which it moves on where nothing here would see them, and what is set in their
#: place, below engine.deepspeed.zero_optimization.
_DEPRECATED = {
    "cpu_offload": "offload_optimizer.device=cpu",
    "cpu_offload_param": "offload_param.device=cpu",
    "cpu_offload_use_pin_memory": "offload_optimizer.pin_memory=true or offload_param.pin_memory=true",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSpeedConfig(EngineConfig):
    """DeepSpeed's ZeRO 0 to 3.

    `deepspeed` holds further keys of DeepSpeed's JSON, checked against DeepSpeed's own schema when it starts."""

    passes_repeat: ClassVar[bool] = False  # each fills its buckets further

    name: Literal["deepspeed"] = "deepspeed"
    deepspeed: dict[str, Any] = field(default_factory=dict)

    @property
    def own_keys(self) -> dict[str, Any]:
        return self.deepspeed

    def holding(self, precision: "PrecisionConfig", data: int) -> Holding:
        """Masters are tensors of their own under fp32 as well, from stage 1 on; gradients are divided from stage 2 on.

        There they lie in one tensor of the rank's share where they are sums of another type than the weights', and else stay
        as backward passes made them. The bucket has the type of what is added up, in stage 2 that of the weights."""
        weights, stage = precision.weight_bytes, self.zero_stage
        gradients = 4 if precision.reduce_in_fp32 else weights
        if stage == 0:
            return Holding(weights=weights, gradients=gradients)
        # DeepSpeed's optimizer for bf16 reads the sums themselves, and reduces them where they are.
        reads_sums = precision.weights == "bf16" and stage == 1 and gradients == 4
        return Holding(
            weights=weights,
            weights_over=data if stage == 3 else 1,
            gradients=gradients,
            gradients_over=data if stage >= 2 else 1,
            copies=0 if reads_sums else 4,
            masters=4,
            masters_over=data,
            bucket=0
            if reads_sums
            else self._buckets * self.bucket_mib * 2**20 // 4 * (weights if stage == 2 else gradients),
            whole_gradients=stage == 2 and gradients == weights,
            gathers=stage == 3,
            states_on_host=self._offloads("offload_optimizer"),
            weights_on_host=self._offloads("offload_param"),
        )

    @property
    def _zero(self) -> Mapping[str, Any]:
        zero = self.deepspeed.get("zero_optimization")
        return zero if isinstance(zero, Mapping) else {}

    @property
    def _buckets(self) -> int:
        """Counts the buffers that gradients are copied into: one more where another is filled while one is reduced."""
        contiguous = self._zero.get("contiguous_gradients", True) is not False
        if not contiguous and not (self.zero_stage < 3 and self._offloads("offload_optimizer")):
            return 0
        return 2 if self.zero_stage == 2 and self._zero.get("overlap_comm") is True else 1

    def _offloads(self, key: str) -> bool:
        offload = self._zero.get(key)
        return isinstance(offload, Mapping) and offload.get("device", "none") != "none"

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        if self.compile == "layers":
            yield from self.compile_problems()
        pipeline = config.parallel.pipeline
        if self.zero_stage > 1 and pipeline > 1:
            yield (
                f"engine.zero_stage = {self.zero_stage} does not work with parallel.pipeline = {pipeline}: a pipeline runs "
                "several forward passes before their backward passes, and DeepSpeed then reduces gradients that are not "
                "complete, without a word; set engine.zero_stage=1, or parallel.pipeline=1"
            )
        if self.zero_stage == 1 and self._zero.get("overlap_comm") is True:
            yield (
                "engine.deepspeed.zero_optimization.overlap_comm = true is refused by DeepSpeed with engine.zero_stage = 1: "
                "set engine.zero_stage=2, or leave it out"
            )
        yield from self._offload(config.optim)
        yield from self._precision(config.precision, config.cluster.device)

    def _offload(self, optim: OptimConfig) -> Iterator[str]:
        """DeepSpeed takes these without a word, and does something else."""
        for key, instead in _DEPRECATED.items():
            if (value := self._zero.get(key)) is not None:
                yield (
                    f"engine.deepspeed.zero_optimization.{key} = {show(value)} is a deprecated setting of DeepSpeed: set "
                    f"engine.deepspeed.zero_optimization.{instead} instead, or leave it out"
                )
        for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
            offload = self._zero.get(key)
            device = offload.get("device", "none") if isinstance(offload, Mapping) else "none"
            needed = 3 if device == "nvme" else least
            if device != "none" and self.zero_stage < needed:
                yield (
                    f"engine.deepspeed.zero_optimization.{key}.device = {device!r} has no effect with engine.zero_stage = "
                    f"{self.zero_stage}: set engine.zero_stage={needed}, or leave it out"
                )
            elif key == "offload_optimizer" and device == "nvme" and optim.whole_tensors:
                yield (
                    f"engine.deepspeed.zero_optimization.{key}.device = 'nvme' does not work with optim.name = "
                    f"{optim.name!r}, which looks at all layers at once: set it to cpu, or optim=adamw"
                )

    def _precision(self, precision: "PrecisionConfig", device: str) -> Iterator[str]:
        if self.zero_stage == 0 and precision.weight_bytes < 4:
            yield (
                f"engine.zero_stage = 0 with precision.name = {precision.name!r} has no fp32 sums of gradients in "
                "DeepSpeed: set engine.zero_stage=1, or engine=megatron"
            )
        if not precision.scales_loss:
            return
        if device == "cpu":
            yield (
                "precision.name = 'fp16' is refused by DeepSpeed on cluster.device = 'cpu': set precision=bf16, or "
                "engine=megatron"
            )
        if not math.log2(precision.initial_loss_scale).is_integer():
            yield (
                f"precision.initial_loss_scale = {precision.initial_loss_scale:g} is not a power of two, as which DeepSpeed "
                "takes it: round it"
            )
