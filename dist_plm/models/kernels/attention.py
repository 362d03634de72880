"""Attention with dropout inside as operations that autograd, `torch.compile` and fake tensors know.

    attention(query, key, value, bias, keys, ranges, seen_by, first_head, first_row, causal, scale, probability):
        dropout(softmax(scale Q Kᵀ + bias)) V of [B, A, Q, D], [B, A, K, D] and [B, A, K, D], and the logarithms of the
        softmax's sums, [B, A, Q] fp32. Row q of head a draws from a stream of keys[b] that belongs to head `first_head` + a
        of the model and query `first_row` + q of the sequence. Where ranges are given (`KeyRanges`, its two tensors) a query
        sees no keys outside its own; one that sees none gives zeros.
    attention_backward(grad, query, key, value, bias, keys, ranges, seen_by, out, lse, with_bias, …): the gradients of query,
        key and value, and of the scores with their bias, [B, A, Q, K], where `with_bias`; else an empty tensor.

Q x K numbers are held neither between forward and backward nor, on CUDA, at all; there it is one launch and two.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dist_plm.models.kernels.dropout import LIBRARY, on_cuda, ones, unsigned
from dist_plm.models.kernels.linear import widened
from dist_plm.models.kernels.mask_bits import blocks, kept, row_words

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? keys, Tensor? ranges, Tensor? seen_by"
_DRAWN = "int first_head, int first_row, bool causal, float scale, float probability"
LIBRARY.define(f"attention({_INPUTS}, {_DRAWN}) -> (Tensor, Tensor)")
LIBRARY.define(
    f"attention_backward(Tensor grad, {_INPUTS}, Tensor out, Tensor lse, bool with_bias, {_DRAWN}) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


_softmax_backward = torch.ops.aten._softmax_backward_data.out


class KeyRanges(NamedTuple):
    """Says which keys each query sees where these follow each other.

    Attributes:
        of_queries: [3, 1 or B, 1 or Q] int32: the first key that a query sees, the one behind the last, and the key that
            dropout counts its columns from, an even number that is the same for each `QUERY_BLOCK` of queries and not
            behind the first that any of these sees.
        of_keys: [2, 1 or B, K] int32: the first query that may see a key, and the one behind the last.
    """

    of_queries: Tensor
    of_keys: Tensor


#: Query rows whose scores are held at once on the CPU; of a long sequence under a window dropout counts the columns of so many
#: rows from the first key that one of them sees.
QUERY_BLOCK = 512


@torch.library.impl(LIBRARY, "attention", "CPU")
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
    first_head, first_row, causal, scale, probability = drawn
    out, lse = like_tokens(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    query, key, value = (widened(x) for x in (query, key, value))
    bias = bias if bias is None else widened(bias)
    if probability == 0.0 and ranges is None and not (causal and (bias is not None or first_row > 0)):
        plain = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out.copy_(plain(query, key, value, 0.0, causal, attn_mask=bias, scale=scale)[0])
    else:
        query, key, value = (x.contiguous() for x in (query, key, value))
        for rows, columns in _blocks(query, key, ranges, drawn):
            weights = _weights(query, key, bias, ranges, rows, columns, drawn).to(value.dtype)
            flat = weights.view(-1, weights.shape[-1])
            for block, keep in _keeps(
                weights.shape, keys, first_head, first_row + rows.start, probability, value.dtype
            ):
                flat[block].mul_(keep)
            mixed = torch.bmm(weights.flatten(0, 1), value[:, :, columns].flatten(0, 1)).unflatten(0, query.shape[:2])
            torch.mul(mixed, 1.0 / (1.0 - probability), out=out[:, :, rows])
    # The softmax is found again whole, so nobody needs its sums; compiled code looks at their shape.
    return out, lse


@torch.library.impl(LIBRARY, "attention_backward", "CPU")
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
    first_head, first_row, _, scale, probability = drawn
    factor, heads = 1.0 / (1.0 - probability), query.shape[:2]
    results = tuple(like_tokens(x) for x in (query, key, value))
    scores_grad = query.new_zeros((*query.shape[:3], key.shape[2]) if with_bias else 0)
    grad, query, key, value = (widened(x).contiguous() for x in (grad, query, key, value))
    parts = list(_blocks(query, key, ranges, drawn))
    whole = len(parts) == 1 and parts[0][1] == slice(0, key.shape[2])
    if not whole:
        for total in results[1:]:
            total.zero_()
    for rows, columns in parts:
        own_grad, own = (x[:, :, rows].flatten(0, 1) for x in (grad, query))
        seen_key, seen_value = (x[:, :, columns].flatten(0, 1) for x in (key, value))
        weights = _weights(query, key, bias, ranges, rows, columns, drawn)
        through = torch.bmm(own_grad, seen_value.transpose(1, 2))
        narrow, width = weights.to(value.dtype), weights.shape[-1]
        dropped = narrow if probability == 0.0 else torch.empty_like(narrow)
        for block, keep in _keeps(weights.shape, keys, first_head, first_row + rows.start, probability, value.dtype):
            torch.mul(narrow.view(-1, width)[block], keep, out=dropped.view(-1, width)[block])
            through.view(-1, width)[block].mul_(keep)
        wide = through.float()
        _softmax_backward(wide, weights.flatten(0, 1), -1, torch.float32, grad_input=wide)
        rest = scale * factor
        if with_bias:
            # Of the scores themselves; what follows them is smaller.
            wide.mul_(factor)
            rest = scale
        through, dropped = wide.to(value.dtype), dropped.flatten(0, 1)
        if with_bias:
            scores_grad[:, :, rows, columns] = through.unflatten(0, heads)
        torch.mul(torch.bmm(through, seen_key).unflatten(0, heads), rest, out=results[0][:, :, rows])
        of_key = torch.bmm(through.transpose(1, 2), own).unflatten(0, heads)
        of_value = torch.bmm(dropped.transpose(1, 2), own_grad).unflatten(0, heads)
        for total, found, times in zip(results[1:], (of_key, of_value), (rest, factor), strict=True):
            seen = total[:, :, columns]
            torch.mul(found, times, out=seen) if whole else seen.add_(found, alpha=times)
    return *results, scores_grad


@torch.library.impl(LIBRARY, "attention", "Meta")
def _shapes(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return like_tokens(query), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.impl(LIBRARY, "attention_backward", "Meta")
def _backward_shapes(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *more: Any) -> tuple[Tensor, ...]:
    with_bias = more[6]
    scores = query.new_empty((*query.shape[:3], key.shape[2]) if with_bias else 0)
    return like_tokens(query), like_tokens(key), like_tokens(value), scores


on_cuda("attention", "attention_triton")
on_cuda("attention_backward", "attention_triton")


def like_tokens(x: Tensor) -> Tensor:
    """Makes room for [B, A, S, D] that lies in memory as [S, B, A, D]."""
    batch, heads, length, size = x.shape
    return x.new_empty((length, batch, heads, size)).permute(1, 2, 0, 3)


def _blocks(query: Tensor, key: Tensor, ranges: Tensor | None, drawn: tuple[Any, ...]) -> Iterator[tuple[slice, slice]]:
    """Blocks of query rows, and the columns that any of them may see, from the one that dropout counts from."""
    _, first_row, causal, _, _ = drawn
    for first in range(0, query.shape[2], QUERY_BLOCK):
        stop = min(first + QUERY_BLOCK, query.shape[2])
        origin = 0
        if ranges is not None:
            (origin,) = {int(n) for n in _of_rows(ranges[2], slice(first, stop), query).unique()}
        yield slice(first, stop), slice(origin, min(key.shape[2], first_row + stop) if causal else key.shape[2])


def _of_rows(numbers: Tensor, rows: slice, query: Tensor) -> Tensor:
    """Numbers [1 or B, 1 or Q] of some rows, [1 or B, rows]."""
    return numbers.expand(-1, query.shape[2])[:, rows]


def _weights(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    ranges: Tensor | None,
    rows: slice,
    columns: slice,
    drawn: tuple[Any, ...],
) -> Tensor:
    """softmax(scale Q Kᵀ + bias) of a block, [B, A, rows, columns] fp32."""
    _, first_row, causal, scale, _ = drawn
    own, seen = query[:, :, rows].flatten(0, 1), key[:, :, columns].flatten(0, 1)
    scores = query.new_empty(len(own), own.shape[1], seen.shape[1])
    scores.baddbmm_(own, seen.transpose(1, 2), beta=0.0, alpha=scale)
    scores = scores.float().unflatten(0, query.shape[:2])
    if bias is not None:
        scores += bias.expand(*query.shape[:3], key.shape[2])[:, :, rows, columns]
    if causal:
        numbers = torch.arange(first_row + rows.start, first_row + rows.stop)
        _hide(scores, torch.arange(columns.start, columns.stop) > numbers[:, None])
    if ranges is None:
        weights = torch.ops.aten._softmax.out(scores, -1, False, out=scores)
        if bias is not None:
            own = bias[..., columns] if bias.shape[2] == 1 else bias[:, :, rows, columns]
            unseen = own.amax(dim=-1, keepdim=True) == -torch.inf
            if unseen.any():
                weights.masked_fill_(unseen, 0.0)
        return weights
    low, high = (_of_rows(one, rows, query)[:, None, :, None] for one in ranges[:2])
    places = torch.arange(columns.start, columns.stop)
    unseen = (places < low) | (places >= high)
    _hide(scores, unseen)
    weights = torch.ops.aten._softmax.out(scores, -1, False, out=scores)
    blind = unseen.all(dim=-1, keepdim=True)
    return weights.masked_fill_(blind, 0.0) if blind.numpy().any() else weights


def _hide(scores: Tensor, unseen: Tensor) -> None:
    """Makes scores -inf where keys are not seen. `masked_fill_` by a mask of other strides takes four times as long."""
    most = torch.full(unseen.shape, torch.inf).masked_fill_(unseen, -torch.inf)
    torch.minimum(scores, most, out=scores)


def _keeps(
    shape: torch.Size, keys: Tensor | None, first_head: int, first_row: int, probability: float, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of the rows of [B, A, Q, K], and ones where their elements stay. Each head has 2^32 rows of its own."""
    if probability == 0.0:
        return
    assert keys is not None
    heads = np.arange(first_head, first_head + shape[1])[:, None] << 32
    rows = heads + np.arange(first_row, first_row + shape[2])
    words = row_words(unsigned(keys)[:, None, None], rows).reshape(-1)
    for block in blocks(len(words), shape[3]):
        yield block, ones(kept(words[block], shape[3], probability), dtype)
