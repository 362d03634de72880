"""The kernels of `kernels.linear_loss` for CUDA: logits are read twice and written once.

Imported only where tensors are on a GPU, or by tests under Triton's interpreter (TRITON_INTERPRET=1).
"""

# Kernels are functions of the device: the annotations of Triton's arguments say nothing to a type checker.
# ruff: noqa: N803  # Triton writes what is known at compile time in capitals
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false

import torch
import torch.distributed as dist
import triton
import triton.language as tl
from torch import Tensor

#: Columns that one program looks at together.
_BLOCK = 4096


@triton.jit
def _sums_of_rows(logits, labels, largest, sums, targets, stride, first, valid, BLOCK: tl.constexpr):
    """Finds each row's largest logit, the sum of exponentials beside it, and the logit of its label (0 if another's)."""
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * stride
    high, total = tl.full((), float("-inf"), tl.float32), tl.zeros((), tl.float32)
    for begin in range(0, valid, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        values = tl.load(base + columns, mask=columns < valid, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(high, tl.max(values, 0))
        total = total * tl.exp(high - higher) + tl.sum(tl.exp(values - higher), 0)
        high = higher
    column = tl.load(labels + row) - first
    mine = (column >= 0) & (column < valid)
    tl.store(largest + row, high)
    tl.store(sums + row, total)
    tl.store(targets + row, tl.load(base + column, mask=mine, other=0.0).to(tl.float32))


@triton.jit
def _gradients_of_rows(logits, labels, largest, sums, stride, first, valid, width, scale, BLOCK: tl.constexpr):
    """Puts `scale` (softmax - one-hot) in the logits' place; 0 in rows without a label and in columns of no token."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = logits + row * stride + columns
    label = tl.load(labels + row)
    factor = tl.where(label >= 0, scale / tl.load(sums + row), 0.0)
    values = tl.load(at, mask=columns < valid, other=float("-inf")).to(tl.float32)
    values = tl.exp(values - tl.load(largest + row)) * factor
    values -= tl.where((columns == label - first) & (label >= 0), scale, 0.0)
    values = tl.where(columns < valid, values, 0.0)
    tl.store(at, values.to(logits.dtype.element_ty), mask=columns < width)


def softmax_gradient(
    logits: Tensor,
    labels: Tensor,
    group: dist.ProcessGroup,
    first: int,
    valid: int,
    *,
    scale: float,
    gradient: bool,
) -> Tensor:
    """Gives the losses [n] fp32, and turns logits [n, width] in place into the gradient of their sum, times `scale`.

    Collective over `group`, which splits the vocabulary.

    Args:
        first, valid: as in `linear_loss.VocabRange`; columns from `valid` on are of no token.
        gradient: whether it is wanted; else logits stay.
    """
    count, width = logits.shape
    assert logits.stride(1) == 1
    largest, sums, targets = torch.empty((3, count), dtype=torch.float32, device=logits.device)
    _sums_of_rows[(count,)](
        logits, labels, largest, sums, targets, logits.stride(0), first, valid, BLOCK=_BLOCK, num_warps=8
    )
    if group.size() > 1:
        largest, sums, targets = _of_all_ranks(group, largest, sums, targets)
    if gradient:
        _gradients_of_rows[(count, triton.cdiv(width, _BLOCK))](
            logits, labels, largest, sums, logits.stride(0), first, valid, width, scale, BLOCK=_BLOCK, num_warps=8
        )
    return torch.where(labels >= 0, sums.log() + largest - targets, 0.0)


def _of_all_ranks(group: dist.ProcessGroup, largest: Tensor, sums: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    own = largest.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    both = torch.stack([sums * (own - largest).exp(), targets])
    dist.all_reduce(both, group=group)
    return largest, *both
