"""Writes the tables of docs/plan.md: GPUs, and what a plan says beside what published runs measured."""

import statistics
from collections import defaultdict
from functools import cache

from dist_plm.spec.gpus import GPUS
from tools.published_runs import Published, published

#: What sources are called in the table.
NAMES = {
    "arXiv:2205.05198": "Korthikanti et al. 2022 (Megatron-LM, 22B to 1T)",
    "arXiv:2201.11990": "Smith et al. 2022 (MT-NLG, 530B)",
    "Megatron-LM": "Megatron-LM (Megatron-core 0.8, 1.7B to 462B)",
    "VIA-Research/vTrain": "vTrain's measured runs (Megatron-DeepSpeed, 3.6B to 175B)",
    "MegaScale": "MegaScale's baseline (Megatron-LM, 175B on 256 to 12,288 GPUs)",
    "NVIDIA/DeepLearningExamples": "NVIDIA DeepLearningExamples (BERT-large, LAMB)",
    "NVIDIA/NeMo": "NeMo 24.07 (fp8)",
    "Megatron-Bridge": "Megatron-Bridge (fp8)",
    "KempnerInstitute/KempnerForge": "KempnerForge (FSDP2, torch.compile)",
    "torchtitan": "torchtitan (FSDP2; eager and compiled, float8)",
}


def gpus() -> str:
    """Writes the table of GPUs in Markdown."""
    lines = [
        "| `cluster.gpu=` | device | GiB | TFLOP/s in 16 bits | memory GB/s | link GB/s each way | network Gbit/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, gpu in GPUS.items():
        rate = gpu.peaks.bf16 or gpu.peaks.fp16
        cells = (f"{number:g}" for number in (gpu.gib, rate, gpu.memory_gb, gpu.link_gb, gpu.network_gbit))
        lines.append(f"| {name} | {gpu.device} | {' | '.join(cells)} |")
    return "\n".join(lines)


@cache
def by_source() -> dict[tuple[str, str], list[Published]]:
    """Groups the published runs by source and GPU."""
    found: defaultdict[tuple[str, str], list[Published]] = defaultdict(list)
    for run in published()[0]:
        found[NAMES[run.family], run.gpu].append(run)
    return dict(found)


def time_errors(runs: list[Published]) -> list[float]:
    """Predicted seconds over measured ones, less 1."""
    return [run.step().seconds / run.seconds - 1 for run in runs if run.seconds]


def memory_errors(runs: list[Published]) -> list[float]:
    """Predicted GiB over measured ones, less 1."""
    return [run.predicted_gib() / run.gib - 1 for run in runs if run.gib]


def published_runs() -> str:
    """Writes the table of errors in Markdown."""
    lines = [
        "| source | GPU | runs | step: median error | mean | worst | median, signed | memory: median error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = by_source()
    everything = [run for runs in groups.values() for run in runs]
    for (name, gpu), runs in [*groups.items(), (("all", ""), everything)]:
        lines.append(
            f"| {name} | {gpu} | {len(runs)} | {_errors(time_errors(runs))} | {_median(memory_errors(runs))} |"
        )
    return "\n".join(lines)


def _errors(errors: list[float]) -> str:
    sizes = [abs(error) for error in errors]
    numbers = (statistics.median(sizes), statistics.mean(sizes), max(sizes))
    return f"{' | '.join(f'{number:.0%}' for number in numbers)} | {statistics.median(errors):+.0%}"


def _median(errors: list[float]) -> str:
    return f"{statistics.median(map(abs, errors)):.0%}" if errors else "not published"
