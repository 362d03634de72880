"""Turns published runs into configurations, and says why some cannot be expressed as one."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dist_plm.config.decode import decode
from dist_plm.plan.memory import memory_by_stage, worst_of
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.software import UNFUSED, Software
from dist_plm.plan.timing.step_time import StepTime, step_time
from dist_plm.spec.derived import derive
from dist_plm.spec.gpus import GPUS, Gpu
from dist_plm.spec.schema import PretrainConfig
from tools.published_software import engine_of, is_encoder, sharded, software_of

FILE = Path(__file__).resolve().parents[1] / "bench" / "published_runs.csv"
#: What the file calls a GPU -> ours; the first that is found in it counts.
_GPUS = {
    "HBM2e": "h100_hbm2e",
    "A100-40": "a100_40",
    "A100": "a100",
    "V100": "v100",
    "H100-PCIe": "h100_pcie",
    "H100": "h100",
    "GB300": "gb300",
    "B300": "b300",
    "GB200": "gb200",
    "H200": "h200",
    "B200": "b200",
    "L40S": "l40s",
    "4090": "rtx_4090",
    "MI300X": "mi300x",
    "MI250": "mi250x",
}
_PRECISIONS = {"fp16": "fp16", "bf16": "bf16", "fp8": "fp8", "mxfp8": "fp8", "tf32": "fp32", "fp32": "fp32"}
_SPARSE = re.compile(r"_a\d+b|oss|deepseek|kimi|mixtral|moe|nemotron_3", re.IGNORECASE)
_LLAMA = {"activation": "swiglu", "norm": "rmsnorm", "bias": False, "position": "rotary", "tied_embeddings": False}
#: Sizes that sources leave out, from the models' public cards: key and value heads, feed-forward size, vocabulary.
_CARDS = {
    "LLAMA2-7B": (32, 11008, 32000),
    "LLAMA2-13B": (40, 13824, 32000),
    "LLAMA2-70B": (8, 28672, 32000),
    "LLAMA3-8B": (8, 14336, 128256),
    "LLAMA3-70B": (8, 28672, 128256),
    "Llama3-style 13B": (8, 17920, 128256),
    "Nemotron-8B": (32, 16384, 256000),
    "Nemotron-22B": (48, 24576, 256000),
    "Nemotron-340B": (8, 73728, 256000),
}


@dataclass(frozen=True, slots=True)
class Published:
    """Describes one run.

    Args:
        row: number in the file, from 0.
        recipe: of its numbers, as the source calls it.
        seconds, gib: measured; None where the source does not tell.
    """

    row: int
    source: str
    name: str
    config: PretrainConfig
    world_size: int
    gpu: str
    seconds: float | None
    gib: float | None
    software: Software
    recipe: str = ""

    @property
    def family(self) -> str:
        """Names the source without version and section, by which runs are held together."""
        return family_of(self.source)

    @property
    def gpu_spec(self) -> Gpu:
        """Looks its GPU up."""
        return GPUS[self.gpu]

    @property
    def cluster(self) -> tuple[str, str]:
        """Source and GPU, of which one run can calibrate the others."""
        return self.family, self.gpu

    def step(self, efficiency: Efficiency = DEFAULT) -> StepTime:
        """Predicts the step by part."""
        return step_time(self.config, GPUS[self.gpu], software=self.software, efficiency=efficiency)

    def predicted_gib(self) -> float:
        """Predicts the middle of the bounds without the context, as PyTorch's own statistics count."""
        worst = worst_of(memory_by_stage(self.config, self.software))
        return (worst.total.middle - worst.terms["context"].middle) / 2**30


def family_of(source: str) -> str:
    """Names the program and its authors, without version."""
    return re.split(r"[@ \[(]", source)[0] if not source.startswith("arXiv") else source.split()[0]


@cache
def published(file: Path = FILE) -> tuple[list[Published], dict[str, int]]:
    """Reads the runs that can be expressed, and counts the others by the reason why not."""
    runs, left_out = [], dict[str, int]()
    for number, row in enumerate(_rows(file)):
        reason = _why_not(row)
        if reason is None:
            runs.append(_run(number, row))
        else:
            left_out[reason] = left_out.get(reason, 0) + 1
    return runs, left_out


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8") as text:
        yield from csv.DictReader(text)


def _why_not(row: dict[str, str]) -> str | None:
    """Says why a run is no configuration of ours, or has nothing to compare with."""
    pipeline, zero = _number(row, "pp", 1), row["zero"]
    if _SPARSE.search(row["model"]):
        return "a mixture of experts, or not a transformer"
    if not row["layers"] or not row["heads"] or not row["n_gpus"] or not row["seq"] or not row["global_batch"]:
        return "the source does not tell sizes or batch"
    if _gpu(row) is None:
        return "no GPU of the table"
    if row["precision"].split("-")[0] not in _PRECISIONS:
        return "4-bit products"
    if not row["tp"]:
        return "the source does not tell the grid"
    if not (row["step_time_s"] or row["step_time_derived_s"] or row["tokens_per_s_per_gpu"] or row["memory_gib"]):
        return "FLOP/s alone, whose convention decides the seconds"
    if zero == "3" and pipeline > 1:
        return "sharded weights in a pipeline, which our rules refuse"
    if row["precision"] == "fp8-rowwise":
        return "a scale for each row of 8 bits, which ours has not"
    if is_encoder(row) and row["seq"] == "512" and row["source"].startswith("NVIDIA/Deep"):
        return "faster than the GPU's peak allows: its sequences are binned by length"
    if "(MegaScale)" in row["model"]:
        return "parallel blocks with a sliding window"
    return None


def _gpu(row: dict[str, str]) -> str | None:
    return next((ours for name, ours in _GPUS.items() if name.lower() in row["gpu"].lower()), None)


def _number(row: dict[str, str], key: str, default: int) -> int:
    try:
        return int(float(row[key])) if row[key] else default
    except ValueError:
        return default


def _run(number: int, row: dict[str, str]) -> Published:
    gpu = _gpu(row)
    assert gpu is not None
    world, software = _number(row, "n_gpus", 1), software_of(row)
    values = {
        "run": {"name": "published"},
        "model": _model(row),
        "objective": {"name": "mlm_nsp" if is_encoder(row) else "causal"},
        "data": {"path": "x", "sequence_length": _number(row, "seq", 2048)},
        "optim": {"name": "lamb" if is_encoder(row) else "adamw", "lr": 1e-4},
        "schedule": {"name": "constant"},
        "parallel": _parallel(row),
        "engine": engine_of(row),
        "precision": _precision(row),
        "train": {
            "steps": 1,
            "global_batch": _number(row, "global_batch", 1),
            "micro_batch": _number(row, "micro_batch", 1),
        },
        "cluster": _cluster(row),
    }
    config = derive(decode(PretrainConfig, values), world_size=world, vocab_size=None)
    config = replace(config, engine=sharded(config.engine, row))
    run = Published(
        number, row["source"], row["model"], config, world, gpu, _seconds(row), _gib(row), software, row["precision"]
    )
    # Where the source does not tell, its authors took the fastest that fits, one believes.
    sizes = [_number(row, "micro_batch", 1)] if row["micro_batch"] else [1, 2, 4, 8, 16, 32, 64]
    chunks = [run.config.parallel.virtual_pipeline] if row["vp"] or software is UNFUSED else _divisors(run)
    tried = [one for size in sizes for many in chunks for one in _with(run, size, many)] or [run]
    fitting = [one for one in tried if one.predicted_gib() < GPUS[gpu].gib] or tried[:1]
    return fitting[0] if len(fitting) == 1 else min(fitting, key=lambda one: one.step().seconds)


def _divisors(run: Published) -> list[int]:
    """Lists the numbers of chunks into which each stage's layers can be cut."""
    layers = run.config.model.layers // run.config.parallel.pipeline
    return [many for many in range(1, layers + 1) if layers % many == 0]


def _with(run: Published, micro_batch: int, chunks: int) -> Iterator[Published]:
    """Yields the run with these, where they divide."""
    config, parallel = run.config, run.config.parallel
    count = config.train.global_batch / (parallel.data or 1) / micro_batch
    if chunks > 1 and (parallel.pipeline == 1 or config.model.layers % (parallel.pipeline * chunks)):
        return
    if count < 1 or (chunks > 1 and (not count.is_integer() or count % parallel.pipeline)):
        return
    config = replace(
        config,
        parallel=replace(parallel, virtual_pipeline=chunks),
        train=replace(config.train, micro_batch=micro_batch),
    )
    yield replace(run, config=config)


def _model(row: dict[str, str]) -> dict[str, Any]:
    kv_heads, ffn, vocab = _CARDS.get(row["model"], (None, None, None))
    name = row["model"].lower()
    shape = {} if is_encoder(row) else dict(_LLAMA) if "llama" in name else {}
    if "nemotron" in name:
        shape = {"activation": "relu", "position": "rotary", "tied_embeddings": False, "bias": False}
    cut = _number(row, "pp", 1) * _number(row, "vp", 1)
    return {
        "family": "bert" if is_encoder(row) else "gpt",
        # Where embedding and output stand for a layer each, the fullest stage decides.
        "layers": -(-_number(row, "layers", 0) // cut) * cut,
        "hidden": _number(row, "hidden", 0),
        "heads": _number(row, "heads", 0),
        "kv_heads": _number(row, "kv_heads", 0) or kv_heads,
        "ffn": _number(row, "ffn", 0) or ffn,
        "vocab_size": _number(row, "vocab", 0) or vocab or 51200,
        "recompute": {"full": "full", "selective": "selective"}.get(row["recompute"], "none"),
        **shape,
        **({"segments": 2, "norm_placement": "post", "activation": "gelu"} if is_encoder(row) else {}),
        **({"hidden_dropout": 0.1, "attention_dropout": 0.1} if is_encoder(row) else {}),
    }


def _parallel(row: dict[str, str]) -> dict[str, Any]:
    tensor = _number(row, "tp", 1)
    return {
        "tensor": tensor,
        "pipeline": _number(row, "pp", 1),
        "virtual_pipeline": _number(row, "vp", 1) if _number(row, "pp", 1) > 1 else 1,
        "context": _number(row, "cp", 1),
        # Sources with full recomputation on A100 had no sequence parallelism yet.
        "sequence_parallel": tensor > 1
        and not (row["recompute"] == "full" and row["zero"] != "3")
        and "Kempner" not in row["source"],
    }


def _precision(row: dict[str, str]) -> dict[str, Any]:
    name = row["precision"].split("-")[0]
    return {"name": _PRECISIONS[name], "tf32": name == "tf32"}


def _cluster(row: dict[str, str]) -> dict[str, Any]:
    return {
        "network_gbit": 100.0 if row["source"].startswith("VIA") else None,  # 800 a node of 8
        "gpus_per_node": 4 if "4/node" in row["gpu"] else 16 if "DGX-2" in row["gpu"] else 8,
    }


def _seconds(row: dict[str, str]) -> float | None:
    for key in ("step_time_s", "step_time_derived_s"):
        if row[key]:
            return float(row[key])
    if not row["tokens_per_s_per_gpu"]:
        return None
    tokens = _number(row, "global_batch", 1) * _number(row, "seq", 1)
    return tokens / float(row["tokens_per_s_per_gpu"]) / _number(row, "n_gpus", 1)


def _gib(row: dict[str, str]) -> float | None:
    if not row["memory_gib"]:
        return None
    in_gb = "in GB as printed" in row["notes"]
    return float(row["memory_gib"]) * (1e9 / 2**30 if in_gb else 1.0)
