"""Norms on the CPU, where PyTorch's own lose what matters (row_sums) or go over memory six times; on CUDA they are one kernel.

rms_norm(x, weight, eps): x / sqrt(mean(x²) + eps) · weight over the last dim, and the factors [..., 1] fp32.
rms_norm_backward(grad, x, weight, factors, learns): gradients of x and weight.
layer_norm_backward(grad, x, weight, eps, learns): gradients of x, weight and bias of PyTorch's LayerNorm.
Where weight and bias do not learn, empty tensors stand for their gradients.
"""

from typing import Any

import torch
from torch import Tensor

from dist_plm.models.kernels.dropout import LIBRARY
from dist_plm.models.kernels.mask_bits import blocks

#: Elements whose norms are found at once.
_BLOCK = 2**18
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward

LIBRARY.define(
    "layer_norm_backward(Tensor grad, Tensor x, Tensor weight, float eps, bool learns) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)")
LIBRARY.define(
    "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor factors, bool learns) -> (Tensor, Tensor)"
)


@torch.library.impl(LIBRARY, "rms_norm", "CPU")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out = torch.empty(x.shape, dtype=x.dtype)
    factors = torch.empty((*x.shape[:-1], 1), dtype=torch.float32)
    flat, width, scale = x.reshape(-1, x.shape[-1]), x.shape[-1], weight.float()
    for block in blocks(len(flat), width, _BLOCK):
        wide = flat[block].float()
        own = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(width).add_(eps).rsqrt_()
        factors.view(-1, 1)[block] = own
        out.view(-1, width)[block] = (wide * own).mul_(scale)
    return out, factors


@torch.library.impl(LIBRARY, "rms_norm_backward", "CPU")
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, factors: Tensor, learns: bool) -> tuple[Tensor, Tensor]:
    width, scale = x.shape[-1], weight.float()
    result, total = torch.empty(x.shape, dtype=x.dtype), torch.zeros(width * learns, dtype=torch.float64)
    grad, x, factors = grad.reshape(-1, width), x.reshape(-1, width), factors.reshape(-1, 1)
    for block in blocks(len(x), width, _BLOCK):
        normed, through = x[block].float() * factors[block], grad[block].float()
        product = through * normed
        if learns:
            total += product.sum(0)
        # d(x r)/dx = r (1 - x r · mean(x r ·)), the mean weighted like the output.
        mean = torch.mv(product, scale).div_(width)[:, None]
        result.view(-1, width)[block] = (through * scale).sub_(normed.mul_(mean)).mul_(factors[block])
    return result, total.to(weight.dtype)


@torch.library.impl(LIBRARY, "rms_norm", "Meta")
def _rms_norm_shapes(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.impl(LIBRARY, "rms_norm_backward", "Meta")
def _rms_norm_backward_shapes(
    grad: Tensor, x: Tensor, weight: Tensor, _: Tensor, learns: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(len(weight) * learns)


@torch.library.impl(LIBRARY, "layer_norm_backward", "CPU")
def layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, learns: bool
) -> tuple[Tensor, Tensor, Tensor]:
    width, scale = x.shape[-1], weight.float()
    result = torch.empty(x.shape, dtype=x.dtype)
    of_weight, of_bias = torch.zeros(2, width * learns, dtype=torch.float64)
    grad, x = grad.reshape(-1, width), x.reshape(-1, width)
    one, zero = torch.ones(width), torch.zeros(width)
    for block in blocks(len(x), width, _BLOCK):
        # With a weight and a bias that change nothing: without any PyTorch's takes three times as long.
        normed, _, factors = torch.native_layer_norm(x[block].float(), [width], one, zero, eps)
        through = grad[block].float()
        # Of what is normed already the mean is 0 and the deviation 1, which loses less far from zero.
        zeros, ones = torch.zeros_like(factors), torch.ones_like(factors)
        found = _layer_norm_backward(through, normed, [width], zeros, ones, scale, None, [True, False, False])[0]
        result.view(-1, width)[block] = found.mul_(factors)
        if learns:
            of_weight += normed.mul_(through).sum(0)
            of_bias += through.sum(0)
    return result, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


@torch.library.impl(LIBRARY, "layer_norm_backward", "Meta")
def _layer_norm_shapes(_: Tensor, x: Tensor, weight: Tensor, eps: float, learns: bool) -> tuple[Tensor, Tensor, Tensor]:
    of_weight, of_bias = (weight.new_empty(len(weight) * learns) for _ in range(2))
    return x.new_empty(x.shape), of_weight, of_bias
