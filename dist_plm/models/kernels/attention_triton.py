"""The kernels of `kernels.attention` for CUDA: FlashAttention-2 (Dao 2023, algorithms 1 and 2) with dropout inside.

Imported only where tensors are on a GPU, or by tests under Triton's interpreter (TRITON_INTERPRET=1).
"""

# Kernels are functions of the device: the annotations of Triton's arguments say nothing to a type checker.
# ruff: noqa: N803  # Triton writes what is known at compile time in capitals
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dist_plm.models.kernels.attention import like_tokens
from dist_plm.models.kernels.dropout_triton import kept, row_words
from dist_plm.models.kernels.mask_bits import threshold_of


class Tile(NamedTuple):
    """Holds the queries and keys that one program works on at a time, and by how many warps and stages of loading."""

    queries: int
    keys: int
    warps: int
    stages: int


#: By kernel, where numbers have 2 bytes, and where they have 4: what a multiprocessor can hold.
TILES = {
    "forward": {2: Tile(64, 64, 4, 3), 4: Tile(32, 32, 4, 3)},
    "backward_queries": {2: Tile(64, 64, 4, 3), 4: Tile(32, 32, 4, 3)},
    "backward_keys": {2: Tile(64, 64, 4, 3), 4: Tile(32, 32, 4, 3)},
}
#: Exponentials are powers of 2 on the device.
_LOG2_E = 1.4426950408889634


@triton.jit
def _rows_of(base, stride, rows, dims, limit, size, EVEN: tl.constexpr):
    """Loads [rows, dims] of one head, zero outside. EVEN: there is no outside."""
    at = base + rows.to(tl.int64)[:, None] * stride + dims[None, :]
    if EVEN:
        return tl.load(at)
    return tl.load(at, mask=(rows[:, None] < limit) & (dims[None, :] < size), other=0.0)


@triton.jit
def _scores(
    query, key, rows, columns, first_row, scale, queries, width, bias, bias_row, bias_column,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scale Q Kᵀ + bias of a block times log2 e, which `scale` contains already; -inf where nothing is seen."""
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
    if BIASED:
        at = bias + rows.to(tl.int64)[:, None] * bias_row + columns.to(tl.int64)[None, :] * bias_column
        if EVEN:
            scores += tl.load(at).to(tl.float32) * 1.4426950408889634
        else:
            inside = (rows[:, None] < queries) & (columns[None, :] < width)
            scores += tl.load(at, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
    if CAUSAL:
        scores = tl.where(rows[:, None] + first_row >= columns[None, :], scores, float("-inf"))
    if not EVEN:
        scores = tl.where(columns[None, :] < width, scores, float("-inf"))
    return scores


@triton.jit
def _forward(
    query, key, value, bias, keys, out, lse,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, o_b, o_h, o_s, bias_b, bias_h, bias_q, bias_k,
    heads, queries, width, size, first_head, first_row, scale, threshold, factor,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, DROPS: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    sample, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    rows, dims = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    q = _rows_of(query + sample * q_b + head * q_h, q_s, rows, dims, queries, size, EVEN)
    start, step = row_words(tl.load(keys + sample), ((first_head + head) << 32) + first_row + rows)
    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    mixed = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    stop = width
    if CAUSAL:
        stop = tl.minimum(width, first_row + (tl.program_id(0) + 1) * BLOCK_Q)
    for first in range(0, stop, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k = _rows_of(key + sample * k_b + head * k_h, k_s, columns, dims, width, size, EVEN)
        v = _rows_of(value + sample * v_b + head * v_h, v_s, columns, dims, width, size, EVEN)
        scores = _scores(
            q, k, rows, columns, first_row, scale, queries, width,
            bias + sample * bias_b + head * bias_h, bias_q, bias_k, BIASED, CAUSAL, EVEN, PRECISION,
        )  # fmt: skip
        higher = tl.maximum(largest, tl.max(scores, 1))
        # A row that has seen nothing yet has no largest score to subtract.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(weights, 1)
        if DROPS:
            pairs = first // 2 + tl.arange(0, BLOCK_K // 2)
            weights = tl.where(kept(start[:, None], step[:, None], pairs[None, :], threshold), weights * factor, 0.0)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        largest = higher
    at = out + sample * o_b + head * o_h + rows.to(tl.int64)[:, None] * o_s + dims[None, :]
    inside = (rows[:, None] < queries) & (dims[None, :] < size)
    tl.store(at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(lse + tl.program_id(1).to(tl.int64) * queries + rows, largest + tl.log2(total), mask=rows < queries)


@triton.jit
def _backward_queries(
    grad, query, key, value, bias, keys, out, lse, delta, grad_query, grad_scores,
    g_b, g_h, g_s, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, o_b, o_h, o_s, d_b, d_h, d_s,
    bias_b, bias_h, bias_q, bias_k,
    heads, queries, width, size, first_head, first_row, scale, threshold, factor,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, DROPS: tl.constexpr, STORES: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    sample, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    rows, dims = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    q = _rows_of(query + sample * q_b + head * q_h, q_s, rows, dims, queries, size, EVEN)
    g = _rows_of(grad + sample * g_b + head * g_h, g_s, rows, dims, queries, size, EVEN)
    o = _rows_of(out + sample * o_b + head * o_h, o_s, rows, dims, queries, size, EVEN)
    through_rows = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    place = tl.program_id(1).to(tl.int64) * queries + rows
    tl.store(delta + place, through_rows, mask=rows < queries)
    logs = tl.load(lse + place, mask=rows < queries, other=0.0)
    start, step = row_words(tl.load(keys + sample), ((first_head + head) << 32) + first_row + rows)
    result = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    stop = width
    if CAUSAL:
        stop = tl.minimum(width, first_row + (tl.program_id(0) + 1) * BLOCK_Q)
    for first in range(0, stop, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k = _rows_of(key + sample * k_b + head * k_h, k_s, columns, dims, width, size, EVEN)
        v = _rows_of(value + sample * v_b + head * v_h, v_s, columns, dims, width, size, EVEN)
        scores = _scores(
            q, k, rows, columns, first_row, scale, queries, width,
            bias + sample * bias_b + head * bias_h, bias_q, bias_k, BIASED, CAUSAL, EVEN, PRECISION,
        )  # fmt: skip
        through = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        if DROPS:
            pairs = first // 2 + tl.arange(0, BLOCK_K // 2)
            through = tl.where(kept(start[:, None], step[:, None], pairs[None, :], threshold), through * factor, 0.0)
        through = tl.exp2(scores - logs[:, None]) * (through - through_rows[:, None])
        if STORES:
            at = grad_scores + place[:, None] * width + columns[None, :]
            inside = (rows[:, None] < queries) & (columns[None, :] < width)
            tl.store(at, through.to(grad_scores.dtype.element_ty), mask=inside)
        result += tl.dot(through.to(k.dtype), k, input_precision=PRECISION)
    at = grad_query + sample * d_b + head * d_h + rows.to(tl.int64)[:, None] * d_s + dims[None, :]
    inside = (rows[:, None] < queries) & (dims[None, :] < size)
    tl.store(at, (result * (scale * 0.6931471805599453)).to(grad_query.dtype.element_ty), mask=inside)


@triton.jit
def _backward_keys(
    grad, query, key, value, bias, keys, lse, delta, grad_key, grad_value,
    g_b, g_h, g_s, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, dk_b, dk_h, dk_s, dv_b, dv_h, dv_s,
    bias_b, bias_h, bias_q, bias_k,
    heads, queries, width, size, first_head, first_row, scale, threshold, factor,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, DROPS: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    sample, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    columns, dims = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    k = _rows_of(key + sample * k_b + head * k_h, k_s, columns, dims, width, size, EVEN)
    v = _rows_of(value + sample * v_b + head * v_h, v_s, columns, dims, width, size, EVEN)
    stream, pairs = tl.load(keys + sample), tl.program_id(0) * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2)
    sum_keys = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    sum_values = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.maximum(0, tl.program_id(0) * BLOCK_K - first_row) // BLOCK_Q * BLOCK_Q
    for first in range(begin, queries, BLOCK_Q):
        rows = first + tl.arange(0, BLOCK_Q)
        q = _rows_of(query + sample * q_b + head * q_h, q_s, rows, dims, queries, size, EVEN)
        g = _rows_of(grad + sample * g_b + head * g_h, g_s, rows, dims, queries, size, EVEN)
        place = tl.program_id(1).to(tl.int64) * queries + rows
        logs = tl.load(lse + place, mask=rows < queries, other=float("inf"))
        through_rows = tl.load(delta + place, mask=rows < queries, other=0.0)
        scores = _scores(
            q, k, rows, columns, first_row, scale, queries, width,
            bias + sample * bias_b + head * bias_h, bias_q, bias_k, BIASED, CAUSAL, EVEN, PRECISION,
        )  # fmt: skip
        weights = tl.exp2(scores - logs[:, None])
        through = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        dropped = weights
        if DROPS:
            start, step = row_words(stream, ((first_head + head) << 32) + first_row + rows)
            keep = kept(start[:, None], step[:, None], pairs[None, :], threshold)
            through = tl.where(keep, through * factor, 0.0)
            dropped = tl.where(keep, weights * factor, 0.0)
        sum_values += tl.dot(tl.trans(dropped.to(g.dtype)), g, input_precision=PRECISION)
        through = weights * (through - through_rows[:, None])
        sum_keys += tl.dot(tl.trans(through.to(q.dtype)), q, input_precision=PRECISION)
    inside = (columns[:, None] < width) & (dims[None, :] < size)
    at = grad_key + sample * dk_b + head * dk_h + columns.to(tl.int64)[:, None] * dk_s + dims[None, :]
    tl.store(at, (sum_keys * (scale * 0.6931471805599453)).to(grad_key.dtype.element_ty), mask=inside)
    at = grad_value + sample * dv_b + head * dv_h + columns.to(tl.int64)[:, None] * dv_s + dims[None, :]
    tl.store(at, sum_values.to(grad_value.dtype.element_ty), mask=inside)


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, keys: Tensor, *drawn: Any
) -> tuple[Tensor, Tensor]:
    batch, heads, queries = query.shape[:3]
    out = like_tokens(query)
    lse = query.new_empty((batch, heads, queries), dtype=torch.float32)
    query, key, value = (_rows_together(x) for x in (query, key, value))
    other = _expanded(bias, query, key)
    tile = TILES["forward"][query.itemsize]
    _forward[(triton.cdiv(queries, tile.queries), batch * heads)](
        query, key, value, other, keys.contiguous(), out, lse,
        *(n for x in (query, key, value, out) for n in x.stride()[:3]), *other.stride(), *_numbers(query, key, drawn),
        **_choices(query, key, bias, drawn, tile),
    )  # fmt: skip
    return out, lse


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    out: Tensor,
    lse: Tensor,
    with_bias: bool,
    *drawn: Any,
) -> tuple[Tensor, ...]:
    batch, heads, queries = query.shape[:3]
    results = [like_tokens(x) for x in (query, key, value)]
    grad, query, key, value = (_rows_together(x) for x in (grad, query, key, value))
    other, keys, delta = _expanded(bias, query, key), keys.contiguous(), torch.empty_like(lse)
    scores = query.new_empty((batch, heads, queries, key.shape[2]) if with_bias else 0)
    if with_bias and drawn[2]:
        scores.zero_()  # blocks that nobody sees are left out
    numbers, inputs = _numbers(query, key, drawn), (grad, query, key, value)
    tile = TILES["backward_queries"][query.itemsize]
    _backward_queries[(triton.cdiv(queries, tile.queries), batch * heads)](
        *inputs, other, keys, out, lse, delta, results[0], scores,
        *(n for x in (*inputs, out, results[0]) for n in x.stride()[:3]), *other.stride(), *numbers,
        STORES=with_bias, **_choices(query, key, bias, drawn, tile),
    )  # fmt: skip
    tile = TILES["backward_keys"][query.itemsize]
    _backward_keys[(triton.cdiv(key.shape[2], tile.keys), batch * heads)](
        *inputs, other, keys, lse, delta, *results[1:],
        *(n for x in (*inputs, *results[1:]) for n in x.stride()[:3]), *other.stride(), *numbers,
        **_choices(query, key, bias, drawn, tile),
    )  # fmt: skip
    return *results, scores


def _rows_together(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _expanded(bias: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    if bias is None:
        return query  # never read
    return bias.expand(*query.shape[:3], key.shape[2])


def _numbers(query: Tensor, key: Tensor, drawn: tuple[Any, ...]) -> tuple[Any, ...]:
    first_head, first_row, _, scale, probability = drawn
    _, heads, queries, size = query.shape
    factor = 1.0 / (1.0 - probability)
    threshold = threshold_of(probability)
    return heads, queries, key.shape[2], size, first_head, first_row, scale * _LOG2_E, threshold, factor


def _choices(query: Tensor, key: Tensor, bias: Tensor | None, drawn: tuple[Any, ...], tile: Tile) -> dict[str, Any]:
    size = query.shape[3]
    block = max(16, triton.next_power_of_2(size))
    exact = query.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return {
        "BIASED": bias is not None,
        "CAUSAL": drawn[2],
        "DROPS": drawn[4] > 0.0,
        "PRECISION": "ieee" if exact else "tf32",
        "EVEN": query.shape[2] % tile.queries == 0 and key.shape[2] % tile.keys == 0 and size == block,
        "BLOCK_Q": tile.queries,
        "BLOCK_K": tile.keys,
        "BLOCK_D": block,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
