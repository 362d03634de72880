"""What runs of a cluster have in common is found where it is known."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from planner_calibration import Pair, in_common, mean_error, nearest  # pyright: ignore[reportMissingImports]


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


@dataclass(frozen=True)
class Configured(Run):
    config: PretrainConfig
    cluster: tuple[str, str] = ("somebody", "a100")
    family: str = "somebody"


def configured(row: int, seconds: float, **changes) -> Configured:
    return Configured(row, seconds, finalize(pretrain(**SIZES | changes), world_size=8, vocab_size=None))


def test_each_run_is_set_beside_those_most_like_it():
    runs = [configured(number, 1.1) for number in range(3)]
    runs += [configured(3, 1.2, parallel__pipeline=2), configured(4, 1.3, parallel__pipeline=4)]
    near = {run.row: {(pair.one.row, pair.distance) for pair in nearest(runs) if pair.other is run} for run in runs}
    assert near[0] == {(1, 0.0), (2, 0.0)}
    assert near[3] == {(0, 1.0), (1, 1.0), (2, 1.0), (4, 1.0)}
    assert {pair.one.row for pair in nearest(runs, least=1.0) if pair.other is runs[0]} == {3}
    # Each run counts once, and after its equals three of five are foretold as they were.
    seconds = {run.row: 1.0 for run in runs}
    alone = [pair for pair in nearest(runs) if pair.other.row < 3]
    assert sum(pair.weight for pair in alone) == pytest.approx(3.0)
    assert mean_error(alone, seconds, None) == pytest.approx(0.0)
    last = [pair for pair in nearest(runs) if pair.other.row == 4]
    assert mean_error(last, seconds, {"somebody": 1.0}) == pytest.approx(1 - 1.2 / 1.3)
