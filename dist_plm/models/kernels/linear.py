"""Products with weights, of the library that is the faster one where the run is.

On a CPU PyTorch leaves fp32 products to MKL, which on other vendors' chips runs at half of what oneDNN reaches there. Those
of 16 bits are oneDNN's anyway; asked by PyTorch it adds them to a bias that was copied for every row before. A CPU that does
not multiply 16 bits itself makes them in fp32, of operands turned to it, and rounds the result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dist_plm.models.kernels.dropout import LIBRARY

# A compiler that meets oneDNN's own takes its weight for a constant.
LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")

#: Multiply-adds of a product below which calling oneDNN costs more than it gains.
_FEWEST = 2**22
#: What a CPU may have to make products of in fp32.
_OF_16_BITS = frozenset((torch.bfloat16, torch.float16))
#: Rows of a gradient that stay in a core's cache while they are added up.
_ROWS = 4096
#: Rows of 16 bits below which turning a weight to fp32 costs more than it gains, where no gradient is wanted.
_FEWEST_ROWS = 8
#: Rows of a long product that oneDNN makes at once: of more it takes 1.6 times as long a row.
_LONG_ROWS = 384
#: Columns of a wide product that the CPU makes at once: of 50,304 it takes 1.15 times as long a column as of these.
_COLUMNS = 768
#: In 16 bits: oneDNN takes 1.3 times as long.
_COLUMNS_OF_16_BITS = 8192
#: Columns that are made at once anyway.
_FEWEST_COLUMNS = 4096


class _Way(NamedTuple):
    onednn: bool = False
    fp32: bool = False


_way = _Way()


def _types_with_bias() -> frozenset[torch.dtype]:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or "AVX" not in torch.backends.cpu.get_cpu_capability():
        return frozenset()
    known = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return frozenset(dtype for dtype, supported in known.items() if supported())


#: Types of 16 bits whose products oneDNN makes here with a bias in the same pass.
_WITH_BIAS = _types_with_bias()


def multiply_by(*, onednn: bool = False, fp32: bool = False) -> None:
    """Says how the CPU multiplies matrices from now on.

    Args:
        onednn: in fp32 by oneDNN, and not by PyTorch's default.
        fp32: those of 16 bits in fp32, and what is found is rounded.
    """
    global _way
    _way = _Way(onednn, fp32)


@contextmanager
def multiplying_by(*, onednn: bool = False, fp32: bool = False) -> Iterator[None]:
    """Chooses for a while."""
    before = _way
    multiply_by(onednn=onednn, fp32=fp32)
    try:
        yield
    finally:
        multiply_by(**before._asdict())


def widens(x: Tensor) -> bool:
    """Whether products of `x` are made in fp32, though it is of 16 bits."""
    return _way.fp32 and x.dtype in _OF_16_BITS and x.device.type == "cpu"


def by_another_way(x: Tensor) -> bool:
    """Whether large products of `x` are made in another way than PyTorch's default."""
    return widens(x) or _is_for_onednn(x)


def widened(x: Tensor) -> Tensor:
    """Gives `x` in the type in which it is multiplied."""
    return x.float() if widens(x) else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., H], [R, H], [R] -> [..., R]."""
    with_bias = bias is not None and x.dtype in _WITH_BIAS and x.device.type == "cpu"
    if with_bias or _goes_to_onednn(x, x.numel() * weight.shape[0]) or _widens_linear(x):
        return _Linear.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


def product(left: Tensor, right: Tensor) -> Tensor:
    """[N, K], [K, M] -> [N, M], where no gradient is wanted. Transposed views are taken as they are."""
    dtype, left, right = left.dtype, widened(left), widened(right)
    if _goes_to_onednn(left, left.numel() * right.shape[1]):
        return _by_onednn(left, right.t(), None).to(dtype)
    return torch.mm(left, right).to(dtype)


def add_product(total: Tensor, left: Tensor, right: Tensor, *, begins: bool = False) -> None:
    """Adds the product of [N, K] and [K, M] to [N, M] fp32.

    Args:
        begins: nothing was added before, and what `total` holds does not count.
    """
    if left.is_cuda and begins:
        total.zero_()
    left, right = widened(left), widened(right)
    if left.is_cuda and left.dtype != torch.float32:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
        return
    if left.is_cuda or (left.dtype == torch.float32 and not _goes_to_onednn(left, left.numel() * right.shape[1])):
        total.addmm_(left, right, beta=0.0 if begins else 1.0)
        return
    for first in range(0, len(left), _ROWS):
        rows, found = total[first : first + _ROWS], product(left[first : first + _ROWS], right)
        # Not `total[…] +=`, which Python ends by copying the rows onto themselves.
        rows.copy_(found) if begins else rows.add_(found)


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[N, H], [R, H], [R] -> [N, R] of many columns, such as logits, where no gradient is wanted."""
    in_16_bits = x.dtype in _OF_16_BITS  # oneDNN adds a bias of these itself
    if x.is_cuda or by_another_way(x) or len(weight) <= _FEWEST_COLUMNS or (in_16_bits and bias is not None):
        return linear(x, weight, bias)
    found = x.new_empty(len(x), len(weight))
    width = _COLUMNS_OF_16_BITS if in_16_bits else _COLUMNS
    for first in range(0, len(weight), width):
        columns = slice(first, first + width)
        factor, result = weight[columns].t(), found[:, columns]
        if bias is None:
            torch.mm(x, factor, out=result)
        else:
            torch.addmm(bias[columns], x, factor, out=result)
    return found


def long_product(left: Tensor, right: Tensor, total: Tensor) -> None:
    """Writes the product of [N, K] and [K, M] to [N, M], where each number is a sum of many, such as over a vocabulary."""
    by_onednn = not left.is_cuda and (left.dtype in _OF_16_BITS or by_another_way(left))
    parts = max(1, -(-len(left) // _LONG_ROWS)) if by_onednn else 1
    for rows, result in zip(left.chunk(parts), total.chunk(parts), strict=True):
        result.copy_(product(rows, right))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x_learns, weight_learns, _ = ctx.needs_input_grad
        ctx.shape = x.shape
        # The one is multiplied for the other's gradient alone.
        ctx.save_for_backward(x if weight_learns else None, weight if x_learns else None)
        wide = None if bias is None else widened(bias)
        return _multiplied(widened(x), widened(weight), wide).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        wide = widened(grad)
        return (
            product(wide, widened(weight)).to(grad.dtype).view(ctx.shape) if of_x else None,
            product(wide.t(), widened(x.reshape(-1, x.shape[-1]))).to(grad.dtype) if of_weight else None,
            wide.sum(0).to(grad.dtype) if of_bias else None,
        )


def _goes_to_onednn(x: Tensor, multiply_adds: int) -> bool:
    return multiply_adds >= _FEWEST and _is_for_onednn(x)


def _is_for_onednn(x: Tensor) -> bool:
    return _way.onednn and x.dtype == torch.float32 and x.device.type == "cpu"


def _widens_linear(x: Tensor) -> bool:
    return widens(x) and (torch.is_grad_enabled() or x.numel() >= _FEWEST_ROWS * x.shape[-1])


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype == torch.float32 and not _goes_to_onednn(x, x.numel() * weight.shape[0]):
        return functional.linear(x, weight, bias)
    return _by_onednn(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.ops.dist_plm.linear(x, weight, bias)
    return _of_onednn(x, weight, bias)


@torch.library.impl(LIBRARY, "linear", "CPU")
def _of_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.impl(LIBRARY, "linear", "Meta")
def _shape(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))
