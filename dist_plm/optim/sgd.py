"""Builds PyTorch's stochastic gradient descent."""

from collections.abc import Sequence
from typing import Any

import torch

from dist_plm.spec.optimizers.sgd import SgdConfig


def build(optim: SgdConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, foreach=True)
