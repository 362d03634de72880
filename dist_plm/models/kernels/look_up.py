"""Rows of a table by their numbers, whose gradients are added up without loss however often a row is looked up.

add_rows_(total, grad, numbers, exactly): adds gradients to rows of a buffer in place.
embedding_backward(grad, numbers, rows): the gradient [rows, H], on the CPU, of a table whose rows `numbers` [...] were
looked up.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dist_plm.models.kernels.dropout import LIBRARY
from dist_plm.models.kernels.row_sums import buffer_of, loses

LIBRARY.define("add_rows_(Tensor(a!) total, Tensor grad, Tensor numbers, bool exactly) -> ()")
LIBRARY.define("embedding_backward(Tensor grad, Tensor numbers, int rows) -> Tensor")


@torch.library.impl(LIBRARY, "embedding_backward", "CPU")
def embedding_backward(grad: Tensor, numbers: Tensor, rows: int) -> Tensor:
    there, sums = _sums_of_rows(grad, numbers)
    return grad.new_zeros(rows, grad.shape[-1]).index_copy_(0, there, sums.to(grad.dtype))


def _sums_of_rows(grad: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the rows that were looked up, each once, and the sums of their gradients in fp64."""
    width = grad.shape[-1]
    # In fp64 a whole vocabulary would be larger than all gradients of a microbatch.
    there, places = numbers.reshape(-1).unique(return_inverse=True)
    sums = torch.zeros(len(there), width, dtype=torch.float64).index_add_(0, places, grad.reshape(-1, width).double())
    return there, sums


@torch.library.impl(LIBRARY, "add_rows_", "CPU")
def add_rows_(total: Tensor, grad: Tensor, numbers: Tensor, exactly: bool) -> None:
    if exactly:
        there, sums = _sums_of_rows(grad, numbers)
        total.index_add_(0, there, sums.to(total.dtype))
    else:
        rows = grad.reshape(-1, grad.shape[-1]).to(total.dtype)
        total.scatter_add_(0, numbers.reshape(-1, 1).expand(rows.shape), rows)


@torch.library.impl(LIBRARY, "add_rows_", "Meta")
def _adds_rows(*_: Any) -> None:
    """Numbers are added in place."""


@torch.library.impl(LIBRARY, "embedding_backward", "Meta")
def _shape(grad: Tensor, _: Tensor, rows: int) -> Tensor:
    return grad.new_empty(rows, grad.shape[-1])


def look_up(numbers: Tensor, weight: Tensor) -> Tensor:
    """[...] -> [..., H], of a table [rows, H]."""
    if sums_itself(weight, numbers.numel()):
        return _LookUp.apply(numbers, weight)
    return functional.embedding(numbers, weight)


def sums_itself(weight: Tensor, count: int) -> bool:
    """Whether the gradients of `count` rows are added up here: PyTorch's sum would lose something, or has a place to go to."""
    return loses(weight, count) or buffer_of(weight) is not None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.weight = weight
        return functional.embedding(numbers, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None]:
        (numbers,) = ctx.saved_tensors
        total = buffer_of(ctx.weight)
        if total is None:
            return None, torch.ops.dist_plm.embedding_backward(grads[0], numbers, len(ctx.weight))
        torch.ops.dist_plm.add_rows_(total, grads[0], numbers, loses(ctx.weight, numbers.numel()))
        return None, None
