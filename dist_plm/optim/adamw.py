"""Builds PyTorch's AdamW."""

from collections.abc import Sequence
from typing import Any

import torch

from dist_plm.spec.optimizers.adam import AdamWConfig


def build(optim: AdamWConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
