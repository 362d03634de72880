"""Newton-Schulz steps near an orthogonal matrix, and the size of an update is AdamW's."""

import pytest
import torch

from dist_plm.optim.muon import orthogonalised


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32), (1, 8)])
def test_singular_values_are_driven_towards_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    update = orthogonalised(matrix, steps=5)
    values = torch.diagonal(u.T @ update @ v.T)
    assert update.shape == shape
    assert float(values[: values.numel() * 3 // 4 + 1].min()) > 0.6
    assert float(values.max()) < 1.25


def test_a_matrix_of_zeros_stays_zero():
    assert not orthogonalised(torch.zeros(4, 6), steps=5).any()


def test_the_update_has_the_stated_root_mean_square():
    """Of M x N with full rank the factor is √max(M, N): 0.2, about that of AdamW's updates (arXiv 2502.16982)."""
    matrix = torch.randn((128, 512), generator=torch.Generator().manual_seed(2))
    update = orthogonalised(matrix, steps=5) * 0.2 * 512**0.5
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.15)
