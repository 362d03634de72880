"""Says where sums of gradients over rows are not left to PyTorch.

On the CPU it adds up the gradients of an embedding's row, and of LayerNorm's weight and bias, one after the other in the
type of the input. In bf16 13,000 of them end as 256 would; in fp32 8,192 are right to 1e-6 where their signs
differ, and to 6e-5 where they are alike.

CUDA's sums are left to PyTorch: its kernel for up to 3,072 tokens adds parts of 32 in the type of the weights, in bf16 to 1.1 %
where one rounding is 0.16 %, and the larger one adds in fp32. An exact one in fp32 would take ten launches more.

Those of a matrix over the vocabulary, often most of a model, are added straight to the buffer that an engine keeps for a
parameter, where it has one and says so. On the way that autograd knows they are made whole in the parameter's own type, where
the matrix is tied added to each other, and then to the buffer.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: So many rows fp32 adds up one after the other without harm.
_FEW_ROWS = 1024


def loses(values: Tensor, rows: int) -> bool:
    """Whether the sum over `rows` rows like those of `values` would lose what matters."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return values.dtype in (torch.bfloat16, torch.float16) or rows > _FEW_ROWS


def add_directly(parameters: Iterable[nn.Parameter]) -> None:
    """Says that gradients may be added to `main_grad` of these parameters: nobody waits for autograd's."""
    for parameter in parameters:
        parameter.adds_directly = True  # pyright: ignore[reportAttributeAccessIssue]


def buffer_of(parameter: Tensor) -> Tensor | None:
    """Finds where the gradients of a parameter are added up; None where autograd has to be given them."""
    return parameter.main_grad if getattr(parameter, "adds_directly", False) else None  # pyright: ignore[reportAttributeAccessIssue]
