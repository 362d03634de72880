"""Classification of a text or of a pair of texts (Devlin et al. 2019, section 4.1)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, count_of
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.sources.written_lists import looks_quoted, scalars_in
from dist_plm.objectives.base import IGNORED, LossTerm
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable
from dist_plm.objectives.metrics.classes import Confusion, LabelCounts
from dist_plm.objectives.tasks.base import (
    Columns,
    Scorer,
    TextEncoder,
    by_row,
    label_of,
    label_text,
    label_weights,
    number_of,
    soft_targets,
    texts_of,
    value_of,
)
from dist_plm.objectives.tasks.likely_texts import FILLS, changeable_texts, text_to_text
from dist_plm.spec.tasks.classify import ClassifyConfig


@dataclass(frozen=True, slots=True)
class Classify:
    """See tasks.base.Task."""

    config: ClassifyConfig
    fills: Mapping[str, int] = field(default_factory=lambda: dict(FILLS))

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        terms = {"classify": LossTerm(1.0, "class_labels")}
        if self.config.multi_label:
            terms = {"classify": LossTerm(1.0, "label_sets", mask="target_mask")}
        return {**terms, "r_drop": LossTerm(self.config.r_drop / 2, "twins")} if self.config.reads_twice else terms

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return {label for row in rows for label in self._of(row, columns["label"])}

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        numbers = {label: number for number, label in enumerate(self.config.labels)}
        found = [[0] for _ in rows]
        if "label" in columns:
            found = [[number_of(one, numbers, row.place) for one in self._of(row, columns["label"])] for row in rows]
        table = self._table(*texts_of(rows, columns), encoder)
        if not self.config.multi_label:
            return {**table, "class_labels": np.array([labels[0] for labels in found], dtype=np.int64)}
        sets = np.zeros((len(rows), len(numbers)), dtype=np.float32)
        for row, labels in enumerate(found):
            sets[row, labels] = 1.0
        return {**table, "label_sets": sets, "target_mask": np.ones(len(rows), dtype=np.int64)}

    def _table(self, first: list[str], second: list[str] | None, encoder: TextEncoder) -> Columns:
        """Columns of what is read and, where labels are texts, of these for each row."""
        if not encoder.by_likelihood:
            return dict(encoder.texts(first, second))
        names = [self.config.text_of(label) for label in self.config.labels]
        return text_to_text(self.config, first, second, names, encoder, told_by="task.labels or task.label_texts")

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        config = self.config
        if config.multi_label:
            return {}
        weights = label_weights(config, table["class_labels"])
        matrix = soft_targets(len(config.labels), config.label_smoothing, weights)
        return {} if matrix is None else {"class_labels": matrix}

    def changeable(self, table: WordTable, encoder: TextEncoder) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
        return changeable_texts(self.config, table, encoder)

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        if self.config.multi_label:
            truth = table["label_sets"] > 0
            return _SetScorer(truth, LabelCounts.of(len(self.config.labels)), self.config.labels, np.zeros_like(truth))
        labels, positive = self.config.labels, self.config.positive
        chosen = len(labels) - 1 if positive is None else labels.index(positive)
        truth = table["class_labels"]
        return _ClassScorer(truth, Confusion.of(len(labels)), chosen, labels, np.full(len(truth), IGNORED, np.int32))

    def _of(self, row: LabelledRow, column: str) -> list[str]:
        value, where = value_of(row, column), f"{row.place}: column {column!r}"
        if self.config.multi_label or looks_quoted(value):
            value = scalars_in(value, where)
        if not self.config.multi_label:
            if isinstance(value, list | tuple):
                told = count_of(len(value), "label") + (" in a list" if len(value) == 1 else "")
                raise DataError(f"{where} holds {told} where one is learned: set task.multi_label=true")
            if isinstance(value, float) and value % 1:
                raise DataError(
                    f"{where} has {value!r}, which is no label: learn numbers by task=regress, or "
                    "mend or remove the row"
                )
            return [label_of(row, column)]
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            whole = value if isinstance(value, str) else label_of(row, column)
            value = [part.strip() for part in whole.split(self.config.separator) if part.strip()]
        return list(dict.fromkeys(label_text(one, where) for one in value))


@dataclass(slots=True)
class _ClassScorer:
    truth: NDArray[np.int64]
    confusion: Confusion
    positive: int
    labels: Sequence[str]
    said: NDArray[np.int32]

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        predicted = outputs.argmax(axis=-1)
        self.said[rows] = predicted
        self.confusion.add(self.truth[rows], predicted)

    def predictions(self) -> dict[str, Any]:
        rows = np.flatnonzero(self.said != IGNORED)
        return by_row("label", rows.tolist(), (self.labels[number] for number in self.said[rows]))

    def measures(self) -> dict[str, float]:
        confusion, binary = self.confusion, len(self.confusion.counts) == 2
        macro = confusion.f1_macro()
        return {
            "accuracy": confusion.accuracy,
            "f1": float(confusion.f1()[self.positive]) if binary else macro,
            "f1_macro": macro,
            "f1_micro": confusion.accuracy,  # of one label a row they are the same
            "matthews": confusion.matthews(),
        }


@dataclass(slots=True)
class _SetScorer:
    truth: NDArray[np.bool_]
    counts: LabelCounts
    labels: Sequence[str]
    said: NDArray[np.bool_]
    rows: set[int] = field(default_factory=set)

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        self.said[rows] = outputs > 0
        self.rows.update(rows.tolist())
        self.counts.add(self.truth[rows], self.said[rows])

    def predictions(self) -> dict[str, Any]:
        rows = sorted(self.rows)
        return by_row(
            "labels", rows, ([self.labels[i] for i in np.flatnonzero(self.said[row]).tolist()] for row in rows)
        )

    def measures(self) -> dict[str, float]:
        micro, macro = self.counts.f1_micro(), float(self.counts.f1().mean())
        return {"accuracy": self.counts.accuracy, "f1": micro, "f1_macro": macro, "f1_micro": micro}


def build(config: ClassifyConfig) -> Classify:
    return Classify(config)
