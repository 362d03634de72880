"""Dropout whose mask is a pure function of (seed, sample, layer, site, element), never of rank, device, micro-batch or what
ran before.

The same run therefore drops the same activations on every process grid and every device, a resumed run continues exactly,
and activation recomputation needs no bookkeeping of random states. A rank that holds a slice of the sequence (sequence
parallelism) or of the heads (tensor parallelism) computes the mask of its slice alone.
"""

from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.core.randomness.permutation import mix_many
from dist_plm.core.randomness.random_numbers import bits, uniform
from dist_plm.models.kernels import dropout as _dropout  # noqa: F401  # registers torch.ops.dist_plm
from dist_plm.models.kernels.attention import KeyRanges
from dist_plm.spec.schema import ModelConfig


class Site(IntEnum):
    """The places of a layer where dropout acts; part of the key, so the numbers are fixed for ever."""

    EMBEDDING = 0
    ATTENTION_SCORES = 1
    ATTENTION_OUTPUT = 2
    MLP_OUTPUT = 3
    CROSS_SCORES = 4
    CROSS_OUTPUT = 5
    STACK_OUTPUT = 6
    REPLACEMENT = 7  # ELECTRA's draws of tokens
    HEAD_INPUT = 8
    HEAD_OUTPUT = 9
    ADAPTER_QKV = 10
    ADAPTER_OUTPUT = 11
    ADAPTER_UP = 12
    ADAPTER_DOWN = 13
    ADAPTER_CROSS_QUERY = 14
    ADAPTER_CROSS_KV = 15
    ADAPTER_CROSS_OUTPUT = 16


#: Of the streams of bits below; a checkpoint names it, as a run that goes on with another drops other activations.
#: 1 were PyTorch's generators (mt19937 on the CPU, Philox on CUDA).
STREAM_VERSION = 2

_KEY = 0x64726F706F7574  # separates these keys from every other use of the same seed
_FIRST_LAYER = -2  # embeddings number themselves -1 and -2


def draws_masks(model: ModelConfig) -> bool:
    """Tells whether training such a model draws from these streams at all."""
    of_adapters = 0.0 if model.lora is None else model.lora.dropout
    shares = (model.hidden_dropout, model.attention_dropout, model.head_dropout, of_adapters)
    return max(shares) > 0.0 or model.draws_tokens


def key_table(model: ModelConfig, samples: Tensor, seed: int) -> Tensor:
    """Draws the keys of a microbatch's samples [B] at every place of a model, int64 [layers, sites, B] on the host; see
    `keys_of_layer`."""
    layers = sum(stack.layers for stack in model.stacks())
    places = np.arange(layers + 1 - _FIRST_LAYER)[:, None, None]
    keys = mix_many(_KEY, seed, places, np.arange(len(Site))[:, None], samples.numpy())
    return torch.from_numpy(keys.view(np.int64))


def keys_of_layer(table: Tensor, layer: int) -> Tensor:
    """Takes the keys [sites, B] of one layer by its number within the whole model; -1 and -2 are embeddings."""
    return table[layer - _FIRST_LAYER]


def uniforms(keys: Tensor, length: int) -> Tensor:
    """Draws [length, B] fp64 numbers in [0, 1) from keys [B], both on the host."""
    return torch.from_numpy(uniform(bits(keys.numpy().view(np.uint64), np.arange(length)[:, None])))


def dropout_add(
    hidden: Tensor, residual: Tensor | None, probability: float, keys: Tensor, *, slice_index: int, num_slices: int
) -> Tensor:
    """Drops elements of hidden states, scales the rest by 1 / (1 - probability), and adds the residual.

    Args:
        hidden, residual: [S / num_slices, B, H], slice `slice_index` of the sequence.
        keys: [B], of this layer and site.
    """
    return _DropoutAdd.apply(hidden, residual, keys, slice_index * hidden.shape[0], probability)


class _DropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, residual: Tensor | None, keys: Tensor, first_row: int, probability: float
    ) -> Tensor:
        ctx.save_for_backward(keys)
        ctx.first_row, ctx.probability, ctx.adds = first_row, probability, residual is not None
        return torch.ops.dist_plm.dropout_add(hidden, residual, keys, first_row, probability)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (keys,) = ctx.saved_tensors
        dropped = torch.ops.dist_plm.dropout_add(grads[0], None, keys, ctx.first_row, ctx.probability)
        return dropped, grads[0] if ctx.adds else None, None, None, None


def attend_with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    keys: Tensor | None,
    *,
    causal: bool,
    scale: float,
    probability: float,
    first_head: int,
    first_row: int,
    ranges: KeyRanges | None = None,
) -> Tensor:
    """Computes dropout(softmax(scale Q Kᵀ + bias)) V.

    Args:
        query, key, value: [B, A, Q, D], [B, A, K, D] and [B, A, K, D].
        bias: [1 or B, 1 or A, 1 or Q, K], what is added to the scores.
        keys: [B], of this layer and site; not read where the probability is 0.
        first_head, first_row: of the model's heads and the sequence's queries, those that come first in `query`.
        ranges: the keys that each query sees, if not all.
    """
    drawn = (first_head, first_row, causal, scale, probability)
    return _DroppedAttention.apply(query, key, value, bias, keys, *(ranges or (None, None)), drawn)


class _DroppedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        keys: Tensor | None,
        ranges: Tensor | None,
        seen_by: Tensor | None,
        drawn: tuple[Any, ...],
    ) -> Tensor:
        inputs = query, key, value, bias, keys, ranges, seen_by
        out, lse = torch.ops.dist_plm.attention(*inputs, *drawn)
        ctx.save_for_backward(*inputs, out, lse)
        ctx.drawn = drawn
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Looked at once: recomputation gives them away.
        saved, with_bias = ctx.saved_tensors, ctx.needs_input_grad[3]
        results = torch.ops.dist_plm.attention_backward(grads[0], *saved, with_bias, *ctx.drawn)
        return *results[:3], results[3].sum_to_size(saved[3].shape) if with_bias else None, *[None] * 4
