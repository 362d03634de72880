"""The operations of `kernels.attention` on CUDA: launches of `kernels.gpu.attention_kernels`.

Imported only where tensors are on a GPU, or by tests under Triton's interpreter (TRITON_INTERPRET=1).
"""

# The annotations of Triton's arguments say nothing to a type checker.
# pyright: reportArgumentType=false

from typing import Any

import torch
import triton
from torch import Tensor

from dist_plm.models.kernels.attention import like_tokens
from dist_plm.models.kernels.gpu.attention_kernels import attend, to_keys_and_values, to_queries
from dist_plm.models.kernels.gpu.attention_tiles import Tile, padded, tile_on
from dist_plm.models.kernels.mask_bits import threshold_of

#: Exponentials are powers of 2 on the device.
_LOG2_E = 1.4426950408889634


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    keys: Tensor | None,
    ranges: Tensor | None,
    seen_by: Tensor | None,
    *drawn: Any,
) -> tuple[Tensor, Tensor]:
    batch, heads, queries = query.shape[:3]
    out = like_tokens(query)
    lse = query.new_empty((batch, heads, queries), dtype=torch.float32)
    query, key, value = (_rows_together(x) for x in (query, key, value))
    other, seen = _expanded(bias, query, key), _seen(ranges, query)
    tile = _tile("forward", query)
    attend[(triton.cdiv(queries, tile.queries) * batch * heads,)](
        query, key, value, other, _contiguous(keys, query), seen, out, lse,
        *(n for x in (query, key, value, out) for n in x.stride()[:3]), *other.stride(), *seen.stride()[:3],
        *_numbers(query, key, drawn), **_choices(query, key, bias, ranges, drawn, tile),
    )  # fmt: skip
    return out, lse


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    keys: Tensor | None,
    ranges: Tensor | None,
    seen_by: Tensor | None,
    out: Tensor,
    lse: Tensor,
    with_bias: bool,
    *drawn: Any,
) -> tuple[Tensor, ...]:
    batch, heads, queries = query.shape[:3]
    results = [like_tokens(x) for x in (query, key, value)]
    grad, query, key, value = (_rows_together(x) for x in (grad, query, key, value))
    other, stream, delta = _expanded(bias, query, key), _contiguous(keys, query), torch.empty_like(lse)
    seen, seers = _seen(ranges, query), _seen(seen_by, key)
    scores = query.new_empty((batch, heads, queries, key.shape[2]) if with_bias else 0)
    if with_bias and (drawn[2] or ranges is not None):
        scores.zero_()  # blocks that nobody sees are left out
    numbers, inputs = _numbers(query, key, drawn), (grad, query, key, value)
    tile = _tile("backward_queries", query)
    to_queries[(triton.cdiv(queries, tile.queries) * batch * heads,)](
        *inputs, other, stream, seen, out, lse, delta, results[0], scores,
        *(n for x in (*inputs, out, results[0]) for n in x.stride()[:3]), *other.stride(), *seen.stride()[:3],
        *numbers, STORES=with_bias, **_choices(query, key, bias, ranges, drawn, tile),
    )  # fmt: skip
    tile = _tile("backward_keys", query)
    to_keys_and_values[(triton.cdiv(key.shape[2], tile.keys) * batch * heads,)](
        *inputs, other, stream, seen, seers, lse, delta, *results[1:],
        *(n for x in (*inputs, *results[1:]) for n in x.stride()[:3]), *other.stride(), *seen.stride()[:3],
        *seers.stride()[:2], *numbers, **_choices(query, key, bias, ranges, drawn, tile),
    )  # fmt: skip
    return *results, scores


def _tile(kernel: str, query: Tensor) -> Tile:
    tile = tile_on(kernel, query.shape[3], query.itemsize, query.device)
    assert tile is not None, "models ask for none that does not fit"
    return tile


def _rows_together(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _expanded(bias: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    if bias is None:
        return query  # never read
    return bias.expand(*query.shape[:3], key.shape[2])


def _seen(ranges: Tensor | None, tokens: Tensor) -> Tensor:
    """Gives ranges [N, 1 or B, 1 or S] as [N, B, S] of the tokens [B, A, S, D]."""
    if ranges is None:
        return tokens  # never read
    return ranges.expand(len(ranges), len(tokens), tokens.shape[2])


def _contiguous(keys: Tensor | None, query: Tensor) -> Tensor:
    return query if keys is None else keys.contiguous()  # never read without dropout


def _numbers(query: Tensor, key: Tensor, drawn: tuple[Any, ...]) -> tuple[Any, ...]:
    first_head, first_row, _, scale, probability = drawn
    _, heads, queries, size = query.shape
    factor = 1.0 / (1.0 - probability)
    threshold = threshold_of(probability)
    return heads, queries, key.shape[2], size, first_head, first_row, scale * _LOG2_E, threshold, factor


def _choices(
    query: Tensor, key: Tensor, bias: Tensor | None, ranges: Tensor | None, drawn: tuple[Any, ...], tile: Tile
) -> dict[str, Any]:
    size = query.shape[3]
    block = padded(size)
    exact = query.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return {
        "BIASED": bias is not None,
        "CAUSAL": drawn[2],
        "RANGED": ranges is not None,
        "DROPS": drawn[4] > 0.0,
        "PRECISION": "ieee" if exact else "tf32",
        "EVEN": query.shape[2] % tile.queries == 0 and key.shape[2] % tile.keys == 0 and size == block,
        "BLOCK_Q": tile.queries,
        "BLOCK_K": tile.keys,
        "BLOCK_D": block,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
