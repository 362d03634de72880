"""Measures of classification, from exact counts: equal to scikit-learn's on the whole set, whatever order rows came in."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Confusion:
    """Counts pairs of true class (row) and predicted class (column)."""

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, num_classes: int) -> "Confusion":
        return cls(np.zeros((num_classes, num_classes), dtype=np.int64))

    def add(self, truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> None:
        np.add.at(self.counts, (truth, predicted), 1)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.counts)) / max(self.total, 1)

    def f1(self) -> NDArray[np.float64]:
        """F1 of each class; 0 of one that is neither there nor predicted."""
        hits = np.diagonal(self.counts)
        return f1_of(hits, self.counts.sum(axis=0), self.counts.sum(axis=1))

    def f1_macro(self) -> float:
        """The mean F1 of the classes that are there or predicted."""
        seen = (self.counts.sum(axis=0) + self.counts.sum(axis=1)) > 0
        return float(self.f1()[seen].mean()) if seen.any() else 0.0

    def matthews(self) -> float:
        """Matthews' correlation of several classes (Gorodkin 2004, equation 8); 0 where either side is a single class."""
        truth, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        truth, predicted, total = list(map(int, truth)), list(map(int, predicted)), self.total
        covariance = int(np.trace(self.counts)) * total - sum(t * p for t, p in zip(truth, predicted, strict=True))
        spread = (total**2 - sum(p * p for p in predicted)) * (total**2 - sum(t * t for t in truth))
        return covariance / math.sqrt(spread) if spread else 0.0


@dataclass(slots=True)
class LabelCounts:
    """Counts of each label of several that a row may have: right, predicted, there; and of rows that are right in all."""

    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    exact: int = 0
    rows: int = 0

    @classmethod
    def of(cls, num_labels: int) -> "LabelCounts":
        hits, predicted, truth = (np.zeros(num_labels, dtype=np.int64) for _ in range(3))
        return cls(hits, predicted, truth)

    def add(self, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> None:
        """Counts rows [B, L]."""
        self.hits += (truth & predicted).sum(axis=0)
        self.predicted += predicted.sum(axis=0)
        self.truth += truth.sum(axis=0)
        self.exact += int((truth == predicted).all(axis=1).sum())
        self.rows += len(truth)

    @property
    def accuracy(self) -> float:
        """The share of rows whose labels are all right."""
        return self.exact / max(self.rows, 1)

    def f1(self) -> NDArray[np.float64]:
        return f1_of(self.hits, self.predicted, self.truth)

    def f1_micro(self) -> float:
        return float(f1_of(self.hits.sum(), self.predicted.sum(), self.truth.sum()))


def f1_of(hits, predicted, truth) -> NDArray[np.float64]:
    """The harmonic mean of precision and recall, 0 where there is nothing to find and nothing found."""
    whole = np.asarray(predicted + truth, dtype=np.float64)
    return np.divide(2.0 * hits, whole, out=np.zeros_like(whole), where=whole > 0)
