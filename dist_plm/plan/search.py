"""Compares process grids: all that the rules allow, ranked by the time of a step among those that fit."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dist_plm.plan.memory import worst_memory
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.network import GPUS_PER_NODE
from dist_plm.plan.timing.step_time import step_time
from dist_plm.plan.verdict import Verdict, as_overrides, changed_by, verdict_of, with_changes
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.schema import PretrainConfig

Changes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Holds a grid with its time and memory."""

    changes: Changes
    seconds: float
    gib: float
    verdict: Verdict
    slowest_part: str


def search(given: PretrainConfig, world_size: int, gpu: Gpu, efficiency: Efficiency = DEFAULT) -> list[Candidate]:
    """Finds what fits or is tight, the fastest first.

    Args:
        given: as the user wrote it, of which grid, micro-batch, recomputation and ZeRO stage are replaced.
    """
    found = []
    for changes in _choices(given, world_size):
        config = changed_by(given, changes, world_size)
        if config is None:
            continue
        total = worst_memory(config).total
        verdict = verdict_of(total, gpu)
        if verdict == "does not fit":
            continue
        step = step_time(config, gpu, efficiency=efficiency)
        most = max((name for name in step.parts if name != "compute"), key=lambda name: step.parts[name])
        found.append(Candidate(changes, step.seconds, total.high / 2**30, verdict, most))
    return sorted(found, key=lambda one: (one.verdict != "fits", one.seconds))


def planned(given: PretrainConfig, world_size: int, *, searched: bool) -> PretrainConfig:
    """Gives a run as it is or, where it is searched and rules refuse its own grid or micro-batch, which a search replaces, on
    the first grid that they allow; as it is where there is none, so that they say why."""
    for changes in itertools.chain([{}], _choices(given, world_size)) if searched else ():
        if changed_by(given, changes, world_size) is not None:
            return with_changes(given, changes)
    return given


def _choices(given: PretrainConfig, world_size: int) -> Iterator[Changes]:
    node = given.cluster.gpus_per_node or GPUS_PER_NODE
    tensors = [size for size in _divisors(given.model.heads) if size <= node and world_size % size == 0]
    for tensor in tensors:
        for stages in _divisors(given.model.layers):
            if (world_size // tensor) % stages or (stages > 1 and not given.model.is_chain):
                continue
            data = world_size // tensor // stages
            samples = given.train.global_batch / data
            if samples < 1 or not samples.is_integer():
                continue
            chunks = [1, *(v for v in (2, 4) if stages > 1 and given.model.layers % (stages * v) == 0)]
            batches = [batch for batch in (1, 2, 4, 8, 16, 32, 64) if samples % batch == 0]
            zero = [0, 1] if data > 1 else [0]
            choice = (chunks, batches, ("none", "selective", "full"), zero)
            for virtual, batch, recompute, stage in itertools.product(*choice):
                yield {
                    "parallel": {
                        "tensor": tensor,
                        "pipeline": stages,
                        "virtual_pipeline": virtual,
                        "sequence_parallel": tensor > 1 and given.data.sequence_length % tensor == 0,
                        "data": None,
                    },
                    "train": {"micro_batch": batch},
                    "model": {"recompute": recompute},
                    "engine": {"zero_stage": stage},
                }


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def search_text(found: list[Candidate], top: int) -> str:
    """Writes the fastest of all grids that fit, as overrides to paste."""
    if not found:
        return "no grid fits: take more GPUs, or GPUs with more memory"
    lines = [f"{len(found)} grids fit; the fastest:"]
    for one in found[:top]:
        shown = dict(one.changes)
        shown["parallel"] = {key: value for key, value in shown["parallel"].items() if value is not None}
        lines.append(
            f"  {one.seconds:8.3f} s  {one.gib:6.1f} GiB  {one.verdict:5}  most lost to {one.slowest_part:10}  "
            + " ".join(as_overrides(shown))
        )
    return "\n".join(lines)
