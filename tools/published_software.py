"""Says what the programs of published runs do otherwise than this one."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from dist_plm.plan.timing.software import FSDP2, MEGATRON, UNFUSED, Software
from dist_plm.spec.engines import EngineConfig
from dist_plm.spec.engines.base import Holding
from dist_plm.spec.engines.deepspeed import DeepSpeedConfig
from dist_plm.spec.schema import PrecisionConfig

#: Element-wise kernels of programs that fuse none, over those of programs that fuse all.
EAGER = 2.0
#: Share of collectives that torchtitan's asynchronous tensor parallelism hides.
ASYNCHRONOUS = 0.7


def is_encoder(row: Mapping[str, str]) -> bool:
    """Whether a row of the file is of an encoder."""
    return "BERT" in row["model"].upper()


def engine_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Returns the section of the engine that shards as the program did."""
    if row["zero"] == "3":
        return {"name": "deepspeed", "zero_stage": 3}
    overlap = not row["source"].startswith("VIA")  # "no grad bucketing" stands beside its rows
    stage = min(1, int(row["zero"] or 1))
    both = {"overlap_grad_reduce": overlap, "overlap_param_gather": overlap and stage == 1}
    return {"name": "megatron", "zero_stage": stage, **both}


def sharded(engine: EngineConfig, row: Mapping[str, str]) -> EngineConfig:
    """Returns what shards weights as FSDP2 does, where the program was that."""
    if row["zero"] != "3" or "Bridge" in row["source"]:
        return engine
    own = {field.name: getattr(engine, field.name) for field in fields(engine)}
    return (HalfFsdp2 if "Kempner" in row["source"] else Fsdp2)(**own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fsdp2(DeepSpeedConfig):
    """Shards fp32 weights, which are gathered in 16 bits, and fp32 gradients."""

    def holding(self, precision: PrecisionConfig, data: int) -> Holding:
        # The two bytes of a master that its 16 bits of weight lack.
        return replace(_divided(data), masters=2, gradients=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfFsdp2(DeepSpeedConfig):
    """Holds weights, gradients and moments in 16 bits."""

    def holding(self, precision: PrecisionConfig, data: int) -> Holding:
        return replace(_divided(data), gradients=2, moments=2)


def _divided(data: int) -> Holding:
    return Holding(weights=2, weights_over=data, gradients_over=data, masters_over=data, gathers=True)


def software_of(row: Mapping[str, str]) -> Software:
    """Goes by the GPU's time: fused attention came into Megatron with Hopper; sharded weights are FSDP2's."""
    if is_encoder(row):
        return replace(UNFUSED, passes=EAGER)
    if row["zero"] != "3":
        return UNFUSED if "A100" in row["gpu"] or "V100" in row["gpu"] else MEGATRON
    if "Bridge" in row["source"]:
        return replace(MEGATRON, overlaps_tensor=0.0)
    notes = row["notes"].lower()
    if "Kempner" in row["source"]:
        # As its memory with tensor ranks shows, which is that without but for the weights.
        return replace(FSDP2, logits=10, whole_logits=True)
    # From 2025 on torchtitan compiles the loss as well.
    later = "2025" in row["source"] or "H200" in row["gpu"]
    return replace(
        FSDP2,
        logits=5 if later else 12,
        passes=EAGER if "eager" in notes else 1.0,
        recomputes_half="selective" in row["recompute"],
        overlaps_tensor=ASYNCHRONOUS if "async" in notes else 0.0,
    )
