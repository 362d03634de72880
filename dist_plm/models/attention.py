"""Self-attention over tensor-parallel heads, computed without ever holding the S x S matrix.

Plain causal or full attention is one call of PyTorch's fused kernel. Document boundaries and attention dropout need masks,
which are made for a block of query rows at a time, so memory stays linear in the sequence length.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dist_plm.models.context import SequenceContext
from dist_plm.models.dropout import score_dropout
from dist_plm.models.layout import Part
from dist_plm.models.linear import ColumnLinear, RowLinear
from dist_plm.models.positions import rotate
from dist_plm.models.shape import Shape

QUERY_BLOCK = 512


class SelfAttention(nn.Module):
    """Multi-head or grouped-query (Ainslie et al. 2023) attention with optional rotary positions.

    Args:
        layer: number of the layer within the whole model, part of the dropout key.
    """

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        heads, kv_heads, self.head_size = shape.heads
        tensor_size = shape.groups.grid.tensor
        self.heads, self.kv_heads = heads // tensor_size, kv_heads // tensor_size
        self.first_head = self.heads * shape.groups.coordinates.tensor
        self.layer = layer
        self.dropout = shape.model.attention_dropout
        self.recompute = shape.model.recompute == "selective"
        kv_rows = kv_heads * self.head_size
        parts = (Part("query", heads * self.head_size), Part("key", kv_rows), Part("value", kv_rows))
        self.qkv = ColumnLinear(shape, parts, bias=shape.model.bias)
        self.output = RowLinear(shape, heads * self.head_size, bias=shape.model.bias)

    def forward(self, hidden: Tensor, context: SequenceContext) -> Tensor:
        """[S', B, H] -> [S', B, H], where S' is S, or this rank's slice of it under sequence parallelism."""
        fused, _ = self.qkv(hidden)
        sizes = [n * self.head_size for n in (self.heads, self.kv_heads, self.kv_heads)]
        query, key, value = (_split_heads(part, self.head_size) for part in fused.split(sizes, dim=-1))
        if self.recompute and self.training:
            mixed = checkpoint(self._attend, query, key, value, context, use_reentrant=False, preserve_rng_state=False)
        else:
            mixed = self._attend(query, key, value, context)
        mixed = mixed.permute(2, 0, 1, 3).flatten(2)  # [S, B, A D]
        result, _ = self.output(mixed)
        return result

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: SequenceContext) -> Tensor:
        if context.rotary is not None:
            query, key = rotate(query, context.rotary), rotate(key, context.rotary)
        dropout = self.dropout if self.training else 0.0
        if context.documents is None and dropout == 0.0:
            grouped = self.heads != self.kv_heads
            return functional.scaled_dot_product_attention(
                query, key, value, is_causal=context.causal, enable_gqa=grouped
            )
        if self.heads != self.kv_heads:
            key, value = (x.repeat_interleave(self.heads // self.kv_heads, dim=1) for x in (key, value))
        blocks = range(0, query.shape[2], QUERY_BLOCK)
        return torch.cat([self._attend_block(query, key, value, context, first, dropout) for first in blocks], dim=2)

    def _attend_block(
        self, query: Tensor, key: Tensor, value: Tensor, context: SequenceContext, first: int, dropout: float
    ) -> Tensor:
        stop = min(first + QUERY_BLOCK, query.shape[2])
        query = query[:, :, first:stop]
        if context.causal:
            key, value = key[:, :, :stop], value[:, :, :stop]
        mask = _allowed(context, first, stop, key.shape[2], query.device)
        if dropout == 0.0:
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(self.head_size)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        weights = score_dropout(
            scores.softmax(dim=-1), dropout, context, self.layer, first_head=self.first_head, block=first // QUERY_BLOCK
        )
        return weights.to(value.dtype) @ value


def _split_heads(x: Tensor, head_size: int) -> Tensor:
    """[S, B, A D] -> [B, A, S, D]."""
    return x.unflatten(-1, (-1, head_size)).permute(1, 2, 0, 3)


def _allowed(context: SequenceContext, first: int, stop: int, keys: int, device: torch.device) -> Tensor | None:
    """Which keys the query rows [first, stop) may see: [1 or B, 1, Q, K], None for all."""
    mask = None
    if context.causal:
        rows = torch.arange(first, stop, device=device)
        mask = (rows[:, None] >= torch.arange(keys, device=device))[None, None]
    if context.documents is not None:
        same = context.documents[:, first:stop, None] == context.documents[:, None, :keys]
        mask = same[:, None] if mask is None else mask & same[:, None]
    return mask
