"""The gradient of LayerNorm on the CPU, for where PyTorch's own loses what matters (row_sums).

layer_norm_backward(grad, x, weight, eps): gradients of x, weight and bias.
"""

from typing import Any

import torch
from torch import Tensor

from dist_plm.models.kernels.dropout import LIBRARY
from dist_plm.models.kernels.mask_bits import blocks

LIBRARY.define("layer_norm_backward(Tensor grad, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor, Tensor)")


@torch.library.impl(LIBRARY, "layer_norm_backward", "CPU")
def layer_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    width, scale = x.shape[-1], weight.float()
    result = torch.empty(x.shape, dtype=x.dtype)
    of_weight, of_bias = torch.zeros(2, width, dtype=torch.float64)
    grad, x = grad.reshape(-1, width), x.reshape(-1, width)
    for block in blocks(len(x), width):
        normed, _, factors = torch.native_layer_norm(x[block].float(), [width], None, None, eps)
        through = grad[block].float()
        product = through * normed
        of_weight += product.sum(0)
        of_bias += through.sum(0)
        # d(n)/dx = r (1 - mean(·) - n · mean(n ·)) for n = (x - mean(x)) r, the means weighted like the output.
        mean = torch.mv(through, scale).div_(width)[:, None]
        along = torch.mv(product, scale).div_(width)[:, None]
        result.view(-1, width)[block] = (through * scale).sub_(mean).sub_(normed.mul_(along)).mul_(factors)
    return result, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


@torch.library.impl(LIBRARY, "layer_norm_backward", "Meta")
def _shapes(_: Tensor, x: Tensor, weight: Tensor, *__: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight), torch.empty_like(weight)
