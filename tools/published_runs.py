"""Turns published runs into configurations, and sets what a plan says of them beside what their sources measured."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.config.decode import decode
from dist_plm.plan.memory import memory_by_stage, worst_of
from dist_plm.plan.timing.step_time import step_time
from dist_plm.spec.derived import derive
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.schema import PretrainConfig

FILE = Path(__file__).resolve().parents[1] / "tests" / "plan" / "published.csv"
#: Beginning of the file's GPU -> ours.
_GPUS = {
    "A100-80GB": "a100",
    "V100-32GB": "v100",
    "H100": "h100",
    "DGX-H100": "h100",
    "H200": "h200",
    "DGX-B200": "b200",
    "DGX-GB200": "gb200",
}
_LLAMA = {"activation": "swiglu", "norm": "rmsnorm", "bias": False, "position": "rotary", "tied_embeddings": False}
_RECOMPUTE = {"full": "full", "selective": "selective"}


@dataclass(frozen=True, slots=True)
class Published:
    """One run. `fused_attention`: the software of its day had it."""

    source: str
    name: str
    config: PretrainConfig
    gpu: str
    seconds: float | None
    gib: float | None
    fused_attention: bool

    def predicted_seconds(self) -> float:
        return step_time(self.config, GPUS[self.gpu], fused_attention=self.fused_attention).seconds

    def predicted_gib(self) -> float:
        """Gives the middle of the bounds."""
        return worst_of(memory_by_stage(self.config)).total.middle / 2**30


def published() -> Iterator[Published]:
    """Yields the runs of published.csv."""
    with FILE.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield _run(row)


def _run(row: dict[str, str]) -> Published:
    def number(key: str, default: int) -> int:
        return int(float(row[key])) if row[key] else default

    source = row["source"]
    encoder = row["model"].startswith("BERT")
    llama = "lama" in row["model"].lower()
    tensor, zero, world = number("tp", 1), number("zero", 1), number("n_gpus", 1)
    model = {
        "family": "bert" if encoder else "gpt",
        **{name: number(name, 0) for name in ("layers", "hidden", "heads")},
        "kv_heads": number("kv_heads", 0) or None,
        "ffn": number("ffn", 0) or None,
        "vocab_size": number("vocab", 0) or 51200,
        "recompute": _RECOMPUTE.get(row["recompute"], "none"),
        **(
            {"activation": "swiglu", "norm": "rmsnorm", "bias": False, "position": "rotary", "tied_embeddings": False}
            if llama
            else {}
        ),
        **({"segments": 2, "norm_placement": "post"} if encoder else {}),
    }
    values = {
        "run": {"name": "published"},
        "model": model,
        "objective": {"name": "mlm_nsp" if encoder else "causal"},
        "data": {"path": "x", "sequence_length": number("seq", 2048)},
        "optim": {"name": "lamb" if encoder else "adamw", "lr": 1e-4},
        "schedule": {"name": "constant"},
        "parallel": {
            "tensor": tensor,
            "pipeline": number("pp", 1),
            "virtual_pipeline": number("vp", 1),
            "context": number("cp", 1),
            # Sources with full recomputation had no sequence parallelism yet.
            "sequence_parallel": tensor > 1 and row["recompute"] != "full",
        },
        "engine": _engine(zero, overlap=not source.startswith("VIA")),
        "precision": {"name": row["precision"].split("-")[0]},
        "train": {"steps": 1, "global_batch": number("global_batch", 1), "micro_batch": number("micro_batch", 1)},
        "cluster": {
            "network_gbit": 100.0 if source.startswith("VIA") else None,  # 800 a node of 8
            "gpus_per_node": 4 if "4/node" in row["gpu"] else 8,
        },
    }
    config = derive(decode(PretrainConfig, values), world_size=world, vocab_size=None)
    gpu = next(ours for name, ours in reversed(_GPUS.items()) if row["gpu"].startswith(name))
    old = source.startswith(("arXiv:2205", "VIA", "NVIDIA/Deep"))
    seconds, gib = (float(row[key]) if row[key] else None for key in ("step_time_s", "memory_gib"))
    return Published(source, row["model"], config, gpu, seconds, gib, not old)


def _engine(zero: int, *, overlap: bool) -> dict[str, Any]:
    if zero == 3:
        return {"name": "deepspeed", "zero_stage": 3}
    return {"name": "megatron", "zero_stage": zero, "overlap_grad_reduce": overlap}
