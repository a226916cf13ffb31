"""Gradients of q, k and v. Softmax weights are recomputed from the log-sum-exp over all parts, as in FlashAttention.

dK and dV gather the rows that saw a key, dQ the keys that a row saw. The lists are those of the forward pass: rows that
chose a chunk (`csr.py`), rows and the tokens that they always see (`seen_items`), pooled keys with the selection mask.
Sums are atomic, so the last digits differ from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..lib.sortable import open_to, own_of_rows
from .gather import _own_tile


@triton.jit
def moc_bwd_delta(out, grad, delta, so_b, so_h, so_n, sg_b, sg_h, sg_n, H, N, D: tl.constexpr, DP: tl.constexpr,
           BM: tl.constexpr):  # fmt: skip
    """sum(grad * out) of every row: what a softmax takes off the gradient of its weights."""
    i_bh = tl.program_id(1)
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    o_n, o_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, DP)
    m = (o_n < N)[:, None] & (o_d < D)[None, :]
    o_r = o_n.to(tl.int64)[:, None]
    b_o = tl.load(out + i_b * so_b + i_h * so_h + o_r * so_n + o_d[None, :], mask=m, other=0.0).to(tl.float32)
    b_g = tl.load(grad + i_b * sg_b + i_h * sg_h + o_r * sg_n + o_d[None, :], mask=m, other=0.0).to(tl.float32)
    tl.store(delta + i_bh.to(tl.int64) * N + o_n, tl.sum(b_o * b_g, 1), mask=o_n < N)


@triton.jit
def _head(q, grad, i_bh, H, N, sq_b, sq_h, sg_b, sg_h):
    """Where a head's query rows, their gradients, and its other numbers by row begin."""
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    return q + i_b * sq_b + i_h * sq_h, grad + i_b * sg_b + i_h * sg_h, i_bh.to(tl.int64) * N


@triton.jit
def _some_rows(p_q, p_g, p_lse, p_delta, o_n, m_n, o_d, m_d, sq_n, sg_n):
    """Query rows, their gradients, log-sum-exp (rows that are none: inf, which weighs nothing) and delta."""
    o_r, m = o_n.to(tl.int64)[:, None], m_n[:, None] & m_d
    b_q = tl.load(p_q + o_r * sq_n + o_d[None, :], mask=m, other=0.0)
    b_g = tl.load(p_g + o_r * sg_n + o_d[None, :], mask=m, other=0.0)
    b_lse = tl.load(p_lse + o_n, mask=m_n, other=float("inf"))
    return b_q, b_g, b_lse, tl.load(p_delta + o_n, mask=m_n, other=0.0)


@triton.jit
def _weights(b_q, b_k, b_v, b_g, b_lse, b_delta, b_bias, scale, PRECISION: tl.constexpr):
    """Softmax weights [M, J], and gradients by the scores. scale, bias and lse are in log2 units."""
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale + b_bias
    b_p = tl.math.exp2(b_s - b_lse[:, None])
    return b_p, b_p * (tl.dot(b_g, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])


@triton.jit(do_not_specialize=["bh_first", "heads", "head", "most"])
def moc_bwd_kv(
    q, k, v, grad, lse, delta, dq, dk, dv, chunk, entry, tile, border, item,
    sq_b, sq_h, sq_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n, sg_b, sg_h, sg_n,
    H, N, C, bh_first, heads, head, most, scale, factor,
    K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    ROWS: tl.constexpr, LISTED: tl.constexpr, ROWS_TOO: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """At most BN keys meet some rows. LISTED: keys of a chunk, a tile of ROWS of its list; else an item [4, I]: first
    key, keys, first row, last row + 1. ROWS_TOO: a chunk is one block of keys, so its rows need not come again."""
    if LISTED:
        i_local, i_c, b_from, b_to = _own_tile(tile, border, heads, head, most, C, N * K)
        b_to = tl.minimum(b_to, b_from + ROWS)
        b_skip = tl.program_id(1) * BN
        b_start, b_len = tl.load(chunk + i_c) + b_skip, tl.load(chunk + C + i_c) - b_skip
    else:
        i_local, p_item = tl.program_id(1), item + tl.program_id(0)
        b_start, b_len = tl.load(p_item), tl.load(p_item + most)
        b_from, b_to = tl.load(p_item + 2 * most), tl.load(p_item + 3 * most)
    if (b_from >= b_to) | (b_len <= 0):
        return
    i_bh = bh_first + i_local
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    p_q, p_g, o_head = _head(q, grad, i_bh, H, N, sq_b, sq_h, sg_b, sg_h)
    o_d, o_j, o_m = tl.arange(0, DP), tl.arange(0, BN), tl.arange(0, BM)
    m_d, m_j = (o_d < D)[None, :], o_j < b_len
    m_k = m_j[:, None] & m_d
    o_s = (b_start + o_j).to(tl.int64)[:, None]
    b_k = tl.load(k + i_b * sk_b + i_h * sk_h + o_s * sk_n + o_d[None, :], mask=m_k, other=0.0)
    b_v = tl.load(v + i_b * sv_b + i_h * sv_h + o_s * sv_n + o_d[None, :], mask=m_k, other=0.0)
    b_bias = tl.where(m_j, 0.0, float("-inf"))[None, :]
    b_dk = tl.zeros([BN, DP], tl.float32)
    b_dv = tl.zeros([BN, DP], tl.float32)
    for i in tl.range(b_from, b_to, BM, num_stages=STAGES):
        o_n, m_n = i + o_m, i + o_m < b_to
        if LISTED:
            o_n = tl.load(entry + o_n, mask=m_n, other=0) // K
        b_q, b_g, b_lse, b_delta = _some_rows(p_q, p_g, lse + o_head, delta + o_head, o_n, m_n, o_d, m_d, sq_n, sg_n)
        b_p, b_ds = _weights(b_q, b_k, b_v, b_g, b_lse, b_delta, b_bias, scale, PRECISION)
        b_dv = tl.dot(tl.trans(b_p).to(b_g.dtype), b_g, b_dv, input_precision=PRECISION)
        b_ds = b_ds.to(b_q.dtype)
        b_dk = tl.dot(tl.trans(b_ds), b_q, b_dk, input_precision=PRECISION)
        if ROWS_TOO:
            b_dq = tl.dot(b_ds, b_k, input_precision=PRECISION) * factor
            p_dq = dq + (o_head + o_n)[:, None] * D + o_d[None, :]
            tl.atomic_add(p_dq, b_dq, mask=m_n[:, None] & m_d, sem="relaxed")
    o_out = (o_head + b_start + o_j)[:, None] * D + o_d[None, :]
    tl.atomic_add(dk + o_out, b_dk * factor, mask=m_k, sem="relaxed")
    tl.atomic_add(dv + o_out, b_dv, mask=m_k, sem="relaxed")


@triton.jit(do_not_specialize=["bh_first", "heads", "head", "most"])
def moc_bwd_q(
    q, k, v, grad, lse, delta, dq, chunk, entry, tile, border, first, stop, span, ranges,
    sq_b, sq_h, sq_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n, sg_b, sg_h, sg_n,
    H, N, C, bh_first, heads, head, most, scale, factor,
    K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    ROWS: tl.constexpr, LISTED: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """At most BM rows meet all keys of the chunk whose list they are in; else those that they see without choosing,
    which comes first and sets dq."""
    o_m = tl.arange(0, BM)
    if LISTED:
        i_local, i_c, b_from, b_to = _own_tile(tile, border, heads, head, most, C, N * K)
        b_to = tl.minimum(b_to, b_from + ROWS)
        b_from += tl.program_id(1) * BM
        o_n, m_n = b_from + o_m, b_from + o_m < b_to
        o_n = tl.load(entry + o_n, mask=m_n, other=0) // K
        r_from, r_to = 0, 1
    else:
        i_local, i_t, i_c = tl.program_id(1), tl.program_id(0), 0
        b_from, b_to = tl.load(first + i_t), tl.load(stop + i_t)
        o_n, m_n = b_from + o_m, b_from + o_m < b_to
        r_from, r_to = tl.load(span + 2 * i_t), tl.load(span + 2 * i_t + 1)
    if b_from >= b_to:
        return
    i_bh = bh_first + i_local
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    p_q, p_g, o_head = _head(q, grad, i_bh, H, N, sq_b, sq_h, sg_b, sg_h)
    o_d, o_j = tl.arange(0, DP), tl.arange(0, BN)
    m_d = (o_d < D)[None, :]
    b_q, b_g, b_lse, b_delta = _some_rows(p_q, p_g, lse + o_head, delta + o_head, o_n, m_n, o_d, m_d, sq_n, sg_n)
    p_k = k + i_b * sk_b + i_h * sk_h + o_d[None, :]
    p_v = v + i_b * sv_b + i_h * sv_h + o_d[None, :]
    b_dq = tl.zeros([BM, DP], tl.float32)
    for i_r in range(r_from, r_to):
        if LISTED:
            b_low = tl.load(chunk + i_c)
            b_high = b_low + tl.load(chunk + C + i_c)
        else:
            b_low, b_high = tl.load(ranges + 2 * i_r), tl.load(ranges + 2 * i_r + 1)
        for i in tl.range(b_low, b_high, BN, num_stages=STAGES):
            m_j = i + o_j < b_high
            o_s = (i + o_j).to(tl.int64)[:, None]
            b_k = tl.load(p_k + o_s * sk_n, mask=m_j[:, None] & m_d, other=0.0)
            b_v = tl.load(p_v + o_s * sv_n, mask=m_j[:, None] & m_d, other=0.0)
            b_bias = tl.where(m_j, 0.0, float("-inf"))[None, :]
            _, b_ds = _weights(b_q, b_k, b_v, b_g, b_lse, b_delta, b_bias, scale, PRECISION)
            b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    p_dq = dq + (o_head + o_n)[:, None] * D + o_d[None, :]
    if LISTED:
        tl.atomic_add(p_dq, b_dq * factor, mask=m_n[:, None] & m_d, sem="relaxed")
    else:
        tl.store(p_dq, b_dq * factor, mask=m_n[:, None] & m_d)


@triton.jit
def _skipped(p_sel, weight, chunk, row, o_c, o_n, m_n, N, C, CAUSAL: tl.constexpr):
    """Bias [M, J] of summaries: what rows could have chosen and did not."""
    b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)
    m_c = (o_c < C)[None, :]
    b_w = tl.load(p_sel + (o_c >> 5).to(tl.int64)[None, :] * N + o_n[:, None], mask=m_n[:, None] & m_c, other=-1)
    b_open = open_to(o_c, b_first, b_last, b_shot, chunk, chunk, C, 0, CAUSAL, False)
    b_bias = tl.load(weight + o_c, mask=o_c < C, other=float("-inf"))[None, :]
    return tl.where(b_open & m_c & (((b_w >> (o_c & 31)[None, :]) & 1) == 0), b_bias, float("-inf"))


@triton.jit(do_not_specialize=["bh_first", "segment"])
def moc_bwd_tail_kv(
    q, mean_k, mean_v, grad, lse, delta, dmean_k, dmean_v, sel, weight, chunk, row,
    sq_b, sq_h, sq_n, sg_b, sg_h, sg_n, H, N, C, W, bh_first, segment, scale, factor,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN summaries meet `segment` rows."""
    i_local = tl.program_id(2)
    i_bh = bh_first + i_local
    p_q, p_g, o_head = _head(q, grad, i_bh, H, N, sq_b, sq_h, sg_b, sg_h)
    o_d, o_m = tl.arange(0, DP), tl.arange(0, BM)
    o_c, m_d = tl.program_id(0) * BN + tl.arange(0, BN), (o_d < D)[None, :]
    m_k = (o_c < C)[:, None] & m_d
    o_mean = (i_bh.to(tl.int64) * C + o_c)[:, None] * D + o_d[None, :]
    b_k, b_v = tl.load(mean_k + o_mean, mask=m_k, other=0.0), tl.load(mean_v + o_mean, mask=m_k, other=0.0)
    p_sel = sel + i_local.to(tl.int64) * W * N
    b_dk = tl.zeros([BN, DP], tl.float32)
    b_dv = tl.zeros([BN, DP], tl.float32)
    b_from = tl.program_id(1) * segment
    for i in tl.range(b_from, tl.minimum(b_from + segment, N), BM, num_stages=STAGES):
        o_n, m_n = i + o_m, i + o_m < N
        b_q, b_g, b_lse, b_delta = _some_rows(p_q, p_g, lse + o_head, delta + o_head, o_n, m_n, o_d, m_d, sq_n, sg_n)
        b_bias = _skipped(p_sel, weight, chunk, row, o_c, o_n, m_n, N, C, CAUSAL)
        b_p, b_ds = _weights(b_q, b_k, b_v, b_g, b_lse, b_delta, b_bias, scale, PRECISION)
        b_dv = tl.dot(tl.trans(b_p).to(b_g.dtype), b_g, b_dv, input_precision=PRECISION)
        b_dk = tl.dot(tl.trans(b_ds).to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
    tl.atomic_add(dmean_k + o_mean, b_dk * factor, mask=m_k, sem="relaxed")
    tl.atomic_add(dmean_v + o_mean, b_dv, mask=m_k, sem="relaxed")


@triton.jit(do_not_specialize=["bh_first"])
def moc_bwd_tail_q(
    q, mean_k, mean_v, grad, lse, delta, dq, sel, weight, chunk, row,
    sq_b, sq_h, sq_n, sg_b, sg_h, sg_n, H, N, C, W, bh_first, scale, factor,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BM rows meet all summaries; comes last and adds to dq."""
    i_local = tl.program_id(1)
    i_bh = bh_first + i_local
    p_q, p_g, o_head = _head(q, grad, i_bh, H, N, sq_b, sq_h, sg_b, sg_h)
    o_d, o_n = tl.arange(0, DP), tl.program_id(0) * BM + tl.arange(0, BM)
    m_d, m_n = (o_d < D)[None, :], o_n < N
    b_q, b_g, b_lse, b_delta = _some_rows(p_q, p_g, lse + o_head, delta + o_head, o_n, m_n, o_d, m_d, sq_n, sg_n)
    p_sel = sel + i_local.to(tl.int64) * W * N
    p_dq = dq + (o_head + o_n)[:, None] * D + o_d[None, :]
    b_dq = tl.zeros([BM, DP], tl.float32)
    for i in tl.range(0, C, BN, num_stages=STAGES):
        o_c = i + tl.arange(0, BN)
        o_mean = (i_bh.to(tl.int64) * C + o_c)[:, None] * D + o_d[None, :]
        m_k = (o_c < C)[:, None] & m_d
        b_k, b_v = tl.load(mean_k + o_mean, mask=m_k, other=0.0), tl.load(mean_v + o_mean, mask=m_k, other=0.0)
        b_bias = _skipped(p_sel, weight, chunk, row, o_c, o_n, m_n, N, C, CAUSAL)
        _, b_ds = _weights(b_q, b_k, b_v, b_g, b_lse, b_delta, b_bias, scale, PRECISION)
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    b_dq = tl.load(p_dq, mask=m_n[:, None] & m_d, other=0.0) + b_dq * factor
    tl.store(p_dq, b_dq, mask=m_n[:, None] & m_d)
