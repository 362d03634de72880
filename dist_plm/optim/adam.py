"""Builds PyTorch's Adam."""

from collections.abc import Sequence
from typing import Any

import torch

from dist_plm.spec.optimizers.adam import AdamConfig


def build(optim: AdamConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Adam:
    return torch.optim.Adam(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
