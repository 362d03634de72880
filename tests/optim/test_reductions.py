"""Relative error of every reduction against fp64, however the elements are cut: what both engines clip and report by, what
LAMB and Adafactor scale by, and sums of losses. Means over rows and columns: test_adafactor.py."""

import itertools
import math

import pytest
import torch
import torch.distributed as dist

from dist_plm.engines.gradient_norm import GradientNorm, clip
from dist_plm.models.heads.losses import score_targets
from dist_plm.optim.muon import orthogonalised
from dist_plm.optim.segment_map import Reduction, Segment, SegmentMap, Slot
from tests.ranks.pool import World

TOLERANCE = 1e-7
COUNTS = [10_000_000, pytest.param(100_000_000, marks=pytest.mark.slow)]
#: Shares at which the elements are cut.
CUTS = {"whole": [], "halves": [0.5], "odd": [0.0001, 0.33333, 0.900001], "columns": None}


def values_of(count: int, kind: str = "random") -> torch.Tensor:
    if kind == "alike":  # roundings that add up
        return torch.full((count,), 0.1)
    return torch.randn(count, generator=torch.Generator().manual_seed(count))


def square_of(values: torch.Tensor) -> float:
    """In pieces: the whole in fp64 would take twice its memory."""
    return math.fsum(float(part.double().square().sum()) for part in values.reshape(-1).split(2**22))


def cut(values: torch.Tensor, name: str) -> list[torch.Tensor]:
    shares = CUTS[name]
    if shares is None:
        return list(values.view(-1, 1000).chunk(4, dim=1))
    edges = [0, *(int(share * values.numel()) for share in shares), values.numel()]
    return [values[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("kind", ["random", "alike"])
def test_norms_of_layers(count, name, kind):
    """LAMB's trust ratio is of two of them, Adafactor's update and scale of two; a layer lies in several flat tensors."""
    weight, direction = values_of(count, kind), values_of(count).mul_(1e-3)
    pieces = [[piece.reshape(-1) for piece in cut(whole, name)] for whole in (weight, direction)]
    segment_map = SegmentMap([Slot("w")], {piece: [Segment(0, piece.numel(), 0)] for piece in pieces[0]})
    found = segment_map.sum_squares([0] * len(pieces[0]), *pieces)
    for whole, (square, *same) in zip((weight, direction), found.tolist(), strict=True):
        assert math.sqrt(square / square_of(whole)) == pytest.approx(1.0, abs=TOLERANCE)
        assert same == [square] * len(same)


def on_ranks(world: World, count: int, name: str, kind: str) -> tuple[float, float, float]:
    """Each rank holds every other piece: the norm, the layer's sum of squares, and the norm after clipping to 1."""
    group, values = dist.group.WORLD, values_of(count, kind)
    assert group is not None
    own = [piece.clone().reshape(-1) for piece in cut(values, name)][world.rank :: world.size]
    norm = GradientNorm(group, torch.device("cpu"))
    measured = norm.measure(own)
    reductions = [Reduction(group, None)]
    segment_map = SegmentMap([Slot("w")], {piece: [Segment(0, piece.numel(), 0)] for piece in own}, reductions)
    # A rank without pieces takes part all the same.
    squares = segment_map.sum_squares([0] * len(own), own).flatten().tolist()
    clip(own, measured, 1.0)
    return measured, squares[0] if squares else math.nan, norm.measure(own)


@pytest.mark.ranks
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", CUTS)
def test_over_ranks(ranks, count, name):
    """What both engines clip and report by is `GradientNorm`."""
    for kind in ("random", "alike") if count < 10**8 else ("alike",):
        exact = square_of(values_of(count, kind))
        for norm, square, clipped in ranks.run(2, on_ranks, count, name, kind):
            assert norm / math.sqrt(exact) == pytest.approx(1.0, abs=TOLERANCE)
            assert math.isnan(square) or math.sqrt(square / exact) == pytest.approx(1.0, abs=TOLERANCE)
            assert clipped == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_sums_of_losses(count):
    values, zeros = values_of(count, "alike"), torch.zeros(count)
    loss = score_targets(values[:, None], zeros, torch.ones(count), evaluate=False).loss
    assert float(loss) / square_of(values) == pytest.approx(1.0, abs=1e-6)  # fp32, in a tree


def test_the_norm_that_muon_divides_by():
    """Of as many equal elements: with no step the result is the matrix divided by its norm."""
    matrix = torch.full((10_000, 1000), 0.1)
    assert math.sqrt(square_of(orthogonalised(matrix, 0))) == pytest.approx(1.0, abs=TOLERANCE)
