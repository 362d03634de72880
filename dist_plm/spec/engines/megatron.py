"""Declares Megatron-core's engine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.spec.engines.base import EngineConfig

if TYPE_CHECKING:
    from dist_plm.spec.schema import PretrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronConfig(EngineConfig):
    """Megatron-core's data parallelism, pipeline schedules and distributed optimizer."""

    supports_fp8: ClassVar[bool] = True

    name: Literal["megatron"] = "megatron"
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False

    def problems(self, config: "PretrainConfig") -> Iterator[str]:
        if self.compile == "layers":
            yield from self.compile_problems(config.precision.name)
        if self.zero_stage > 1:
            yield (
                f"engine.zero_stage = {self.zero_stage} is not supported by engine.name = 'megatron', whose sharding of "
                "gradients and weights (Megatron-FSDP) works on CUDA streams and with layers of its own alone: set "
                "engine=deepspeed, or engine.zero_stage=1"
            )
        if self.overlap_param_gather and self.zero_stage < 1:
            yield (
                "engine.overlap_param_gather = true has nothing to gather with engine.zero_stage = "
                f"{self.zero_stage}: set engine.zero_stage=1, or engine.overlap_param_gather=false"
            )
        if self.overlap_param_gather and not self.overlap_grad_reduce:
            yield "engine.overlap_param_gather = true follows the buckets of engine.overlap_grad_reduce: set both to true"
