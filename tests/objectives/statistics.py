"""How far counts lie from what they should be, in standard deviations."""

import numpy as np


def chi_square_z(counts: np.ndarray, expected: np.ndarray | float) -> float:
    """The chi-square statistic of cells, less its mean, over its standard deviation (cells less one degrees)."""
    degrees = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def rate_z(hits: int, trials: int, rate: float) -> float:
    """`hits` of `trials` against independent events of probability `rate`."""
    return float((hits - trials * rate) / np.sqrt(trials * rate * (1 - rate)))
