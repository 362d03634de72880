"""Declares Megatron-core's engine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.spec.engines.base import EngineConfig, Holding

if TYPE_CHECKING:
    from dist_plm.spec.schema import PrecisionConfig, TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronConfig(EngineConfig):
    """Megatron-core's data parallelism, pipeline schedules and distributed optimizer. What overlaps, where None: on GPUs all
    that can."""

    zero_stages: ClassVar[tuple[int, ...]] = (0, 1)

    name: Literal["megatron"] = "megatron"
    overlap_grad_reduce: bool | None = None
    overlap_param_gather: bool | None = None

    def shards_states(self, data: int) -> bool:
        """Tells whether ZeRO-1 acts: one data rank would cut, copy and gather what it holds whole anyway."""
        return self.zero_stage == 1 and data != 1

    def holding(self, precision: "PrecisionConfig", data: int) -> Holding:
        """Gradients lie in one buffer, which is reduced in place; sharded masters of fp32 weights are views of them."""
        weights = precision.weight_bytes
        gradients = 4 if precision.reduce_in_fp32 else weights
        return Holding(
            weights=weights,
            gradients=gradients,
            copies=0 if gradients == 4 else 4,
            masters=4 if weights < 4 else 0,
            masters_over=data if self.shards_states(data) else 1,
            moves_weights=self.shards_states(data),
        )

    def overlaps(self, *, on_gpus: bool) -> bool:
        if self.overlap_grad_reduce is None:
            return on_gpus or self.overlap_param_gather is True
        return self.overlap_grad_reduce

    def overlaps_gather(self, *, on_gpus: bool) -> bool:
        if self.overlap_param_gather is None:
            return on_gpus and self.overlaps(on_gpus=on_gpus) and self.zero_stage == 1
        return self.overlap_param_gather

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        if self.compile == "layers":
            yield from self.compile_problems()
        if self.zero_stage not in self.zero_stages:
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
        if self.overlap_param_gather and self.overlap_grad_reduce is False:
            yield "engine.overlap_param_gather = true follows the buckets of engine.overlap_grad_reduce: set both to true"
