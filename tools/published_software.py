"""Says what the programs of published runs do otherwise than this one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dist_plm.plan.timing.software import FSDP2, MEGATRON, UNFUSED, Software

#: Element-wise kernels of programs that fuse none, over those of programs that fuse all.
EAGER = 2.0
#: Share of collectives that torchtitan's asynchronous tensor parallelism hides.
ASYNCHRONOUS = 0.7


def is_encoder(row: Mapping[str, str]) -> bool:
    """Whether a row of the file is of an encoder."""
    return "bert" in row["model"].lower()


def engine_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Returns the section of the engine that shards as the program did."""
    if row["zero"] == "3":
        return {"name": "deepspeed", "zero_stage": 3}
    overlap = not row["source"].startswith("VIA")  # "no grad bucketing" stands beside its rows
    stage = min(1, int(row["zero"] or 1))
    both = {"overlap_grad_reduce": overlap, "overlap_param_gather": overlap and stage == 1}
    return {"name": "megatron", "zero_stage": stage, **both}


def software_of(row: Mapping[str, str]) -> Software:
    """Goes by the GPU's time: fused attention came into Megatron with Hopper; sharded weights are FSDP2's."""
    if is_encoder(row):
        return replace(UNFUSED, passes=EAGER)
    if row["zero"] != "3":
        return UNFUSED if "A100" in row["gpu"] or "V100" in row["gpu"] else MEGATRON
    if "Bridge" in row["source"]:
        return replace(MEGATRON, overlaps_tensor=0.0)
    notes = row["notes"].lower()
    return replace(
        FSDP2,
        passes=EAGER if "eager" in notes else 1.0,
        recomputes_half="selective" in row["recompute"],
        overlaps_tensor=ASYNCHRONOUS if "async" in notes else 0.0,
    )
