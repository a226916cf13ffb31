"""Top-k of every row among any number of chunks, in one pass over the descriptors; scores are never stored.

A row's chunks are dealt into G groups, and a group keeps its R best in registers. The k best of the row are among
the G*R kept unless one group holds more than R of them. A tile of rows where that could have happened is flagged and
dealt anew. What is still flagged then, or has equal scores that compete for the last place, goes to `_repair`: it finds
the threshold by counting, pass by pass, and is always right.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .common import HIGHEST, LOWEST, key_of, middle, open_to, score_tile
from .configs import Config
from .plan import Plan

DONE = tl.constexpr(0)
FULL = tl.constexpr(1)  # a group may have held more than R of the best
TIED = tl.constexpr(2)  # equal scores compete for the last place


@triton.jit
def _push(b_kept, b_new):
    """Keep the larger, hand on the smaller."""
    return tl.maximum(b_kept, b_new), tl.minimum(b_kept, b_new)


@triton.jit
def _reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_t, R: tl.constexpr):
    """How many kept keys of every row reach t [M]."""
    b_t = b_t[:, None]
    b_n = (b_0 >= b_t).to(tl.int32) + (b_1 >= b_t).to(tl.int32) + (b_2 >= b_t).to(tl.int32) + (b_3 >= b_t).to(tl.int32)
    b_n += (b_4 >= b_t).to(tl.int32)
    if R > 5:
        b_n += (b_5 >= b_t).to(tl.int32) + (b_6 >= b_t).to(tl.int32) + (b_7 >= b_t).to(tl.int32)
    return tl.sum(b_n, 1)


@triton.jit
def _mark(b_key, b_lo, o_g, p_sel, N, m_n, turn, G: tl.constexpr, LOW: tl.constexpr):
    """Set the bits of the chunks whose keys reach lo. The order in which bits are set does not show."""
    b_pass = LOW - (b_key & LOW)
    b_c = b_pass * G + ((o_g[None, :] + b_pass * turn) & (G - 1))
    m_sel = (b_key > LOWEST) & (b_key >= b_lo) & m_n[:, None]
    tl.atomic_or(p_sel + (b_c >> 5).to(tl.int64) * N, 1 << (b_c & 31), mask=m_sel, sem="relaxed")


@triton.jit(do_not_specialize=["bh_first", "tiles", "k", "S", "turn"])
def _stream(
    q, a, b, chunk, row, keep, sel, flag,
    s_b, s_h, s_n, H, N, C, S, W, bh_first, tiles, k, turns, turn,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, G: tl.constexpr, R: tl.constexpr, LOW: tl.constexpr,
    AGAIN: tl.constexpr, MINMAX: tl.constexpr, CAUSAL: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    if AGAIN:
        if tl.load(flag + tl.program_id(0)) != FULL:
            return
    i_t, i_local = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_bh = bh_first + i_local
    o_n = i_t * BM + tl.arange(0, BM)
    m_n = o_n < N
    b_first = tl.load(row + o_n, mask=m_n, other=0)
    b_last = tl.load(row + N + o_n, mask=m_n, other=C)
    b_shot = tl.load(row + 2 * N + o_n, mask=m_n, other=-1)
    o_d, o_g = tl.arange(0, DP), tl.arange(0, G)
    p_q = q + (i_bh // H).to(tl.int64) * s_b + (i_bh % H).to(tl.int64) * s_h + o_n.to(tl.int64)[:, None] * s_n
    b_q = tl.load(p_q + o_d[None, :], mask=m_n[:, None] & (o_d < D)[None, :], other=0.0)  # [BM, DP]
    p_desc = i_bh.to(tl.int64) * C * D + o_d[None, :]
    p_keep = keep + i_bh.to(tl.int64) * S * S

    b_none = tl.full([BM, G], LOWEST, tl.int32)
    b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7 = b_none, b_none, b_none, b_none, b_none, b_none, b_none, b_none
    for i in range(0, turns):
        # Turned from pass to pass, so that chunks one frame apart do not always meet in the same group
        o_c = i * G + ((o_g + i * turn) & (G - 1))
        m_kv = (o_c < C)[:, None] & (o_d < D)[None, :]
        b_s = score_tile(b_q, a + p_desc + o_c[:, None] * D, b + p_desc + o_c[:, None] * D, m_kv, MINMAX, PRECISION)
        b_cand = open_to(o_c, b_first, b_last, b_shot, chunk, p_keep, C, S, CAUSAL, KEEP)
        # The low bits name the pass: scores that agree in all other digits are equal, and the earlier chunk wins
        b_new = (tl.maximum(key_of(b_s), LOWEST + LOW + 1) & ~LOW) | (LOW - i)
        b_new = tl.where(b_cand, b_new, LOWEST)
        b_0, b_new = _push(b_0, b_new)
        b_1, b_new = _push(b_1, b_new)
        b_2, b_new = _push(b_2, b_new)
        b_3, b_new = _push(b_3, b_new)
        b_4, b_new = _push(b_4, b_new)
        if R > 5:
            b_5, b_new = _push(b_5, b_new)
            b_6, b_new = _push(b_6, b_new)
            b_7, b_new = _push(b_7, b_new)

    # The k-th largest of what was kept (`common.least_chosen`, over slots)
    b_at = _reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, tl.full([BM], LOWEST + 1, tl.int32), R)
    b_lo = tl.min(tl.where(b_0 > LOWEST, b_0, HIGHEST), 1)  # each group's best; lower only where groups are too few
    b_enough = _reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_lo, R)
    b_short = b_enough < k
    b_lo = tl.where(b_short, LOWEST + 1, b_lo)
    b_at = tl.where(b_short, b_at, b_enough)
    b_hi = tl.max(b_0, 1)
    b_hi = tl.where(b_hi < HIGHEST, b_hi + 1, b_hi)
    left = tl.sum(((b_at > k) & (b_hi - 1 > b_lo)).to(tl.int32), 0)
    i_step = 0
    while left > 0:
        b_open = (b_at > k) & (b_hi - 1 > b_lo)
        b_mid = middle(b_lo, tl.maximum(b_hi, b_lo + 2), i_step)
        b_n = _reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_mid, R)
        b_up = b_open & (b_n >= k)
        b_lo = tl.where(b_up, b_mid, b_lo)
        b_at = tl.where(b_up, b_n, b_at)
        b_hi = tl.where(b_open & (b_n < k), b_mid, b_hi)
        i_step += 1
        if i_step % 4 == 0:  # all warps have to meet to see whether rows are left: not after every step
            left = tl.sum(((b_at > k) & (b_hi - 1 > b_lo)).to(tl.int32), 0)

    if R == 5:
        b_end = b_4
    else:
        b_end = b_7
    lost = tl.sum(tl.sum(((b_end >= b_lo[:, None]) & (b_end > LOWEST)).to(tl.int32), 1), 0)
    tie = tl.sum((b_at > k).to(tl.int32), 0)  # equal scores at the border
    state = tl.where(tie > 0, TIED, tl.where((turns > R) & (lost > 0), FULL, DONE))
    tl.store(flag + tl.program_id(0), state)
    if state != DONE:
        return

    p_sel = sel + i_local.to(tl.int64) * W * N + o_n[:, None]
    b_lo = b_lo[:, None]
    _mark(b_0, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)
    _mark(b_1, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)
    _mark(b_2, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)
    _mark(b_3, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)
    _mark(b_4, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)
    if R > 5:
        _mark(b_5, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)
        _mark(b_6, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)
        _mark(b_7, b_lo, o_g, p_sel, N, m_n, turn, G, LOW)


@triton.jit(do_not_specialize=["bh_first", "tiles", "k", "S"])
def _repair(
    q, a, b, chunk, row, keep, sel, flag,
    s_b, s_h, s_n, H, N, C, S, W, bh_first, tiles, k,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, G: tl.constexpr,
    MINMAX: tl.constexpr, CAUSAL: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    if tl.load(flag + tl.program_id(0)) == 0:
        return
    i_t, i_local = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_bh = bh_first + i_local
    o_n = i_t * BM + tl.arange(0, BM)
    m_n = o_n < N
    b_first = tl.load(row + o_n, mask=m_n, other=0)
    b_last = tl.load(row + N + o_n, mask=m_n, other=C)
    b_shot = tl.load(row + 2 * N + o_n, mask=m_n, other=-1)
    o_d, o_g = tl.arange(0, DP), tl.arange(0, G)
    p_q = q + (i_bh // H).to(tl.int64) * s_b + (i_bh % H).to(tl.int64) * s_h + o_n.to(tl.int64)[:, None] * s_n
    b_q = tl.load(p_q + o_d[None, :], mask=m_n[:, None] & (o_d < D)[None, :], other=0.0)
    p_desc = i_bh.to(tl.int64) * C * D + o_d[None, :]
    p_keep = keep + i_bh.to(tl.int64) * S * S
    turns = tl.cdiv(C, G)

    # Pass 0 finds the range; every further pass counts what reaches the middle; the last one writes
    b_lo = tl.full([BM], HIGHEST, tl.int32)
    b_hi = tl.full([BM], LOWEST, tl.int32)
    b_at = tl.zeros([BM], tl.int32)
    b_mid = tl.full([BM], LOWEST, tl.int32)
    b_used = tl.zeros([BM], tl.int32)
    b_free = tl.zeros([BM], tl.int32)
    i_step = 0
    state = 0  # 0 range, 1 search, 2 count what is above the border, 3 write
    while state < 4:
        b_n = tl.zeros([BM], tl.int32)
        for i in range(0, turns):
            o_c = i * G + o_g
            m_kv = (o_c < C)[:, None] & (o_d < D)[None, :]
            b_s = score_tile(b_q, a + p_desc + o_c[:, None] * D, b + p_desc + o_c[:, None] * D, m_kv, MINMAX, PRECISION)
            b_cand = open_to(o_c, b_first, b_last, b_shot, chunk, p_keep, C, S, CAUSAL, KEEP)
            b_key = tl.where(b_cand, tl.maximum(key_of(b_s), LOWEST + 1), LOWEST)
            if state == 0:
                b_lo = tl.minimum(b_lo, tl.min(tl.where(b_cand, b_key, HIGHEST), 1))
                b_hi = tl.maximum(b_hi, tl.max(b_key, 1))
                b_n += tl.sum(b_cand.to(tl.int32), 1)
            elif state == 1:
                b_n += tl.sum((b_key >= b_mid[:, None]).to(tl.int32), 1)
            elif state == 2:
                b_n += tl.sum((b_cand & (b_key > b_lo[:, None])).to(tl.int32), 1)
            else:
                b_level = (b_cand & (b_key == b_lo[:, None])).to(tl.int32)
                b_rank = tl.cumsum(b_level, 1) + b_used[:, None]
                b_used += tl.sum(b_level, 1)
                b_sel = b_cand & ((b_key > b_lo[:, None]) | ((b_level > 0) & (b_rank <= b_free[:, None])))
                b_bits = tl.reshape(b_sel.to(tl.int32), [BM, G // 32, 32]) << tl.arange(0, 32)[None, None, :]
                o_w = i * (G // 32) + tl.arange(0, G // 32)
                p_sel = sel + (i_local.to(tl.int64) * W + o_w[None, :]) * N + o_n[:, None]
                tl.store(p_sel, tl.sum(b_bits, 2), mask=m_n[:, None] & (o_w < W)[None, :])
        if state == 0:
            b_at = b_n
            b_hi = tl.where(b_hi < HIGHEST, b_hi + 1, b_hi)
            state = 1
        elif state == 1:
            b_open = (b_at > k) & (b_hi - 1 > b_lo)
            b_up = b_open & (b_n >= k)
            b_lo = tl.where(b_up, b_mid, b_lo)
            b_at = tl.where(b_up, b_n, b_at)
            b_hi = tl.where(b_open & (b_n < k), b_mid, b_hi)
            i_step += 1
        elif state == 2:
            b_free = k - b_n
            state = 3
        else:
            state = 4
        if state == 1:
            b_open = (b_at > k) & (b_hi - 1 > b_lo)
            b_mid = middle(b_lo, tl.maximum(b_hi, b_lo + 2), i_step)
            if tl.sum(b_open.to(tl.int32), 0) == 0:
                state = 2


def stream(
    q: Tensor, a: Tensor, b: Tensor, keep: Tensor | None, sel: Tensor, plan: Plan, heads: range,
    *, minmax: bool, causal: bool, precision: str, config: Config, kept: int | None = None,
) -> None:  # fmt: skip
    """As `route`, for any number of chunks. sel [heads, W, N] is overwritten."""
    _, h, n, d = q.shape
    dp = max(16, triton.next_power_of_2(d))
    rows, groups, stages = config.rows, config.keys, config.stages
    kept = kept or (5 if plan.top_k <= groups // 2 else 8)
    turns = -(-plan.chunks // groups)
    tiles = -(-n // rows)
    shots = 0 if keep is None else keep.shape[-1]
    sel.zero_()
    flag = sel.new_empty(tiles * len(heads))
    shared = (
        q, a, b, plan.chunk, plan.row, sel if keep is None else keep, sel, flag,
        *q.stride()[:3], h, n, plan.chunks, shots, plan.words, heads.start, tiles, plan.top_k,
    )  # fmt: skip
    how = dict(D=d, DP=dp, BM=rows, MINMAX=minmax, CAUSAL=causal, KEEP=keep is not None, PRECISION=precision)
    low = triton.next_power_of_2(turns + 1) - 1
    for turn in (groups // 2 - 5, groups // 4 + 3):
        _stream[(tiles * len(heads),)](
            *shared, turns, turn, **how, G=groups, R=kept, LOW=low, AGAIN=turn < groups // 2 - 5,
            num_warps=config.warps, num_stages=stages,
        )  # fmt: skip
    _repair[(tiles * len(heads),)](*shared, **how, G=max(32, groups), num_warps=4, num_stages=stages)
