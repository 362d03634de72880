"""What runs of a cluster have in common is found where it is known."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from planner_calibration import Pair, in_common  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Run:
    row: int
    seconds: float


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("distance", [0.5, 4.0])
def test_the_share_of_clusters_that_are_drawn_with_it(share, distance):
    draws, own = np.random.default_rng(1), np.exp(-distance)
    likeness = share + (1 - share) * own
    off = draws.multivariate_normal([0, 0], [[0.01, 0.01 * likeness], [0.01 * likeness, 0.01]], size=20_000)
    runs = [Run(number, float(np.exp(one))) for number, one in enumerate(off.ravel())]
    pairs = [Pair(one, other, distance, 1.0) for one, other in zip(runs[::2], runs[1::2], strict=True)]
    assert in_common(pairs, {run.row: 1.0 for run in runs}) == pytest.approx(share, abs=0.05)
