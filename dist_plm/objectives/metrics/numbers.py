"""Measures of regression: correlations and the mean squared error."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pearson(a: Floats, b: Floats) -> float:
    """Pearson's correlation; 0 where either side is the same number throughout."""
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()))
    return float((a * b).sum()) / spread if spread else 0.0


def spearman(a: Floats, b: Floats) -> float:
    """Pearson's correlation of ranks, those of equal numbers being the mean of theirs."""
    return pearson(ranks(a), ranks(b))


def ranks(values: Floats) -> Floats:
    """Ranks from 1 on; equal numbers share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + 1 + ends) / 2.0)[inverse.reshape(-1)]


def mean_squared_error(a: Floats, b: Floats) -> float:
    return float(((a - b) ** 2).mean())
