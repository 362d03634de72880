"""Norms against fp64, over sizes, scales, precisions and shards."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.optim.square_sums import ROW, sum_squares

#: Of a norm; half of that of its square.
TOLERANCE = 1e-7


def exact(values: torch.Tensor) -> torch.Tensor:
    """In pieces, as the whole in fp64 would take twice its memory."""
    return torch.stack([piece.double().square().sum() for piece in values.reshape(-1).split(2**22)]).sum()


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, of the norm."""
    return float((actual.sqrt() / expected.sqrt() - 1).abs())


@pytest.mark.parametrize(
    "size",
    [1, 7, ROW - 1, ROW, ROW + 1, 30522 * 768, 50257 * 768, pytest.param(100_000_000, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_any_size(size, scale):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)).mul_(scale)
    (total,) = sum_squares([values])
    assert error(total, exact(values)) < TOLERANCE


@pytest.mark.parametrize("shards", [2, 3, 8, 1000])
def test_shards_do_not_matter(shards):
    values = torch.randn(50257 * 768, generator=torch.Generator().manual_seed(0))
    (whole,) = sum_squares([values])
    assert error(sum_squares(values.chunk(shards)).sum(), whole) < TOLERANCE
    columns = values.view(50257, 768).chunk(4, dim=1)
    assert error(sum_squares(columns).sum(), whole) < TOLERANCE


@given(st.lists(st.integers(1, 3 * ROW), min_size=1, max_size=8), st.data())
def test_any_cuts(sizes, data):
    values = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(sum(sizes)))
    cuts = sorted(data.draw(st.lists(st.integers(0, values.numel()), max_size=5)))
    pieces = [values[a:b] for a, b in itertools.pairwise([0, *cuts, values.numel()])]
    assert error(sum_squares(pieces).sum(), exact(values)) < TOLERANCE
    for total, part in zip(sum_squares(values.split(sizes)), values.split(sizes), strict=True):
        assert error(total, exact(part)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    values = torch.randn(3_000_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    (total,) = sum_squares([values])
    assert error(total, exact(values)) < TOLERANCE


@pytest.mark.parametrize("kind", ["constant", "sorted", "one_large", "ones_and_tiny"])
def test_values_that_rounding_does_not_average_out(kind):
    """Where every square is rounded the same way, errors add up."""
    values = torch.full((20_000_000,), 0.1)
    if kind == "sorted":
        values = torch.linspace(0.0, 1.0, 20_000_000)
    elif kind == "one_large":
        values[0] = 1e4
    elif kind == "ones_and_tiny":
        values[1::2] = 1e-4
    (total,) = sum_squares([values])
    assert error(total, exact(values)) < TOLERANCE


def test_what_is_not_finite_shows():
    values = torch.zeros(2 * ROW + 5)
    for place in (0, ROW, 2 * ROW + 4):
        for bad in (torch.inf, -torch.inf, torch.nan):
            broken = values.clone()
            broken[place] = bad
            assert not sum_squares([values, broken])[1].isfinite()
    assert sum_squares([values, values[:0]]).tolist() == [0.0, 0.0]
    assert sum_squares([]).shape == (0,)
