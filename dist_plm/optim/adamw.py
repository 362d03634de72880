"""Builds PyTorch's AdamW."""

from collections.abc import Sequence
from typing import Any

import torch

from dist_plm.optim.adam import FusedAdam
from dist_plm.spec.optimizers.adam import AdamWConfig


class FusedAdamW(FusedAdam, torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019), updated by one kernel."""


def build(optim: AdamWConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.AdamW:
    return FusedAdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
