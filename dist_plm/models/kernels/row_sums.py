"""Says where PyTorch's own sums over rows are not to be relied on.

On the CPU it adds up the gradients of an embedding's row, and of LayerNorm's weight and bias, one after the other in the
type of the input. In bf16 13,000 of them end as 256 would; in fp32 8,192 are right to 1e-6 where their signs
differ, and to 6e-5 where they are alike.
"""

import torch
from torch import Tensor

#: So many rows fp32 adds up one after the other without harm.
_FEW_ROWS = 1024


def loses(values: Tensor, rows: int) -> bool:
    """Whether the sum over `rows` rows like those of `values` would lose what matters."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return values.dtype in (torch.bfloat16, torch.float16) or rows > _FEW_ROWS
