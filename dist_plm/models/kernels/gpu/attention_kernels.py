"""The kernels of `kernels.attention` for CUDA: FlashAttention-2 (Dao 2023, algorithms 1 and 2) with dropout inside.

Which keys a query sees may be told as a range of keys (`kernels.attention.KeyRanges`). Blocks of keys outside the ranges of all
queries of a block, and blocks of queries that none of a block of keys is in the range of, are then left out.
"""

# Kernels are functions of the device: the annotations of Triton's arguments say nothing to a type checker.
# ruff: noqa: N803  # Triton writes what is known at compile time in capitals
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from dist_plm.models.kernels.gpu.dropout_triton import kept, row_words


@triton.jit
def _place(blocks):
    """Finds a program's block of tokens, and which head of which sample. All are counted in one dimension of the grid: another
    has room for 65,535 alone."""
    return tl.program_id(0) % blocks, tl.program_id(0) // blocks


@triton.jit
def _rows_of(base, stride, rows, dims, limit, size, EVEN: tl.constexpr):
    """Loads [rows, dims] of one head, zero outside. EVEN: there is no outside."""
    at = base + rows.to(tl.int64)[:, None] * stride + dims[None, :]
    if EVEN:
        return tl.load(at)
    return tl.load(at, mask=(rows[:, None] < limit) & (dims[None, :] < size), other=0.0)


@triton.jit
def _scores(
    query, key, rows, columns, low, high, first_row, scale, queries, width, bias, bias_row, bias_column,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, RANGED: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scale Q Kᵀ + bias of a block times log2 e, which `scale` contains already; -inf where nothing is seen.

    RANGED: a row sees the keys from `low` to before `high`, and no others.
    """
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
    if RANGED:
        seen = (columns[None, :] >= low[:, None]) & (columns[None, :] < high[:, None])
        scores = tl.where(seen, scores, float("-inf"))
    if not EVEN:
        scores = tl.where(columns[None, :] < width, scores, float("-inf"))
    return scores


@triton.jit
def _seen(ranges, plane, stride, rows, queries):
    """Loads the range of keys that each row of one sample sees: the first, and the one behind the last; none outside."""
    at = ranges + rows * stride
    low = tl.load(at, mask=rows < queries, other=2147483647)
    return low, tl.load(at + plane, mask=rows < queries, other=0)


@triton.jit
def attend(
    query, key, value, bias, keys, ranges, out, lse,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, o_b, o_h, o_s, bias_b, bias_h, bias_q, bias_k, r_p, r_b, r_q,
    heads, queries, width, size, first_head, first_row, scale, threshold, factor,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, RANGED: tl.constexpr, DROPS: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Computes the result [Q, D] of a block of queries of one head, and the logarithms of its softmax's sums."""
    block, plane = _place(tl.cdiv(queries, BLOCK_Q))
    sample, head = (plane // heads).to(tl.int64), (plane % heads).to(tl.int64)
    rows, dims = block * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    q = _rows_of(query + sample * q_b + head * q_h, q_s, rows, dims, queries, size, EVEN)
    if DROPS:
        start, step = row_words(tl.load(keys + sample), ((first_head + head) << 32) + first_row + rows)
    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    mixed = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    low, high = rows, rows
    begin, stop, origin = 0, width, 0
    if CAUSAL:
        stop = tl.minimum(width, first_row + (block + 1) * BLOCK_Q)
    if RANGED:
        low, high = _seen(ranges + sample * r_b, r_p, r_q, rows, queries)
        begin, stop = tl.min(low, 0) // BLOCK_K * BLOCK_K, tl.minimum(stop, tl.max(high, 0))
        origin = tl.load(ranges + sample * r_b + 2 * r_p + block * BLOCK_Q * r_q)
    for first in range(begin, stop, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k = _rows_of(key + sample * k_b + head * k_h, k_s, columns, dims, width, size, EVEN)
        v = _rows_of(value + sample * v_b + head * v_h, v_s, columns, dims, width, size, EVEN)
        scores = _scores(
            q, k, rows, columns, low, high, first_row, scale, queries, width,
            bias + sample * bias_b + head * bias_h, bias_q, bias_k, BIASED, CAUSAL, RANGED, EVEN, PRECISION,
        )  # fmt: skip
        higher = tl.maximum(largest, tl.max(scores, 1))
        # A row that has seen nothing yet has no largest score to subtract.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(weights, 1)
        if DROPS:
            pairs = (first - origin) // 2 + tl.arange(0, BLOCK_K // 2)
            weights = tl.where(kept(start[:, None], step[:, None], pairs[None, :], threshold), weights * factor, 0.0)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        largest = higher
    sums = largest + tl.log2(total)
    if RANGED or BIASED:
        # A row that sees nothing gives zeros; the weights that backward finds again of infinite sums are 0.
        sums, total = tl.where(total == 0.0, float("inf"), sums), tl.where(total == 0.0, 1.0, total)
    at = out + sample * o_b + head * o_h + rows.to(tl.int64)[:, None] * o_s + dims[None, :]
    inside = (rows[:, None] < queries) & (dims[None, :] < size)
    tl.store(at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(lse + plane.to(tl.int64) * queries + rows, sums, mask=rows < queries)


@triton.jit
def to_queries(
    grad, query, key, value, bias, keys, ranges, out, lse, delta, grad_query, grad_scores,
    g_b, g_h, g_s, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, o_b, o_h, o_s, d_b, d_h, d_s,
    bias_b, bias_h, bias_q, bias_k, r_p, r_b, r_q,
    heads, queries, width, size, first_head, first_row, scale, threshold, factor,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, RANGED: tl.constexpr, DROPS: tl.constexpr, STORES: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Computes the gradients of a block of queries of one head, and where STORES those of its scores."""
    block, plane = _place(tl.cdiv(queries, BLOCK_Q))
    sample, head = (plane // heads).to(tl.int64), (plane % heads).to(tl.int64)
    rows, dims = block * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    q = _rows_of(query + sample * q_b + head * q_h, q_s, rows, dims, queries, size, EVEN)
    g = _rows_of(grad + sample * g_b + head * g_h, g_s, rows, dims, queries, size, EVEN)
    o = _rows_of(out + sample * o_b + head * o_h, o_s, rows, dims, queries, size, EVEN)
    through_rows = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    place = plane.to(tl.int64) * queries + rows
    tl.store(delta + place, through_rows, mask=rows < queries)
    logs = tl.load(lse + place, mask=rows < queries, other=0.0)
    if DROPS:
        start, step = row_words(tl.load(keys + sample), ((first_head + head) << 32) + first_row + rows)
    result = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    low, high = rows, rows
    begin, stop, origin = 0, width, 0
    if CAUSAL:
        stop = tl.minimum(width, first_row + (block + 1) * BLOCK_Q)
    if RANGED:
        low, high = _seen(ranges + sample * r_b, r_p, r_q, rows, queries)
        begin, stop = tl.min(low, 0) // BLOCK_K * BLOCK_K, tl.minimum(stop, tl.max(high, 0))
        origin = tl.load(ranges + sample * r_b + 2 * r_p + block * BLOCK_Q * r_q)
    for first in range(begin, stop, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k = _rows_of(key + sample * k_b + head * k_h, k_s, columns, dims, width, size, EVEN)
        v = _rows_of(value + sample * v_b + head * v_h, v_s, columns, dims, width, size, EVEN)
        scores = _scores(
            q, k, rows, columns, low, high, first_row, scale, queries, width,
            bias + sample * bias_b + head * bias_h, bias_q, bias_k, BIASED, CAUSAL, RANGED, EVEN, PRECISION,
        )  # fmt: skip
        through = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        if DROPS:
            pairs = (first - origin) // 2 + tl.arange(0, BLOCK_K // 2)
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
def to_keys_and_values(
    grad, query, key, value, bias, keys, ranges, seen_by, lse, delta, grad_key, grad_value,
    g_b, g_h, g_s, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, dk_b, dk_h, dk_s, dv_b, dv_h, dv_s,
    bias_b, bias_h, bias_q, bias_k, r_p, r_b, r_q, s_p, s_b,
    heads, queries, width, size, first_head, first_row, scale, threshold, factor,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, RANGED: tl.constexpr, DROPS: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Computes the gradients of a block of keys of one head and of their values."""
    block, plane = _place(tl.cdiv(width, BLOCK_K))
    sample, head = (plane // heads).to(tl.int64), (plane % heads).to(tl.int64)
    columns, dims = block * BLOCK_K + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    k = _rows_of(key + sample * k_b + head * k_h, k_s, columns, dims, width, size, EVEN)
    v = _rows_of(value + sample * v_b + head * v_h, v_s, columns, dims, width, size, EVEN)
    if DROPS:
        stream, pairs = tl.load(keys + sample), block * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2)
    sum_keys = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    sum_values = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    begin, stop = 0, queries
    if CAUSAL:
        begin = tl.maximum(0, block * BLOCK_K - first_row) // BLOCK_Q * BLOCK_Q
    if RANGED:
        earliest, behind = _seen(seen_by + sample * s_b, s_p, 1, columns, width)
        begin = tl.maximum(begin, tl.min(earliest, 0) // BLOCK_Q * BLOCK_Q)
        stop = tl.minimum(queries, tl.max(behind, 0))
    for first in range(begin, stop, BLOCK_Q):
        rows = first + tl.arange(0, BLOCK_Q)
        low, high = rows, rows
        if RANGED:
            low, high = _seen(ranges + sample * r_b, r_p, r_q, rows, queries)
        q = _rows_of(query + sample * q_b + head * q_h, q_s, rows, dims, queries, size, EVEN)
        g = _rows_of(grad + sample * g_b + head * g_h, g_s, rows, dims, queries, size, EVEN)
        place = plane.to(tl.int64) * queries + rows
        logs = tl.load(lse + place, mask=rows < queries, other=float("inf"))
        through_rows = tl.load(delta + place, mask=rows < queries, other=0.0)
        scores = _scores(
            q, k, rows, columns, low, high, first_row, scale, queries, width,
            bias + sample * bias_b + head * bias_h, bias_q, bias_k, BIASED, CAUSAL, RANGED, EVEN, PRECISION,
        )  # fmt: skip
        weights = tl.exp2(scores - logs[:, None])
        through = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        dropped = weights
        if DROPS:
            start, step = row_words(stream, ((first_head + head) << 32) + first_row + rows)
            seen_pairs = pairs
            if RANGED:
                seen_pairs -= tl.load(ranges + sample * r_b + 2 * r_p + first * r_q) // 2
            keep = kept(start[:, None], step[:, None], seen_pairs[None, :], threshold)
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
