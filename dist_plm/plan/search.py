"""Compares process grids: all that the rules allow, ranked by the time of a step among those that fit."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dist_plm.plan.interval import GIB
from dist_plm.plan.memory import worst_memory
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.network import GPUS_PER_NODE
from dist_plm.plan.timing.step_time import step_time
from dist_plm.plan.verdict import SLICE, Plan, Verdict, as_overrides, changed_by, verdict_of, with_changes
from dist_plm.spec.derived import Case, derive
from dist_plm.spec.flops import head_in_layers
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.pipeline import balanced_layers
from dist_plm.spec.schema import PretrainConfig

Changes = Mapping[str, Mapping[str, Any]]
_VERDICTS: tuple[Verdict, ...] = ("fits", "tight", "does not fit")
#: What needs more than so many times a GPU's memory is not compared.
_MOST_TIMES = 1.5
#: A cut is proposed that takes less than this share of the time of a step.
_SOONER = 0.99
#: Of grids that would be faster than the best, but do not fit, so many are shown.
_MOST_TOO_LARGE = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """Holds a grid with its time, by part as well, and memory."""

    changes: Changes
    parts: Mapping[str, float]
    gib: float
    verdict: Verdict

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def behind(self, best: "Candidate") -> str:
        """Names the part of a step that another grid does most faster, or of the best the largest after computing."""
        if self is best:
            return f"most lost to {max(self.parts.keys() - {'compute'}, key=lambda name: self.parts[name])}"
        name = max(self.parts, key=lambda part: self.parts[part] - best.parts[part])
        return f"{self.parts[name] - best.parts[name]:+.3f} s {name}"


def search(given: PretrainConfig, world_size: int, gpu: Gpu, efficiency: Efficiency = DEFAULT) -> list[Candidate]:
    """Finds what fits or is tight, the fastest first. See `compare`."""
    return [one for one in compare(given, world_size, gpu, efficiency) if one.verdict != "does not fit"]


def compare(given: PretrainConfig, world_size: int, gpu: Gpu, efficiency: Efficiency = DEFAULT) -> list[Candidate]:
    """Lists what the rules allow: what fits, what is tight, and what nearly fits, of each the fastest first.

    Args:
        given: as the user wrote it, of which grid, micro-batch, recomputation and ZeRO stage are replaced.
    """
    found = []
    for changes in _choices(given, world_size):
        candidate = _candidate(given, changes, world_size, gpu, efficiency)
        if candidate is not None:
            found.append(candidate)
    return sorted(found, key=lambda one: (_VERDICTS.index(one.verdict), one.seconds))


def _candidate(
    given: PretrainConfig, changes: Changes, world_size: int, gpu: Gpu, efficiency: Efficiency
) -> Candidate | None:
    config = changed_by(given, changes, world_size)
    if config is None:
        return None
    total = worst_memory(config).total
    if total.low > _MOST_TIMES * gpu.gib * GIB:
        return None
    parts = step_time(config, gpu, efficiency=efficiency).parts
    return Candidate(changes, parts, total.high / GIB, verdict_of(total, gpu))


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
        for stages in _divisors(world_size // tensor) if given.model.is_chain else (1,):
            if stages > given.model.layers:
                continue
            for context in _contexts(given, world_size // tensor // stages, tensor):
                yield from _settings(given, world_size, tensor, stages, context)


def _contexts(given: PretrainConfig, ranks: int, tensor: int) -> list[int]:
    """Lists ways of splitting sequences that are long enough for it."""
    most = max(1, given.data.sequence_length // SLICE)
    return [size for size in _divisors(given.model.heads // tensor) if size <= most and ranks % size == 0]


def _settings(given: PretrainConfig, world_size: int, tensor: int, stages: int, context: int) -> Iterator[Changes]:
    data = world_size // tensor // stages // context
    samples = given.train.global_batch / data
    if samples < 1 or not samples.is_integer():
        return
    cuts = list(_cuts(given, stages))
    # Before ranks cut samples they pass one at a time.
    batches = [batch for batch in (1, 2, 4, 8, 16, 32, 64) if samples % batch == 0 and (batch == 1 or context == 1)]
    zero = [stage for stage in given.engine.zero_stages if stage == 0 or data * context > 1]
    choice = (cuts, batches, ("none", "selective", "full"), zero)
    for (virtual, layers), batch, recompute, stage in itertools.product(*choice):
        yield {
            "parallel": {
                "tensor": tensor,
                "pipeline": stages,
                "virtual_pipeline": virtual,
                **({"stage_layers": layers} if layers != given.parallel.stage_layers else {}),
                **({"context": context} if max(context, given.parallel.context) > 1 else {}),
                "sequence_parallel": tensor > 1 and given.data.sequence_length % (tensor * context) == 0,
                **({"data": None} if given.parallel.data is not None else {}),
            },
            "train": {"micro_batch": batch},
            "model": {"recompute": recompute},
            "engine": {"zero_stage": stage},
        }


def _cuts(given: PretrainConfig, stages: int) -> Iterator[tuple[int, tuple[int, ...] | None]]:
    """Yields ways of cutting the layers into stages: chunks that each rank holds, and layers of each stage where the last,
    which has the head as well, would be the one that all wait for."""
    layers = given.model.layers
    for chunks in (1, 2, 4) if stages > 1 else (1,):
        if layers % (stages * chunks) == 0:
            yield chunks, None
    if (balanced := _balanced(given, stages)) is not None:
        yield 1, balanced


def _balanced(given: PretrainConfig, stages: int) -> tuple[int, ...] | None:
    """Gives the layers of each stage of the cut whose slowest has least to do; None where it is even."""
    if stages == 1 or given.model.vocab_size is None:
        return None
    derived = derive(given, world_size=1, vocab_size=given.model.vocab_size)
    if any(given.objective.problems(Case(given, derived, 1, given.model.vocab_size))):
        return None  # they are refused on every grid
    head = head_in_layers(derived.model, given.objective, given.data.sequence_length)
    balanced = balanced_layers(given.model.layers, stages, head)
    return balanced if len(set(balanced)) > 1 else None


def better_cut(given: PretrainConfig, plan: Plan) -> Candidate | None:
    """Finds layers of each stage with which a run that cuts them evenly takes a step sooner and fits no worse.

    Args:
        given: as the user wrote it, with the vocabulary of its data.
    """
    parallel = given.parallel
    if parallel.stage_layers is not None or parallel.virtual_pipeline > 1:
        return None
    layers = _balanced(given, parallel.pipeline)
    if layers is None:
        return None
    found = _candidate(given, {"parallel": {"stage_layers": layers}}, plan.world_size, plan.gpu, plan.efficiency)
    if found is None or _VERDICTS.index(found.verdict) > _VERDICTS.index(plan.verdict):
        return None
    return found if found.seconds < _SOONER * plan.step.seconds else None


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def search_text(compared: Sequence[Candidate], top: int) -> str:
    """Writes the fastest of all grids that fit, as overrides to paste, why each is behind the first, and which would be faster
    than that if they fitted."""
    found = [one for one in compared if one.verdict != "does not fit"]
    if not found:
        return "no grid fits: take more GPUs, or GPUs with more memory"
    best = found[0]
    lines = [f"{len(found)} grids fit; the fastest:", *(_line(one, one.behind(best)) for one in found[:top])]
    faster = [one for one in compared[len(found) :] if one.seconds < best.seconds]
    if faster:
        lines.append(f"{len(faster)} would be faster, but do not fit; the fastest:")
        lines += [_line(one, "") for one in faster[:_MOST_TOO_LARGE]]
    return "\n".join(lines)


def _line(one: Candidate, why: str) -> str:
    overrides = " ".join(as_overrides(one.changes))
    told = f"{one.verdict:5}  {why}"
    return f"  {one.seconds:8.3f} s  {one.gib:6.1f} GiB  {told:28}  {overrides}"


def cut_line(found: Candidate) -> str:
    """Proposes the layers of each stage."""
    overrides = " ".join(as_overrides(found.changes))
    return f"  a step would take {found.seconds:.3g} s with  {overrides}, as the last stage has the head as well"
