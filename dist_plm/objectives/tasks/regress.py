"""Regression: a number for a text or a pair of texts, as STS-B asks for similarity."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.objectives.base import LossTerm
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable, words_of_texts
from dist_plm.objectives.metrics.numbers import mean_squared_error, pearson, spearman
from dist_plm.objectives.tasks.base import Columns, Scorer, TextEncoder, by_row, texts_of
from dist_plm.spec.tasks.regress import RegressConfig

#: Of fp32, in which losses are computed.
_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Regress:
    """See tasks.base.Task."""

    config: RegressConfig
    fills: Mapping[str, int] = field(default_factory=dict)

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"regress": LossTerm(1.0, "targets", mask="target_mask")}

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return set()

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        targets = np.zeros(len(rows), dtype=np.float32)
        if "label" in columns:
            targets[:] = [_target(row, columns["label"]) for row in rows]
        ones = np.ones(len(rows), dtype=np.int64)
        return {**encoder.texts(*texts_of(rows, columns)), "targets": targets, "target_mask": ones}

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        return {}

    def changeable(self, table: WordTable, encoder: TextEncoder) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
        return partial(words_of_texts, table=table)

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        targets = table["targets"].astype(np.float64)
        return _NumberScorer(targets, np.zeros_like(targets), np.zeros(len(targets), dtype=bool))


def _target(row: LabelledRow, column: str) -> float:
    value = row.values.get(column)
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:  # an integer of many digits
        number = math.inf
    if isinstance(value, bool) or not abs(number) <= _LARGEST:
        told = repr(value) if len(repr(value)) < _SHOWN else f"{repr(value)[:_SHOWN]}…"
        raise DataError(f"{row.place}: column {column!r} holds {told}, not a number to learn: mend or remove the row")
    return number


@dataclass(slots=True)
class _NumberScorer:
    """Ranks need all numbers at once: nine bytes a row. What is predicted need not be a number, and counts all the same."""

    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    seen: NDArray[np.bool_]

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        self.predicted[rows], self.seen[rows] = outputs.reshape(len(rows)), True

    def predictions(self) -> dict[str, Any]:
        rows = np.flatnonzero(self.seen)
        return by_row("number", rows.tolist(), self.predicted[rows].tolist())

    def measures(self) -> dict[str, float]:
        truth, predicted = self.truth[self.seen], self.predicted[self.seen]
        return {
            "pearson": pearson(truth, predicted),
            "spearman": spearman(truth, predicted),
            "mse": mean_squared_error(truth, predicted),
        }


def build(config: RegressConfig) -> Regress:
    return Regress(config)
