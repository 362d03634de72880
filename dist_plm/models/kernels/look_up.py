"""Rows of a table by their numbers, whose gradients are added up without loss however often a row is looked up.

embedding_backward(grad, numbers, rows): the gradient [rows, H], on the CPU, of a table whose rows `numbers` [...] were
looked up.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dist_plm.models.kernels.dropout import LIBRARY
from dist_plm.models.kernels.row_sums import loses

LIBRARY.define("embedding_backward(Tensor grad, Tensor numbers, int rows) -> Tensor")


@torch.library.impl(LIBRARY, "embedding_backward", "CPU")
def embedding_backward(grad: Tensor, numbers: Tensor, rows: int) -> Tensor:
    width = grad.shape[-1]
    # In fp64 a whole vocabulary would be larger than all gradients of a microbatch.
    there, places = numbers.reshape(-1).unique(return_inverse=True)
    sums = torch.zeros(len(there), width, dtype=torch.float64).index_add_(0, places, grad.reshape(-1, width).double())
    return grad.new_zeros(rows, width).index_copy_(0, there, sums.to(grad.dtype))


@torch.library.impl(LIBRARY, "embedding_backward", "Meta")
def _shape(grad: Tensor, _: Tensor, rows: int) -> Tensor:
    return grad.new_empty(rows, grad.shape[-1])


def look_up(numbers: Tensor, weight: Tensor) -> Tensor:
    """[...] -> [..., H], of a table [rows, H]."""
    if loses(weight, numbers.numel()):
        return _LookUp.apply(numbers, weight)
    return functional.embedding(numbers, weight)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.rows = len(weight)
        return functional.embedding(numbers, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, torch.ops.dist_plm.embedding_backward(grads[0], *ctx.saved_tensors, ctx.rows)
