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

from dist_plm.models.kernels.linear_loss import VocabRange
from dist_plm.spec.objectives.base import TokenLoss

#: Columns that one program looks at together.
_BLOCK = 4096


@triton.jit
def _sums_of_rows(
    logits, labels, largest, sums, targets, totals, stride, first, valid, BLOCK: tl.constexpr, TOTAL: tl.constexpr
):
    """Finds each row's largest logit, the sum of exponentials beside it, and the logit of its label (0 if another's); with
    TOTAL the sum of its logits too."""
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * stride
    high, total = tl.full((), float("-inf"), tl.float32), tl.zeros((), tl.float32)
    plain = tl.zeros((), tl.float32)
    for begin in range(0, valid, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        values = tl.load(base + columns, mask=columns < valid, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(high, tl.max(values, 0))
        total = total * tl.exp(high - higher) + tl.sum(tl.exp(values - higher), 0)
        high = higher
        if TOTAL:
            plain += tl.sum(tl.where(columns < valid, values, 0.0), 0)
    column = tl.load(labels + row) - first
    mine = (column >= 0) & (column < valid)
    tl.store(largest + row, high)
    tl.store(sums + row, total)
    tl.store(targets + row, tl.load(base + column, mask=mine, other=0.0).to(tl.float32))
    if TOTAL:
        tl.store(totals + row, plain)


@triton.jit
def _gradients_of_rows(
    logits, labels, largest, sums, stride, first, valid, width, scale, own, spread, z_loss, BLOCK: tl.constexpr
):
    """Puts `scale` (softmax (1 + 2 z_loss log Z) - own one-hot - spread) in the logits' place; 0 in rows without a label and
    in columns of no token."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = logits + row * stride + columns
    label = tl.load(labels + row)
    high, total = tl.load(largest + row), tl.load(sums + row)
    factor = tl.where(label >= 0, scale / total * (1.0 + 2.0 * z_loss * (high + tl.log(total))), 0.0)
    values = tl.load(at, mask=columns < valid, other=float("-inf")).to(tl.float32)
    values = tl.exp(values - high) * factor
    values -= tl.where((columns == label - first) & (label >= 0), scale * own, 0.0)
    values -= tl.where(label >= 0, scale * spread, 0.0)
    values = tl.where(columns < valid, values, 0.0)
    tl.store(at, values.to(logits.dtype.element_ty), mask=columns < width)


def into_gradient(
    logits: Tensor, labels: Tensor, columns: VocabRange, token_loss: TokenLoss, *, scale: float, gradient: bool
) -> Tensor:
    """Gives the losses [n] fp32, and turns logits [n, width] in place into the gradient of their sum, times `scale`.

    Collective over the ranks that split the vocabulary. Columns from `columns.valid` on are of no token.

    Args:
        gradient: whether it is wanted; else logits stay.
    """
    group, first, valid, size = columns
    count, width = logits.shape
    assert logits.stride(1) == 1
    smoothing, z_loss = token_loss.label_smoothing, token_loss.z_loss
    largest, sums, targets, totals = torch.empty((4, count), dtype=torch.float32, device=logits.device)
    options = {"BLOCK": _BLOCK, "num_warps": 8}
    rows = (logits, labels, largest, sums)
    total = smoothing > 0
    _sums_of_rows[(count,)](*rows, targets, totals, logits.stride(0), first, valid, TOTAL=total, **options)
    told = [targets, totals] if total else [targets]
    if group.size() > 1:
        largest, sums, *told = _of_all_ranks(group, largest, sums, *told)
    if gradient:
        grid, places = (count, triton.cdiv(width, _BLOCK)), (logits.stride(0), first, valid, width)
        learned = (scale, 1.0 - smoothing, smoothing / size, z_loss)
        _gradients_of_rows[grid](logits, labels, largest, sums, *places, *learned, **options)
    log_z = sums.log() + largest
    losses = log_z - (1.0 - smoothing) * told[0] if total else log_z - told[0]
    if total:
        losses -= smoothing / size * told[1]
    if z_loss:
        losses += z_loss * log_z.square()
    return torch.where(labels >= 0, losses, 0.0)


def _of_all_ranks(group: dist.ProcessGroup, largest: Tensor, sums: Tensor, *told: Tensor) -> tuple[Tensor, ...]:
    own = largest.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    both = torch.stack([sums * (own - largest).exp(), *told])
    dist.all_reduce(both, group=group)
    return largest, *both
