"""What the buckets of `topk_stream.py` keep of a row: up to eight tensors [rows, buckets], sorted, largest first.

An entry is a score whose low bits name the pass that the chunk came in, so it stands for the chunk too; -inf: empty.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..lib.sortable import HIGHEST, flip, middle, value_of


@triton.jit
def bits(b_x):
    return b_x.to(tl.int32, bitcast=True)


@triton.jit
def reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_t, R: tl.constexpr):
    """How many kept numbers of every row reach t [M]."""
    b_t = b_t[:, None]
    b_n = tl.where(b_0 >= b_t, 1.0, 0.0) + tl.where(b_1 >= b_t, 1.0, 0.0)
    b_n += tl.where(b_2 >= b_t, 1.0, 0.0) + tl.where(b_3 >= b_t, 1.0, 0.0)
    if R > 4:
        b_n += tl.where(b_4 >= b_t, 1.0, 0.0) + tl.where(b_5 >= b_t, 1.0, 0.0)
        b_n += tl.where(b_6 >= b_t, 1.0, 0.0) + tl.where(b_7 >= b_t, 1.0, 0.0)
    return tl.sum(b_n, 1).to(tl.int32)


@triton.jit
def least(b_x, b_y):
    """The smaller of two in which -inf stands for nothing."""
    b_x = tl.where(b_x > float("-inf"), b_x, float("inf"))
    return tl.minimum(b_x, tl.where(b_y > float("-inf"), b_y, float("inf")))


@triton.jit
def alike(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_t, R: tl.constexpr, LOW: tl.constexpr):
    """How many kept numbers of every row differ from t [M] in the low bits at most."""
    b_c = (bits(b_t) & ~LOW)[:, None]
    b_n = ((bits(b_0) & ~LOW) == b_c).to(tl.int32) + ((bits(b_1) & ~LOW) == b_c).to(tl.int32)
    b_n += ((bits(b_2) & ~LOW) == b_c).to(tl.int32) + ((bits(b_3) & ~LOW) == b_c).to(tl.int32)
    if R > 4:
        b_n += ((bits(b_4) & ~LOW) == b_c).to(tl.int32) + ((bits(b_5) & ~LOW) == b_c).to(tl.int32)
        b_n += ((bits(b_6) & ~LOW) == b_c).to(tl.int32) + ((bits(b_7) & ~LOW) == b_c).to(tl.int32)
    return tl.sum(b_n, 1)


@triton.jit
def chunk_of(b_x, o_g, rotation, G: tl.constexpr, LOW: tl.constexpr):
    """The chunk that a number of group g stands for."""
    b_pass = LOW - (bits(b_x) & LOW)
    return b_pass * G + ((o_g[None, :] + b_pass * rotation) & (G - 1))


@triton.jit
def _emit(
    b_x, b_from, p_slot, place, o_g, o_n, p_sel, N, rotation, G: tl.constexpr, LOW: tl.constexpr, BITS: tl.constexpr
):  # fmt: skip
    b_c = chunk_of(b_x, o_g, rotation, G, LOW)
    if BITS:
        o = (b_c >> 5).to(tl.int64) * N + o_n
        tl.atomic_or(p_sel + o, 1 << (b_c & 31), mask=b_x >= b_from, sem="relaxed")
    else:
        tl.store(p_slot + place, b_c << 16, mask=b_x >= b_from)


@triton.jit
def emit(
    b_0, b_1, b_2, b_3, b_from, p_slot, place, o_g, o_n, p_sel, N, rotation,
    G: tl.constexpr, LOW: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Rows take the numbers that reach from [M, G]: set their bits, or store their chunks at slot [M, G] + place."""
    _emit(b_0, b_from, p_slot, place, o_g, o_n, p_sel, N, rotation, G, LOW, BITS)
    _emit(b_1, b_from, p_slot, place + 1, o_g, o_n, p_sel, N, rotation, G, LOW, BITS)
    _emit(b_2, b_from, p_slot, place + 2, o_g, o_n, p_sel, N, rotation, G, LOW, BITS)
    _emit(b_3, b_from, p_slot, place + 3, o_g, o_n, p_sel, N, rotation, G, LOW, BITS)


@triton.jit
def taken(b_0, b_1, b_2, b_3, b_from):
    """How many of a group's four numbers its row takes [M, G]."""
    b_n = (b_0 >= b_from).to(tl.int32) + (b_1 >= b_from).to(tl.int32)
    return b_n + (b_2 >= b_from).to(tl.int32) + (b_3 >= b_from).to(tl.int32)


@triton.jit
def finish(
    b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_common, o_g, o_n, m_n, threshold, overflow_rows, overflow_count, i_local,
    N, k, num_blocks, rotation,
    G: tl.constexpr, R: tl.constexpr, LOW: tl.constexpr,
):  # fmt: skip
    """From which number on a row takes what its groups kept [M, G], and which rows are done [M].

    Rows for which a group may have let one of the k best go are listed, with a score a little below their k-th.
    """
    # The k-th largest of what was kept (`sortable.least_chosen`, over places)
    b_lo = tl.min(tl.where(b_0 > float("-inf"), b_0, float("inf")), 1)  # each group's best
    b_at = reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_lo, R)
    if tl.sum((b_at < k).to(tl.int32), 0) > 0:  # groups are too few, or chunks: lower, down to all
        b_low = tl.minimum(least(b_0, b_1), least(b_2, b_3))
        if R > 4:
            b_low = tl.minimum(b_low, tl.minimum(least(b_4, b_5), least(b_6, b_7)))
        b_lo = tl.where(b_at < k, tl.min(b_low, 1), b_lo)
        b_at = reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_lo, R)
    b_lo, b_hi = flip(bits(b_lo)), flip(bits(tl.max(b_0, 1)))
    b_hi = tl.where(b_hi < HIGHEST, b_hi + 1, b_hi)
    open_rows = tl.sum(((b_at > k) & (b_hi - 1 > b_lo)).to(tl.int32), 0)
    i_step = 0
    while open_rows > 0:
        b_open = (b_at > k) & (b_hi - 1 > b_lo)
        b_mid = middle(b_lo, tl.maximum(b_hi, b_lo + 2), i_step)
        b_n = reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, value_of(b_mid), R)
        b_up = b_open & (b_n >= k)
        b_lo = tl.where(b_up, b_mid, b_lo)
        b_at = tl.where(b_up, b_n, b_at)
        b_hi = tl.where(b_open & (b_n < k), b_mid, b_hi)
        i_step += 1
        if i_step % 4 == 0:  # all warps have to meet to see whether rows are left: not after every step
            open_rows = tl.sum(((b_at > k) & (b_hi - 1 > b_lo)).to(tl.int32), 0)

    # A group whose last place holds one of the chosen may have let one go
    b_t = value_of(b_lo)
    if R > 4:
        b_end = b_7
    else:
        b_end = b_3
    b_gone = tl.sum(((b_end >= b_t[:, None]) & (b_end > float("-inf"))).to(tl.int32), 1)
    b_lost = tl.where(num_blocks > R, b_gone, 0) > 0  # as many places as passes lose nothing
    if tl.sum((b_lo < 0).to(tl.int32), 0) > 0:  # below zero the pass counts backwards: suspect equals
        b_n = alike(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_t, R, LOW)
        b_above = (bits(b_t) & ~LOW).to(tl.float32, bitcast=True)
        b_above = reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_above, R)
        b_lost = b_lost | ((b_lo < 0) & (b_above + b_n > k))
    m_lost = b_lost & m_n
    if tl.sum(m_lost.to(tl.int32), 0) > 0:  # which place of the list a row gets does not show
        o_overflow = tl.atomic_add(overflow_count + i_local + o_n * 0, m_lost.to(tl.int32), mask=m_lost, sem="relaxed")
        tl.store(overflow_rows + i_local.to(tl.int64) * N + o_overflow, o_n, mask=m_lost)
        b_below = b_common + b_t - (tl.abs(b_t) * 2.0**-8 + tl.abs(b_common) * 2.0**-18)
        tl.store(threshold + i_local.to(tl.int64) * N + o_n, b_below, mask=m_lost)
    m_row = m_n & (m_lost == 0)

    # Equal numbers at the border come from one pass, so from as many groups: the lower chunks win
    b_from = tl.where(m_row, b_t, float("inf"))[:, None] + tl.where(b_0 > 0.0, 0.0, 0.0)
    b_tied = m_row & (b_at > k)
    if tl.sum(b_tied.to(tl.int32), 0) > 0:
        b_level = (b_0 == b_t[:, None]) | (b_1 == b_t[:, None]) | (b_2 == b_t[:, None]) | (b_3 == b_t[:, None])
        if R > 4:
            b_level = b_level | (b_4 == b_t[:, None]) | (b_5 == b_t[:, None])
            b_level = b_level | (b_6 == b_t[:, None]) | (b_7 == b_t[:, None])
        b_c = tl.where(b_level, chunk_of(b_t[:, None], o_g, rotation, G, LOW), HIGHEST)
        b_need = tl.where(b_tied, k - b_at + tl.sum(b_level.to(tl.int32), 1), 0)
        b_cut = tl.where(b_tied, -1, HIGHEST)
        while tl.max(b_need, 0) > 0:
            b_next = tl.min(tl.where(b_c > b_cut[:, None], b_c, HIGHEST), 1)
            b_cut = tl.where(b_need > 0, b_next, b_cut)
            b_need -= 1
        b_from = tl.where(b_level & (b_c > b_cut[:, None]), value_of(b_lo + 1)[:, None], b_from)
    return b_from, m_row
