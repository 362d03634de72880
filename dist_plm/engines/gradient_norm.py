"""Measures the norm of the whole model's gradient, by which both engines clip.

That is the one moment of a step in which the host waits for the device, so the sums of the losses come with the norm.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.distributed.collectives import all_reduce
from dist_plm.models.sharding import ShardSpec
from dist_plm.optim.square_sums import sum_squares

#: The functions that PyTorch's own optimizers are made of, which it does not export.
_torch: Any = torch


class GradientNorm:
    """Measures the norm, and reads it from the device together with other numbers of the step.

    Args:
        group: the ranks whose gradients make up the whole model's, each counted once.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group, self._device = group, device
        self._waiting: Tensor | None = None
        self._told: list[float] = []

    def expect(self, numbers: Tensor) -> None:
        """Takes numbers of the step, [N] fp64, that are to be read with the norm."""
        self._waiting = numbers

    def measure(self, gradients: Sequence[Tensor]) -> float:
        """Computes the norm over all ranks of the group. Collective.

        Args:
            gradients: what this rank counts, none of which another rank of the group does.
        """
        square = torch.zeros(1, dtype=torch.float64, device=self._device)
        if gradients:
            square += sum_squares(gradients).sum().to(self._device)
        all_reduce(square, self._group)
        *self._told, total = (torch.cat([self._waiting, square]) if self._waiting is not None else square).tolist()
        self._waiting = None
        return math.sqrt(total)

    def told(self) -> list[float]:
        """Gives the numbers that were expected, of a step whose norm was not measured as well."""
        if self._waiting is not None:
            self._told, self._waiting = self._waiting.tolist(), None
        return self._told


def clip(gradients: Sequence[Tensor], norm: float, limit: float) -> None:
    """Scales gradients down where their norm is larger than the limit; 0 is none."""
    share = limit / (norm + 1e-6)
    if limit and share < 1.0 and gradients:
        _torch._foreach_mul_(gradients, share)


class ClippedStep:
    """Clips before an optimizer that nothing of DeepSpeed wraps: ZeRO-0 in fp32, whose own clipping counts the copies of
    a tied weight twice and keeps the norm to itself. A gradient that is not finite is dropped, so that nothing moves.

    Args:
        shard_specs: of all parameters; a split one is counted on every tensor rank, a copy on none but its owner's.
        first: whether this is the tensor rank that counts what others hold alike.
        norm: over the ranks that hold parts of one model.
    """

    def __init__(self, shard_specs: Sequence[ShardSpec], norm: GradientNorm, limit: float, *, first: bool) -> None:
        self._parameters = [shard_spec.parameter for shard_spec in shard_specs]
        self._counted = [p.parameter for p in shard_specs if (p.split_dim is not None or first) and not p.copy]
        self._norm, self._limit = norm, limit
        self.norm = math.nan

    def __call__(self, *_: Any) -> None:
        """Clips, as a hook that runs before the optimizer's step."""
        self.norm = self._norm.measure([p.grad for p in self._counted if p.grad is not None])
        if math.isfinite(self.norm):
            clip([p.grad for p in self._parameters if p.grad is not None], self.norm, self._limit)
        else:
            for parameter in self._parameters:
                parameter.grad = None
