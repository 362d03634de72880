"""Regression: a number for a text or a pair of texts, as STS-B asks for similarity."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.objectives.base import LossTerm
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable
from dist_plm.objectives.metrics.numbers import mean_squared_error, pearson, spearman
from dist_plm.objectives.tasks.base import Columns, Scorer, TextEncoder, by_row, texts_of, value_of
from dist_plm.objectives.tasks.likely_texts import FILLS, changeable_texts, text_to_text
from dist_plm.spec.tasks.regress import RegressConfig

#: Of fp32, in which losses are computed.
_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Regress:
    """See tasks.base.Task."""

    config: RegressConfig
    fills: Mapping[str, int] = field(default_factory=lambda: dict(FILLS))

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        if self.config.is_text:
            return {"regress": LossTerm(1.0, "class_labels")}
        return {"regress": LossTerm(1.0, "targets", mask="target_mask")}

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return set()

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        targets = np.zeros(len(rows), dtype=np.float32)
        if "label" in columns:
            targets[:] = [_target(row, columns["label"]) for row in rows]
        if encoder.by_likelihood:
            return self._as_texts(rows, columns, targets, encoder)
        ones = np.ones(len(rows), dtype=np.int64)
        return {**encoder.texts(*texts_of(rows, columns)), "targets": targets, "target_mask": ones}

    def _as_texts(
        self,
        rows: Sequence[LabelledRow],
        columns: Mapping[str, str],
        targets: NDArray[np.float32],
        encoder: TextEncoder,
    ) -> Columns:
        """Columns of numbers as texts. `targets` stay beside those that are learned: what is measured is not rounded."""
        config = self.config
        levels = np.array(config.levels)
        if "label" in columns:
            _refuse_outside(rows, columns["label"], targets, config)
        nearest = np.abs(targets[:, None] - levels).argmin(axis=1)
        names = [config.text_of(level) for level in levels.tolist()]
        told_by = "task.lowest, task.highest or task.step, or take a tokenizer that has digits"
        table = text_to_text(config, *texts_of(rows, columns), names, encoder, told_by=told_by)
        return {**table, "class_labels": nearest.astype(np.int64), "targets": targets}

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        return {}

    def changeable(self, table: WordTable, encoder: TextEncoder) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
        return changeable_texts(self.config, table, encoder)

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        targets = table["targets"].astype(np.float64)
        levels = np.array(self.config.levels) if self.config.is_text else None
        return _NumberScorer(targets, np.zeros_like(targets), np.zeros(len(targets), dtype=bool), levels)


def _refuse_outside(
    rows: Sequence[LabelledRow], column: str, targets: NDArray[np.float32], config: RegressConfig
) -> None:
    assert config.lowest is not None
    assert config.highest is not None
    near = config.step / 2 + 1e-6
    outside = np.flatnonzero((targets < config.lowest - near) | (targets > config.highest + near))
    if len(outside):
        row = rows[int(outside[0])]
        raise DataError(
            f"{row.place}: column {column!r} holds {targets[outside[0]]:g}, which is not between task.lowest = "
            f"{config.lowest:g} and task.highest = {config.highest:g}: change these, or mend the row"
        )


def _target(row: LabelledRow, column: str) -> float:
    value = value_of(row, column)
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:  # an integer of many digits
        number = math.inf
    # Python takes 1_000 and the digits of every script for numbers.
    unusual = isinstance(value, str) and ("_" in value or not value.isascii())
    if isinstance(value, bool) or unusual or not abs(number) <= _LARGEST:
        told = repr(value) if len(repr(value)) < _SHOWN else f"{repr(value)[:_SHOWN]}…"
        raise DataError(f"{row.place}: column {column!r} holds {told}, not a number to learn: mend or remove the row")
    return number


@dataclass(slots=True)
class _NumberScorer:
    """Ranks need all numbers at once: nine bytes a row. What is predicted need not be a number, and counts all the same.

    Args:
        levels: the numbers that may be written, of numbers as texts.
    """

    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    seen: NDArray[np.bool_]
    levels: NDArray[np.float64] | None = None

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        said = outputs.reshape(len(rows)) if self.levels is None else self.levels[outputs.argmax(axis=-1)]
        self.predicted[rows], self.seen[rows] = said, True

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
