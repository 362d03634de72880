"""Clips the gradients of an optimizer that nothing wraps, in the moment before it steps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from dist_plm.distributed.groups import Groups
from dist_plm.models.sharding import Layout

#: The functions that PyTorch's own optimizers are made of, which it does not export.
_torch: Any = torch


class ClippedStep:
    """Clips before an optimizer that nothing of DeepSpeed wraps: ZeRO-0 in fp32, whose own clipping counts the copies of
    a tied weight twice and keeps the norm to itself. A gradient that is not finite is dropped, so that nothing moves.

    Args:
        layouts: of all parameters; a split one is counted on every tensor rank, a copy on none but its owner's.
    """

    def __init__(self, layouts: Sequence[Layout], groups: Groups, limit: float) -> None:
        first = groups.tensor.rank() == 0
        self._parameters = [layout.parameter for layout in layouts]
        self._counted = [p.parameter for p in layouts if (p.split_dim is not None or first) and not p.copy]
        self._group, self._limit, self._device = groups.model, limit, groups.device.torch_device
        self.norm = math.nan

    def __call__(self, *_: Any) -> None:
        """As a hook that runs before the optimizer's step."""
        gradients = [p.grad for p in self._counted if p.grad is not None]
        square = torch.zeros((), dtype=torch.float64, device=self._device)
        if gradients:
            square += torch.stack(_torch._foreach_norm(gradients)).double().square().sum()
        dist.all_reduce(square, group=self._group)
        self.norm = float(square.sqrt())
        held = [p.grad for p in self._parameters if p.grad is not None]
        if not math.isfinite(self.norm):
            for parameter in self._parameters:
                parameter.grad = None
        elif self._limit and self.norm > self._limit:
            _torch._foreach_mul_(held, self._limit / (self.norm + 1e-6))
