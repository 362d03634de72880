"""Buckets of relative positions: the published ones, and the fewest and nearest that the rules allow."""

import pytest
import torch

from dist_plm.models.layers.relative import relative_buckets

OFFSETS = torch.arange(-200, 201)


@pytest.mark.parametrize(("num", "distance"), [(32, 128), (4, 3), (5, 3), (8, 5), (32, 17)])
@pytest.mark.parametrize("both_ways", [True, False])
def test_each_offset_has_one_of_the_buckets(num, distance, both_ways):
    """Farther keys never have a lower one, and the farthest the last of their direction."""
    buckets = relative_buckets(OFFSETS, num=num, distance=distance, both_ways=both_ways)
    before, after = buckets[OFFSETS <= 0].flip(0), buckets[OFFSETS > 0]
    last = (num // 2 if both_ways else num) - 1
    assert (before[0], before[-1]) == (0, last)
    assert (before.diff() >= 0).all()
    assert (after.diff() >= 0).all()
    assert after[-1] == (last + num // 2 if both_ways else 0)
