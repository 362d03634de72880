"""Buckets of relative positions: the published ones, and the fewest and nearest that the rules allow."""

import pytest
import torch

from dist_plm.models.layers.relative import RowsOfFew, relative_buckets

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


def test_rows_of_few_are_a_product_whose_matrix_is_not_kept():
    """As GPUs look them up: bit for bit what the product with one-hot rows gives, forward and backward, and of what is kept
    nothing has a value for each pair and bucket."""
    numbers = relative_buckets(torch.arange(40) - torch.arange(30)[:, None], num=32, distance=128, both_ways=True)
    weight = torch.randn(32, 4, requires_grad=True)
    product, upstream = (numbers[..., None] == torch.arange(32)).float() @ weight, torch.randn(30, 40, 4)
    (expected,) = torch.autograd.grad(product, weight, upstream)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        rows = RowsOfFew.apply(numbers, weight)
    assert torch.equal(rows, product)
    assert max(kept) == numbers.numel()
    assert torch.equal(torch.autograd.grad(rows, weight, upstream)[0], expected)
