"""Device functions of several stages: integer keys that sort like scores, the k-th largest of a row, one softmax
step."""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2**31))  # key of what cannot be chosen
HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
def flip(b_i):
    """int32 bits of a float <-> int32 with the same order."""
    return b_i ^ ((b_i >> 31) & 0x7FFFFFFF)


@triton.jit
def key_of(b_s):
    """fp32 -> int32 with the same order; -0 equals 0."""
    b_s = tl.where(b_s == 0.0, 0.0, b_s)
    return flip(b_s.to(tl.int32, bitcast=True))


@triton.jit
def value_of(b_key):
    """The float whose key this is."""
    return flip(b_key).to(tl.float32, bitcast=True)


@triton.jit
def middle(b_lo, b_hi, i_step):
    """A key between two keys (lo + 1 < hi): halves the distance of the scores, every fourth time that of the keys."""
    b_f = value_of(b_lo) * 0.5 + value_of(b_hi) * 0.5
    b_mid = tl.where((i_step % 4 == 3) | (i_step > 24), (b_lo >> 1) + (b_hi >> 1) + (b_lo & b_hi & 1), key_of(b_f))
    return tl.minimum(tl.maximum(b_mid, b_lo + 1), b_hi - 1)


@triton.jit
def _reach(b_s, b_t):
    """How many scores of every row reach t [M]: counted as floats, at half the instructions of integers."""
    return tl.sum(tl.where(b_s >= b_t[:, None], 1.0, 0.0), 1).to(tl.int32)


@triton.jit
def least_chosen(b_s, b_k):
    """b_s [M, C] (-inf: cannot be chosen), b_k [M] -> (t [M], count(s >= t) [M]): the largest t that k scores reach.

    All scores of the row are kept where fewer than k are above -inf.
    """
    b_live = b_s > float("-inf")
    b_at = tl.sum(b_live.to(tl.int32), 1)
    b_lo = key_of(tl.min(tl.where(b_live, b_s, float("inf")), 1))
    b_hi = key_of(tl.max(b_s, 1)) + 1
    left = tl.sum(((b_at > b_k) & (b_hi - 1 > b_lo)).to(tl.int32), 0)
    i_step = 0
    while left > 0:
        for _ in tl.static_range(4):  # all warps have to meet to see whether rows are left: not after every step
            b_open = (b_at > b_k) & (b_hi - 1 > b_lo)
            b_mid = middle(b_lo, tl.maximum(b_hi, b_lo + 2), i_step)
            b_n = _reach(b_s, value_of(b_mid))
            b_up = b_open & (b_n >= b_k)
            b_lo = tl.where(b_up, b_mid, b_lo)
            b_at = tl.where(b_up, b_n, b_at)
            b_hi = tl.where(b_open & (b_n < b_k), b_mid, b_hi)
            i_step += 1
        left = tl.sum(((b_at > b_k) & (b_hi - 1 > b_lo)).to(tl.int32), 0)
    return value_of(b_lo), b_at


@triton.jit
def least_of_few(b_s, k):
    """As `least_chosen` where k is small: largest after largest. With equal scores t may be too low."""
    b_t = tl.max(b_s, 1)
    for _ in range(1, k):
        b_t = tl.max(tl.where(b_s < b_t[:, None], b_s, float("-inf")), 1)
    return b_t, _reach(b_s, b_t)


@triton.jit
def ones(b_w):
    """How many bits of an int32 are set."""
    b_w = b_w - ((b_w >> 1) & 0x55555555)
    b_w = (b_w & 0x33333333) + ((b_w >> 2) & 0x33333333)
    b_w = (b_w + (b_w >> 4)) & 0x0F0F0F0F
    return ((b_w * 0x01010101) >> 24) & 0xFF


@triton.jit
def pair_columns(o_k, D: tl.constexpr, DP: tl.constexpr):
    """Columns 0 to 2 * DP of query and descriptor pairs -> (place in a query row, place in a descriptor row, valid).

    Mean: the descriptor is two numbers of the input's precision that add up to the mean, so both meet the same query.
    Min-max: largest and smallest key, which meet the positive and the negative part of the query (`signed`).
    One product over both halves keeps the matrix unit busy for longer than two would.
    """
    o_d = o_k % DP
    return o_d, o_k // DP * D + o_d, o_d < D


@triton.jit
def signed(b_q, o_k, DP: tl.constexpr, SIGNED: tl.constexpr):
    """Query columns for `pair_columns`: with SIGNED the positive part in the first half, then the negative one."""
    if SIGNED:
        b_q = tl.where((o_k < DP)[None, :], tl.maximum(b_q, 0.0), tl.minimum(b_q, 0.0)).to(b_q.dtype)
    return b_q


@triton.jit
def own_of_rows(row, o_n, m_n, N, C):
    """Of rows [M]: their own chunks' first and last + 1, and their shot. row [3, N] of `DeviceTable`."""
    b_first = tl.load(row + o_n, mask=m_n, other=0)
    b_last = tl.load(row + N + o_n, mask=m_n, other=C)
    return b_first, b_last, tl.load(row + 2 * N + o_n, mask=m_n, other=-1)


@triton.jit
def open_to(o_c, b_first, b_last, b_shot, chunk, shot_mask, C, S, CAUSAL: tl.constexpr, SHOT_MASK: tl.constexpr):
    """Which chunks [1, C] rows may choose from -> mask [M, C]. keep [S, S] of this head: the outer loop's choice."""
    m_c = o_c < C
    b_free = tl.load(chunk + 3 * C + o_c, mask=m_c, other=0)[None, :] > 0
    b_off = (o_c[None, :] - b_first[:, None]).to(tl.uint32, bitcast=True)  # one comparison for first <= c < last
    b_cand = b_free & (b_off >= (b_last - b_first).to(tl.uint32, bitcast=True)[:, None])
    if CAUSAL or SHOT_MASK:
        b_there = tl.load(chunk + 2 * C + o_c, mask=m_c, other=-1)[None, :]
        if CAUSAL:
            b_cand = b_cand & (b_there <= b_shot[:, None])
        if SHOT_MASK:
            b_from = tl.maximum(b_shot, 0)[:, None]
            b_seen = tl.load(shot_mask + b_from * S + tl.maximum(b_there, 0), mask=b_cand, other=0)
            b_cand = b_cand & ((b_seen > 0) | (b_there < 0))
    return b_cand


@triton.jit
def bounds(b_first, b_last, b_shot, m_n):
    """(first, last chunk + 1) that hold all rows' own chunks, and the lowest shot of the rows."""
    own_from = tl.min(tl.where(m_n, b_first, HIGHEST), 0)
    return own_from, tl.max(tl.where(m_n, b_last, 0), 0), tl.min(tl.where(m_n, b_shot, HIGHEST), 0)


@triton.jit
def closed(free, low, high, own_from, own_to, shot, CAUSAL: tl.constexpr):
    """Whether some row may not choose some of the chunks [low, high). free: from `Plan.passes`."""
    shut = (free == HIGHEST) | ((low < own_to) & (high > own_from))
    if CAUSAL:
        shut = shut | (free > shot)
    return shut


@triton.jit
def scores_of_8_bits(b_q, b_k, k_scale, o_j, N):
    """int8 queries [M, D] and keys [J, D] -> their scores, but for the queries' scales. o_j [J]: tokens."""
    b_s = tl.dot(b_q, tl.trans(b_k), out_dtype=tl.int32).to(tl.float32)
    return b_s * tl.load(k_scale + o_j // 64, mask=o_j < N, other=0.0)[None, :]


@triton.jit
def attend_step(
    b_q,
    b_k,
    b_v,
    b_keep,
    b_acc,
    b_m,
    b_l,
    scale,
    SHOT_MASK: tl.constexpr,
    PRECISION: tl.constexpr,
    k_scale=None,
    o_j=None,
    N=None,
):
    """Take keys and values [J, D] into a running softmax (acc [M, D], max [M], sum [M]); scale is in log2 units.

    In 8 bits: k_scale of this head, tokens o_j [J] below N; scale [M] holds that of the queries.
    """
    if k_scale is None:
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
    else:
        b_s = scores_of_8_bits(b_q, b_k, k_scale, o_j, N)
    if SHOT_MASK:
        b_s = tl.where(b_keep, b_s, float("-inf"))
    b_top = tl.maximum(b_m, tl.max(b_s, 1) * scale)
    if SHOT_MASK:  # a row that has seen nothing yet has no maximum to subtract
        b_ref = tl.where(b_top == float("-inf"), 0.0, b_top)
    else:
        b_ref = b_top
    if k_scale is None:
        b_p = tl.math.exp2(b_s * scale - b_ref[:, None])
    else:
        b_p = tl.math.exp2(b_s * scale[:, None] - b_ref[:, None])
    b_alpha = tl.math.exp2(b_m - b_ref)
    b_l = b_l * b_alpha + tl.sum(b_p, 1)
    b_acc = b_acc * b_alpha[:, None]
    b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc, input_precision=PRECISION)
    return b_acc, b_top, b_l
