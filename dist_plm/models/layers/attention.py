"""Attention over the heads of tensor and context ranks, computed without ever holding the scores of all heads.

It is one fused kernel: PyTorch's, or ours where attention weights are dropped, a query sees a range of keys, or a CPU is to
find bf16 gradients of short rows. Document boundaries, padding, windows and relative positions need such ranges or masks, which
are made once a microbatch (`models.masks`). Where sequences are so long that masks would be large, they are made for a block of
query rows at a time, so memory stays linear in the sequence length; with a window time does as well.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dist_plm.models.kernels.attention import QUERY_BLOCK
from dist_plm.models.kernels.gpu.attention_tiles import check_tiles
from dist_plm.models.kernels.linear import widened
from dist_plm.models.layers.context_parallel import heads_for_tokens, tokens_for_heads
from dist_plm.models.layers.dropout import Site, attend_with_dropout
from dist_plm.models.layers.linear import column_linear, project, row_linear
from dist_plm.models.layers.positions import rotate
from dist_plm.models.masks import bias_of
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import SequenceContext
from dist_plm.models.sharding import Part

#: Keys up to which the CPU's fused kernel takes longer for bf16 gradients than products of whole heads: 3 times at 128, where
#: the CPU multiplies bf16 itself (AVX-512, AMX); half as long where it does not.
_FEW_KEYS = 256
_MULTIPLIES_BF16 = torch.cpu._is_avx512_bf16_supported()


class SelfAttention(nn.Module):
    """Multi-head or grouped-query (Ainslie et al. 2023) attention with optional rotary positions."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        heads, kv_heads, head_size = shared.heads
        kv_rows = kv_heads * head_size
        parts = (Part("query", heads * head_size), Part("key", kv_rows), Part("value", kv_rows))
        bias = shared.model.bias
        self.qkv = column_linear(shared, parts, site=Site.ADAPTER_QKV, bias=bias)
        self.core = CoreAttention(shared, Site.ATTENTION_SCORES)
        self.output = row_linear(shared, heads * head_size, name="output", site=Site.ADAPTER_OUTPUT, bias=bias)

    def forward(self, hidden: Tensor, context: SequenceContext) -> Tensor:
        """[S', B, H] -> [S', B, H], where S' is S, or this rank's slice of it under sequence parallelism."""
        fused, core = project(self.qkv, hidden, context.keys), self.core
        sizes = [n * core.head_size for n in (core.heads, core.kv_heads, core.kv_heads)]
        query, key, value = fused.split(sizes, dim=-1)
        return project(self.output, core(query, key, value, context), context.keys)


class CrossAttention(nn.Module):
    """Attention of a decoder's tokens to the encoder's output (Vaswani et al. 2017, section 3.2.3)."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        heads, kv_heads, head_size = shared.heads
        kv_rows = kv_heads * head_size
        bias = shared.model.bias
        queries, kv = (Part("query", heads * head_size),), (Part("key", kv_rows), Part("value", kv_rows))
        self.queries = column_linear(shared, queries, site=Site.ADAPTER_CROSS_QUERY, bias=bias)
        self.kv = column_linear(shared, kv, site=Site.ADAPTER_CROSS_KV, bias=bias)
        self.core = CoreAttention(shared, Site.CROSS_SCORES)
        self.output = row_linear(shared, heads * head_size, name="output", site=Site.ADAPTER_CROSS_OUTPUT, bias=bias)

    def forward(self, hidden: Tensor, memory: Tensor, context: SequenceContext) -> Tensor:
        """Attends from the decoder to the encoder.

        Args:
            hidden: [T', B C, H] of the decoder, which writes C texts of a row.
            memory: [S', B, H] of the encoder.
            context: of the encoder's tokens for each text, neither causal nor with positions; `kept` where the layer keeps
                what it makes of `memory`.
        Returns:
            [T', B C, H].
        """
        query = project(self.queries, hidden, context.keys)
        fused = None if context.kept is None else context.kept.memory
        if fused is None:
            fused = self._keys_and_values(memory, hidden.shape[1] // memory.shape[1], context.keys)
        if context.kept is not None:
            context.kept.memory = fused
        key, value = fused.chunk(2, dim=-1)
        return project(self.output, self.core(query, key, value, context), context.keys)

    def _keys_and_values(self, memory: Tensor, times: int, keys: Tensor | None) -> Tensor:
        """[S', B, H] -> [S, B C, 2 A D]: those of each row, `times` over."""
        if times == 1:
            return project(self.kv, memory, keys)
        fused = project(self.kv, memory, None if keys is None else keys[:, ::times].contiguous())
        return fused.unsqueeze(2).expand(-1, -1, times, -1).flatten(1, 2)


class CoreAttention(nn.Module):
    """Softmax(Q Kᵀ scale + bias) V over this rank's heads. T5 leaves the scale to the initial weights."""

    def __init__(self, shared: ModelContext, site: Site) -> None:
        super().__init__()
        heads, kv_heads, self.head_size = shared.heads
        tensor_size = shared.groups.grid.tensor
        self.heads, self.kv_heads = heads // tensor_size, kv_heads // tensor_size
        self.shared, self.site = shared, site
        self.scale = 1.0 / math.sqrt(self.head_size) if shared.model.scales_scores else 1.0
        self.dropout = shared.model.attention_dropout
        if self.dropout > 0.0:
            check_tiles(self.head_size, shared.dtype.itemsize, shared.device)
        self.recompute = shared.model.recompute == "selective"
        self.rotate = rotate

    def forward(self, query: Tensor, key: Tensor, value: Tensor, context: SequenceContext) -> Tensor:
        """Queries [T, B, A D], keys and values [S, B, A D] -> [T, B, A D]; T and S over context ranks, which exchange them for
        heads."""
        exchanges = self.shared.context_ranks > 1
        query, key, value = (x.unflatten(-1, (-1, self.head_size)) for x in (query, key, value))
        if exchanges:
            query, key, value = self._exchanged(query, key, value)
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        if self.recompute and self.training:
            mixed = checkpoint(self._attend, query, key, value, context, use_reentrant=False, preserve_rng_state=False)
        else:
            mixed = self._attend(query, key, value, context)
        mixed = mixed.permute(2, 0, 1, 3)
        return (tokens_for_heads(mixed, self.shared.groups.context) if exchanges else mixed).flatten(2)

    def _exchanged(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        group = self.shared.groups.context
        if len(query) == len(key):
            return heads_for_tokens((query, key, value), group)
        return heads_for_tokens((query,), group) + heads_for_tokens((key, value), group)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: SequenceContext) -> Tensor:
        if context.rotary is not None:
            query, key = self.rotate(query, context.rotary), self.rotate(key, context.rotary)
        if context.kept is not None and context.cache is not None:
            key, value = context.kept.extend(key, value, context.cache.length)
        if context.bias is None and context.ranges is None and not context.is_plain:
            if (grouped := query.shape[1] // key.shape[1]) > 1:
                key, value = (x.repeat_interleave(grouped, dim=1) for x in (key, value))
            blocks = range(0, query.shape[2], QUERY_BLOCK)
            return torch.cat([self._attend_block(query, key, value, context, first) for first in blocks], dim=2)
        return self._mix(query, key, value, context.bias, context, causal=context.causal)

    def _mix(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        context: SequenceContext,
        *,
        causal: bool,
        first_row: int = 0,
    ) -> Tensor:
        """Mixes the values in one kernel.

        Args:
            bias: added to the scores; holds what causality forbids as well, unless `context.ranges` do.
            causal: whether queries and keys begin at the same token and see nothing after themselves.
        """
        grouped = query.shape[1] // key.shape[1]
        probability = self.dropout if self.training else 0.0
        if probability == 0.0 and context.ranges is None and not (self.training and _by_heads(query, key)):
            mask, is_causal = bias if bias is None else widened(bias), causal and bias is None
            mixed = functional.scaled_dot_product_attention(
                *(widened(x) for x in (query, key, value)),
                attn_mask=mask,
                is_causal=is_causal,
                scale=self.scale,
                enable_gqa=grouped > 1,
            )
            return mixed.to(query.dtype)
        if grouped > 1:
            key, value = (x.repeat_interleave(grouped, dim=1) for x in (key, value))
        assert probability == 0.0 or context.keys is not None
        return attend_with_dropout(
            query,
            key,
            value,
            bias,
            None if context.keys is None else context.keys[self.site],
            causal=causal and context.ranges is None,
            scale=self.scale,
            probability=probability,
            first_head=self.shared.attending_heads.start,
            first_row=first_row,
            ranges=context.ranges,
        )

    def _attend_block(self, query: Tensor, key: Tensor, value: Tensor, context: SequenceContext, first: int) -> Tensor:
        stop = min(first + QUERY_BLOCK, query.shape[2])
        rows = torch.arange(first, stop, device=query.device)
        spans = _seen(context, first, stop, key.shape[2])
        columns = torch.cat([torch.arange(low, high, device=query.device) for low, high in spans])
        bias = bias_of(context, rows, columns, query.dtype)
        query, key, value = query[:, :, first:stop], _take(key, spans), _take(value, spans)
        return self._mix(query, key, value, bias, context, causal=False, first_row=first)


def _by_heads(query: Tensor, key: Tensor) -> bool:
    """Tells whether gradients of bf16 are found sooner by products of whole heads, as those with dropout are."""
    of_cpu = _MULTIPLIES_BF16 and query.device.type == "cpu"
    return of_cpu and query.dtype == torch.bfloat16 and key.shape[2] <= _FEW_KEYS


def _seen(context: SequenceContext, first: int, stop: int, keys: int) -> list[tuple[int, int]]:
    """Spans of the keys that any of the query rows [first, stop) may see, in ascending order."""
    low, high = 0, stop if context.causal else keys
    if context.window > 0 and first >= context.global_tokens:
        low, high = max(0, first - context.window), min(high, stop + context.window)
    far = min(context.global_tokens, low)
    return [(0, far), (low, high)] if far else [(low, high)]


def _take(x: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Spans of dim 2 of [B, A, S, D], as a view where there is but one."""
    parts = [x[:, :, low:high] for low, high in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
