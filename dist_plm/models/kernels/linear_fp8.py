"""Products of numbers of 8 bits: e4m3 for activations and weights, e5m2 for gradients (Micikevicius et al. 2022, "FP8 formats
for deep learning", arXiv 2209.05433), on a GPU by PyTorch's scaled product.

Each tensor is scaled by what it holds at the moment: there is no history that checkpoints would have to keep and ranks to
agree on. Scales are powers of two, which round nothing: a tensor and its half are the same 8-bit numbers.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from dist_plm.spec.rules.fp8 import UNIT

_torch: Any = torch  # the product's name is private

#: The largest number of a scaled tensor lies between this and its double, which are both numbers of the type.
_BELOW_LARGEST = {torch.float8_e4m3fn: 2.0**7, torch.float8_e5m2: 2.0**14}
#: Of an fp32 number, what says the power of two.
_EXPONENT = 0x7F800000
#: A tensor of zeros is scaled as if this were its largest number.
_LEAST = 2.0**-100


def fp8_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, slices: dist.ProcessGroup | None = None
) -> Tensor:
    """[..., H], [R, H], [R] -> [..., R] of the type of `x`, bf16. Keeps `x` in 8 bits for the backward pass.

    H and R are multiples of `UNIT`. What is not finite in a tensor makes all of the result NaN.

    Args:
        slices: ranks that all have this `x`, of which each keeps its slice of the first dimension.
    """
    return _Fp8Linear.apply(x, weight, bias, slices)


def quantized(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rounds to 8 bits.

    Returns:
        Numbers of `kind`, and the scalar that they are to be multiplied by, fp32.
    """
    largest = x.abs().amax().float()
    power = (largest.view(torch.int32) & _EXPONENT).view(torch.float32).clamp(min=_LEAST)
    unit = power / _BELOW_LARGEST[kind]
    return (x * unit.reciprocal()).to(kind), unit


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slices: dist.ProcessGroup | None) -> Tensor:
        rows, unit = quantized(x.reshape(-1, x.shape[-1]), torch.float8_e4m3fn)
        kernel, kernel_unit = quantized(weight, torch.float8_e4m3fn)
        result = _product(rows, kernel.t(), unit, kernel_unit, x.dtype, is_fast=True)
        ctx.shape, ctx.slices = x.shape, slices
        # Of what does not learn, nothing is kept.
        learns = ctx.needs_input_grad[1]
        ctx.save_for_backward(_slice_of(rows, slices) if learns else None, unit if learns else None, weight)
        result = result.view(*x.shape[:-1], -1)
        return result if bias is None else result + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, unit, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        grad = grads[0].reshape(-1, weight.shape[0])
        small, grad_unit = quantized(grad, torch.float8_e5m2)
        found_x = found_weight = None
        if of_x:
            kernel, kernel_unit = quantized(weight, torch.float8_e4m3fn)
            found_x = _product(small, _by_columns(kernel), grad_unit, kernel_unit, grad.dtype).view(ctx.shape)
        if of_weight:
            whole = _padded(_whole_of(rows, ctx.slices))
            found_weight = _product(_padded(small).t().contiguous(), _by_columns(whole), grad_unit, unit, weight.dtype)
        return found_x, found_weight, grad.sum(0) if of_bias else None, None


def _slice_of(rows: Tensor, slices: dist.ProcessGroup | None) -> Tensor:
    if slices is None:
        return rows
    return rows.chunk(slices.size())[slices.rank()].clone()  # a view would keep all of them


def _whole_of(rows: Tensor, slices: dist.ProcessGroup | None) -> Tensor:
    """Puts slices together. Collective over `slices`."""
    if slices is None:
        return rows
    whole = rows.new_empty(slices.size() * len(rows), rows.shape[1])
    dist.all_gather_into_tensor(whole.view(torch.uint8), rows.view(torch.uint8), group=slices)
    return whole


def _padded(rows: Tensor) -> Tensor:
    """[M, H] of 8 bits -> [N, H] with N a multiple of `UNIT`, by rows of zeros: M is what the product adds up over."""
    if len(rows) % UNIT == 0:
        return rows
    return functional.pad(rows.view(torch.uint8), (0, 0, 0, -len(rows) % UNIT)).view(rows.dtype)


def _by_columns(matrix: Tensor) -> Tensor:
    """The same matrix as its columns lie one after another, as the second factor has to."""
    return matrix.t().contiguous().t()


def _product(
    left: Tensor, right: Tensor, left_unit: Tensor, right_unit: Tensor, dtype: torch.dtype, *, is_fast: bool = False
) -> Tensor:
    """`is_fast`: a GPU adds up in fewer bits, as is common for activations; gradients are added in fp32.

    A CPU's own scaled product takes hundreds of times as long as one in fp64, which nearly always adds these up exactly.
    """
    if not left.is_cuda:
        return (left.double() @ right.double()).mul_(left_unit * right_unit).to(dtype)
    units = {"scale_a": left_unit, "scale_b": right_unit}
    return _torch._scaled_mm(left, right, **units, out_dtype=dtype, use_fast_accum=is_fast)
