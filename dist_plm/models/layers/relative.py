"""T5's relative positions (Raffel et al. 2020, section 2.1): a learned number for each head and bucket of distances."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.models.kernels.look_up import look_up
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sharding import split_over_tensor_ranks
from dist_plm.spec.families.t5 import T5Config


class RelativeBias(nn.Module):
    """One table, shared by all layers of a stack; its heads are split over tensor ranks, whose context ranks each use some.

    Args:
        both_ways: whether tokens also attend to those after them.
    """

    def __init__(self, shared: ModelContext, *, both_ways: bool) -> None:
        super().__init__()
        model = shared.model
        assert isinstance(model, T5Config)
        self.shared = shared
        self.buckets, self.distance, self.both_ways = model.relative_buckets, model.relative_distance, both_ways
        heads = model.heads // shared.groups.grid.tensor
        self.weight = nn.Parameter(torch.empty(self.buckets, heads, dtype=shared.dtype, device=shared.device))
        split_over_tensor_ranks(self.weight, 1)

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Computes what is added to the scores of queries `rows` [Q] and keys `columns` [K]: [1, A, Q, K]."""
        weight = self.weight.chunk(self.shared.context_ranks, dim=1)[self.shared.context_index]
        buckets = relative_buckets(
            columns - rows[:, None], num=self.buckets, distance=self.distance, both_ways=self.both_ways
        )
        chosen = RowsOfFew.apply(buckets, weight) if weight.is_cuda else look_up(buckets, weight)
        return chosen.permute(2, 0, 1)[None]


class RowsOfFew(torch.autograd.Function):
    """Looks up rows [..., H] of a table [rows, H] by numbers [...], far more of them than there are rows.

    A GPU would add up the gradients of a row one after the other: here a product does. Its matrix, as large as all numbers
    times all rows, is made for it alone, not kept from the forward pass on."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.rows = len(weight)
        return functional.embedding(numbers, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (numbers,) = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        is_chosen = numbers.reshape(-1, 1) == torch.arange(ctx.rows, device=numbers.device)
        return None, is_chosen.to(grad.dtype).t() @ grad


def relative_buckets(offset: Tensor, *, num: int, distance: int, both_ways: bool) -> Tensor:
    """Buckets of key position minus query position: near ones have their own, farther ones share in logarithmic steps, and
    all from `distance` on share the last. Where tokens attend both ways each direction has half of the `num` buckets.
    """
    ahead = torch.zeros_like(offset)
    if both_ways:
        num //= 2
        ahead = (offset > 0).long() * num
        offset = offset.abs()
    else:
        offset = (-offset).clamp(min=0)
    exact = num // 2
    steps = torch.log(offset.clamp(min=1).float() / exact) / math.log(distance / exact) * (num - exact)
    far = (exact + steps.long()).clamp(max=num - 1)
    return ahead + torch.where(offset < exact, offset, far)
