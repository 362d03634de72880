"""Checks that it is clear what is read, and that the objective can learn from rows packed so."""

import os
from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.spec.derived import Case
from dist_plm.spec.inference.named_sets_rules import evaluation_problems
from dist_plm.spec.objectives import OBJECTIVES, ObjectiveConfig
from dist_plm.spec.rules.labelled import labelled_problems
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import no_effect, split_problems
from dist_plm.spec.schema import DataConfig, PretrainConfig
from dist_plm.spec.schema_finetune import FinetuneConfig


def _source(data: DataConfig) -> Iterator[str]:
    if data.path is None and not data.blend:
        yield (
            "data.path is missing: give data.path=…, the directory of a store that prepare_data wrote or the prefix of a "
            "Megatron .bin/.idx pair, or several of them in data.blend"
        )
    elif data.path is not None and data.blend:
        yield (
            f"data.path = {show(data.path)} and data.blend are both given: keep one, with data.path=null for a blend or "
            "without data.blend"
        )
    yield from path_problems("data.path", data.path)
    places: dict[str, int] = {}
    for i, source in enumerate(data.blend):
        yield from path_problems(f"data.blend[{i}].path", source.path)
        first = places.setdefault(_place(source.path), i)
        if first != i:
            yield (
                f"data.blend[{i}].path = {show(source.path)} is given twice, in data.blend[{first}] too, so that each window "
                "would be learnt twice in a row: give it once, with the sum of both weights"
            )


def _place(path: str) -> str:
    """Names a store alike however it is written."""
    stem, suffix = os.path.splitext(os.path.realpath(path))
    return stem if suffix in (".bin", ".idx") else stem + suffix


def _weights(data: DataConfig) -> Iterator[str]:
    missing = [i for i, source in enumerate(data.blend) if source.weight is None]
    if 0 < len(missing) < len(data.blend):
        yield (
            f"data.blend[{missing[0]}].weight is missing while others are given: give all, or none for shares by size "
            "(data.temperature)"
        )
    if not missing:
        reason = "weights in data.blend" if data.blend else "a single store"
        yield from no_effect(data, "data", ("temperature",), reason)


def _packing(data: DataConfig, objective: ObjectiveConfig) -> Iterator[str]:
    if data.packing == "concat":
        return
    if not objective.learns_from_rows:
        packed = [name for name, other in OBJECTIVES.items() if other.learns_from_rows]
        yield (
            f"data.packing = {show(data.packing)} does not serve objective.name = {show(objective.name)}, which takes its "
            f"text otherwise: set data.packing=concat, or learn with one of {', '.join(packed)}"
        )


def _splits(data: DataConfig) -> Iterator[str]:
    return split_problems("data.split", data.split)


def _stores(case: Case) -> Iterator[str]:
    if isinstance(case.config, PretrainConfig):
        data = case.config.data
        yield from (*_source(data), *_weights(data), *_packing(data, case.config.objective), *_splits(data))


def _evaluations(case: Case) -> Iterator[str]:
    if isinstance(case.config, PretrainConfig):
        yield from evaluation_problems(case.config)


def _labelled(case: Case) -> Iterator[str]:
    if isinstance(case.given, FinetuneConfig):
        yield from labelled_problems(case.given)


DATA_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (_stores, _evaluations, _labelled)
