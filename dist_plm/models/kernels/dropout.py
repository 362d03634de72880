"""Dropout as an operation that autograd, `torch.compile` and fake tensors know, of one launch on CUDA.

    dropout_add(x, residual, keys, first_row, probability): x [S, B, H] with elements dropped and the rest scaled, plus the
        residual. Row s of sample b draws from row `first_row` + s of the stream of keys[b].

Masks are not stored but computed again from the keys, int64 [B].
"""

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_plm.models.kernels.mask_bits import blocks, kept, row_words

LIBRARY = torch.library.Library("dist_plm", "FRAGMENT")
LIBRARY.define("dropout_add(Tensor x, Tensor? residual, Tensor keys, int first_row, float probability) -> Tensor")


@torch.library.impl(LIBRARY, "dropout_add", "CPU")
def dropout_add(x: Tensor, residual: Tensor | None, keys: Tensor, first_row: int, probability: float) -> Tensor:
    length, _, width = x.shape
    words = row_words(unsigned(keys), np.arange(first_row, first_row + length)[:, None]).reshape(-1)
    result = torch.empty(x.shape, dtype=x.dtype)
    flat, out = x.reshape(-1, width), result.view(-1, width)
    other = x.new_zeros(1, width) if residual is None else residual.reshape(-1, width)
    scale = 1.0 / (1.0 - probability)
    for block in blocks(len(words), width):
        keep = ones(kept(words[block], width, probability), x.dtype)
        torch.addcmul(other if residual is None else other[block], flat[block], keep, value=scale, out=out[block])
    return result


@torch.library.impl(LIBRARY, "dropout_add", "Meta")
def _shape(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def on_cuda(name: str, module: str) -> None:
    """Leaves an operation's form for CUDA to the function of its name in a module of Triton kernels."""

    def launch(*args: Any) -> Any:
        # Not before there are tensors on a GPU: a CPU needs no Triton.
        return getattr(importlib.import_module(f"dist_plm.models.kernels.gpu.{module}"), name)(*args)

    LIBRARY.impl(name, launch, "CUDA")


on_cuda("dropout_add", "dropout_triton")


def ones(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Turns int16 ones and zeros into those of another type; those of 16 bits take their place."""
    if dtype == torch.float32:
        return keep.float()
    return keep.mul_({torch.bfloat16: 0x3F80, torch.float16: 0x3C00}[dtype]).view(dtype)


def unsigned(keys: Tensor) -> NDArray[np.uint64]:
    return keys.numpy().view(np.uint64)
