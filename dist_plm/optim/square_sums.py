"""Adds up squares rightly at any size, for every norm of weights, updates and gradients.

`torch._foreach_norm` and `torch.norm` on CPU add squares to one fp32 number a lane: over the 38.6 million elements of GPT-2's
embedding that loses 2.7e-3 of the norm, and other amounts of other shards, so that each grid would train by a norm of its own.
Here fp32 adds up short rows, and fp64 the rows: no size and no sharding shows by more than 1e-7.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: The functions that PyTorch's own optimizers are made of, which it does not export.
_torch: Any = torch
#: Elements that fp32 adds up by itself: long enough for speed, too short for equal roundings to add up to 1e-7.
ROW = 128


def sum_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Adds up the squares of each tensor, [N] fp64, on the device of the tensors, without waiting for it.

    Right to 1e-7 while squares stay within the range of fp32.
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    if tensors[0].device.type == "cpu":
        return _on_host(tensors)
    # A few launches for all; the sums are fp64 from the first element on.
    return torch.stack(_torch._foreach_norm(tensors, 2, torch.float64)).square()


def _on_host(tensors: Sequence[Tensor]) -> Tensor:
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    rests = [values[values.numel() // ROW * ROW :] for values in flat]
    # In fp64 it copies what it reads, which is little here.
    sums = torch.stack(_torch._foreach_norm(rests, 2, torch.float64)).square_()
    for total, values in zip(sums, flat, strict=True):
        if rows := values.numel() // ROW:
            # One pass over memory where the tensor is fp32.
            norms = torch.linalg.vector_norm(
                values[: rows * ROW].view(rows, ROW), dim=1, dtype=torch.promote_types(values.dtype, torch.float32)
            )
            total += norms.double().square_().sum()
    return sums
