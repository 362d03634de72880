"""The kernels of `kernels.dropout` for CUDA. The integers are those of `kernels.mask_bits`, to the bit.

Imported only where tensors are on a GPU, or by tests under Triton's interpreter (TRITON_INTERPRET=1).
"""

# Kernels are functions of the device: the annotations of Triton's arguments say nothing to a type checker.
# ruff: noqa: N803  # Triton writes what is known at compile time in capitals
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from dist_plm.models.kernels.mask_bits import threshold_of

#: Columns that one program of `dropout_add` covers.
_BLOCK = 1024


@triton.jit
def row_words(key, row):
    """Draws number `row` of the SplitMix64 stream of `key`: start and odd step of the row."""
    z = key.to(tl.uint64, bitcast=True) + (row.to(tl.uint64) + 1) * tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    z = (z ^ (z >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    z = (z ^ (z >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    z = z ^ (z >> 31)
    return z.to(tl.uint32), (z >> 32).to(tl.uint32) | 1


@triton.jit
def kept(start, step, pairs, threshold):
    """Tells which of the columns 2 n and 2 n + 1, n of `pairs`, stay: twice as many along the last dimension."""
    word = start + pairs.to(tl.uint32) * step
    word = (word ^ (word >> 16)) * tl.full((), 0x7FEB352D, tl.uint32)
    word = (word ^ (word >> 15)) * tl.full((), 0x846CA68B, tl.uint32)
    word = word ^ (word >> 16)
    half = tl.interleave(word & 0xFFFF, word >> 16)
    # Halves count as signed numbers.
    return (half ^ 0x8000).to(tl.int32) >= threshold


@triton.jit
def _dropout_add(
    x, residual, out, keys, first_row, threshold, scale, batch, width, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    start, step = row_words(tl.load(keys + row % batch), first_row + row // batch)
    at = row.to(tl.int64) * width + columns
    value = tl.load(x + at, mask=inside).to(tl.float32)
    pairs = tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    value = tl.where(kept(start, step, pairs, threshold), value * scale, 0.0)
    if ADD:
        value += tl.load(residual + at, mask=inside).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


def dropout_add(x: Tensor, residual: Tensor | None, keys: Tensor, first_row: int, probability: float) -> Tensor:
    x = x.contiguous()
    length, batch, width = x.shape
    out = torch.empty_like(x)
    other = x if residual is None else residual.contiguous()
    block = min(_BLOCK, triton.next_power_of_2(width))
    _dropout_add[(length * batch, triton.cdiv(width, block))](
        x,
        other,
        out,
        keys.contiguous(),
        first_row,
        threshold_of(probability),
        1.0 / (1.0 - probability),
        batch,
        width,
        ADD=residual is not None,
        BLOCK=block,
    )
    return out
