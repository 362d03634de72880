"""LayerNorm and RMSNorm that run under sequence parallelism.

Each tensor rank then normalises its slice of the sequence, so the gradients of weight and bias are partial sums: the flag
`sequence_parallel` on the parameters makes the engine add them over the tensor group.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.models.kernels import cpu_norms as _operations  # noqa: F401  # registers torch.ops.dist_plm
from dist_plm.models.kernels.row_sums import loses
from dist_plm.spec.schema import ModelConfig


class LayerNorm(nn.Module):
    """Ba et al. 2016. Statistics are computed in fp32 whatever the type of the input."""

    def __init__(
        self, hidden: int, eps: float, dtype: torch.dtype, device: torch.device, sequence_parallel: bool
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.empty(hidden, dtype=dtype, device=device))
        for parameter in self.parameters():
            parameter.sequence_parallel = sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, hidden: Tensor) -> Tensor:
        if loses(hidden, hidden.numel() // hidden.shape[-1]):
            return _LayerNorm.apply(hidden, self.weight, self.bias, self.eps)
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.eps = eps
        return functional.layer_norm(hidden, weight.shape, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        learns = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        found = torch.ops.dist_plm.layer_norm_backward(grads[0], *ctx.saved_tensors, ctx.eps, learns)
        return found[0], *(found[1:] if learns else (None, None)), None


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019, equation 4. Statistics are computed in fp32 whatever the type of the input."""

    def __init__(
        self, hidden: int, eps: float, dtype: torch.dtype, device: torch.device, sequence_parallel: bool
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden, dtype=dtype, device=device))
        self.weight.sequence_parallel = sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, hidden: Tensor) -> Tensor:
        # Compiled code makes one pass of PyTorch's own.
        if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
            return _RMSNorm.apply(hidden, self.weight, self.eps)
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, factors = torch.ops.dist_plm.rms_norm(hidden, weight, eps)
        ctx.save_for_backward(hidden, weight, factors)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        learns = ctx.needs_input_grad[1]
        of_hidden, of_weight = torch.ops.dist_plm.rms_norm_backward(grads[0], *ctx.saved_tensors, learns)
        return of_hidden, of_weight if learns else None, None


def build_norm(
    model: ModelConfig, dtype: torch.dtype, device: torch.device, sequence_parallel: bool, size: int | None = None
) -> nn.Module:
    """Builds the norm of vectors of `size`, model.hidden if None."""
    kind = LayerNorm if model.norm == "layernorm" else RMSNorm
    return kind(size or model.hidden, model.norm_eps, dtype, device, sequence_parallel)
