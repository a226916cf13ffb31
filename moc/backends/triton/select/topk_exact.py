"""Exact top-k of a few rows by bisection and counting: only an interval is kept from pass to pass, so it never
overflows."""

from __future__ import annotations

import triton
import triton.language as tl

from ..lib.sortable import HIGHEST, LOWEST, key_of, open_to, own_of_rows, pair_columns, signed, value_of

WAYS = tl.constexpr(8)  # keys that a pass counts at once: a few rows wait for passes, not for comparisons


@triton.jit
def _between(b_lo, b_hi, i_step):
    """WAYS keys between two keys [M] (lo + 1 < hi), evenly spaced by score, every other step by key -> [M, WAYS]."""
    o_w = tl.arange(0, WAYS) + 1
    b_x = (o_w.to(tl.float32) * (1.0 / (WAYS + 1)))[None, :]
    b_low, b_high = value_of(b_lo)[:, None], value_of(b_hi)[:, None]
    b_step = tl.maximum(b_hi // (WAYS + 1) - b_lo // (WAYS + 1), 1)
    b_even = b_lo[:, None] + b_step[:, None] * o_w[None, :]
    b_mid = tl.where(i_step % 2 == 1, b_even, key_of(b_low * (1.0 - b_x) + b_high * b_x))
    return tl.minimum(tl.maximum(b_mid, b_lo[:, None] + 1), b_hi[:, None] - 1)


@triton.jit(do_not_specialize=["bh_first", "k", "S", "share"])
def moc_select_exact(
    q, desc, chunk, row, shot_mask, sel, pairs, number, threshold, retry_rows, retry_count,
    s_bh, s_n, N, C, S, W, bh_first, k, share,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr,
    SIGNED: tl.constexpr, CAUSAL: tl.constexpr, SHOT_MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For the rows listed [heads, N], waiting [heads] of them. level [heads, N]: a score likely below the k-th."""
    i_local = tl.program_id(0) // share
    i_bh = bh_first + i_local
    n_rows = tl.load(retry_count + i_local)
    for i_t in range(tl.program_id(0) % share, tl.cdiv(n_rows, BM), share):
        o_e = i_t * BM + tl.arange(0, BM)
        m_n = o_e < n_rows
        o_n = tl.load(retry_rows + i_local.to(tl.int64) * N + o_e, mask=m_n, other=0)
        b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)
        b_level = key_of(tl.load(threshold + i_local.to(tl.int64) * N + o_n, mask=m_n, other=0.0))
        o_g = tl.arange(0, G)
        o_k = tl.arange(0, 2 * DP)
        o_q, o_p, m_k = pair_columns(o_k, D, DP)
        p_q = q + i_local.to(tl.int64) * s_bh + o_n.to(tl.int64)[:, None] * s_n + o_q[None, :]
        b_q = signed(tl.load(p_q, mask=m_n[:, None] & m_k[None, :], other=0.0), o_k, DP, SIGNED)  # [BM, 2 * DP]
        p_desc = desc + i_bh.to(tl.int64) * C * 2 * D + o_p[None, :]
        p_shot_mask = shot_mask + i_bh.to(tl.int64) * S * S
        i_h = i_local.to(tl.int64)
        p_pairs = pairs + i_h * N * k
        num_blocks = tl.cdiv(C, G)
        # Pass 0 finds the range; every further pass counts what reaches some keys within; the last one writes
        b_lo = tl.full([BM], HIGHEST, tl.int32)
        b_hi = tl.full([BM], LOWEST, tl.int32)
        b_at = tl.zeros([BM], tl.int32)
        b_used = tl.zeros([BM], tl.int32)
        b_free = tl.zeros([BM], tl.int32)
        b_slot = tl.zeros([BM], tl.int32)
        b_mid = b_level[:, None] + tl.zeros([BM, WAYS], tl.int32)
        i_step = 0
        state = 0  # 0 range, 1 search, 2 count what is above the border, 3 write
        while state < 4:
            b_n = tl.zeros([BM], tl.int32)
            b_reach = tl.zeros([BM, WAYS], tl.int32)
            for i in range(0, num_blocks):
                o_c = i * G + o_g
                b_p = tl.load(p_desc + o_c[:, None] * 2 * D, mask=(o_c < C)[:, None] & m_k[None, :], other=0.0)
                b_s = tl.dot(b_q, tl.trans(b_p), input_precision=PRECISION)
                b_cand = open_to(o_c, b_first, b_last, b_shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK)
                b_key = tl.where(b_cand, tl.maximum(key_of(b_s), LOWEST + 1), LOWEST)
                if state < 2:
                    b_reach += tl.sum((b_key[:, :, None] >= b_mid[:, None, :]).to(tl.int32), 1)
                if state == 0:
                    b_lo = tl.minimum(b_lo, tl.min(tl.where(b_cand, b_key, HIGHEST), 1))
                    b_hi = tl.maximum(b_hi, tl.max(b_key, 1))
                    b_n += tl.sum(b_cand.to(tl.int32), 1)
                elif state == 2:
                    b_n += tl.sum((b_cand & (b_key > b_lo[:, None])).to(tl.int32), 1)
                elif state == 3:
                    b_even = (b_cand & (b_key == b_lo[:, None])).to(tl.int32)
                    b_rank = tl.cumsum(b_even, 1) + b_used[:, None]
                    b_used += tl.sum(b_even, 1)
                    b_sel = b_cand & ((b_key > b_lo[:, None]) | ((b_even > 0) & (b_rank <= b_free[:, None])))
                    if BITS:
                        b_bits = tl.reshape(b_sel.to(tl.int32), [BM, G // 32, 32]) << tl.arange(0, 32)[None, None, :]
                        o_w = i * (G // 32) + tl.arange(0, G // 32)
                        p_sel = sel + (i_h * W + o_w[None, :]) * N + o_n[:, None]
                        tl.store(p_sel, tl.sum(b_bits, 2), mask=m_n[:, None] & (o_w < W)[None, :])
                    else:
                        b_next = b_slot[:, None] + tl.cumsum(b_sel.to(tl.int32), 1) - 1
                        m_sel = b_sel & m_n[:, None]
                        tl.store(p_pairs + o_n[:, None] * k + b_next, (o_c << 16)[None, :], mask=m_sel)
                        b_slot += tl.sum(b_sel.to(tl.int32), 1)
                        if i == num_blocks - 1:  # not after the loop: Triton 3.5 does not build that
                            tl.store(number + i_h * N + o_n, b_slot, mask=m_n)
            if state == 0:
                b_at = b_n
                b_hi = tl.where(b_hi < HIGHEST, b_hi + 1, b_hi)
            if state < 2:
                b_open = (b_at > k) & (b_hi - 1 > b_lo)
                b_up = b_open[:, None] & (b_reach >= k) & (b_mid > b_lo[:, None])
                b_lo = tl.maximum(b_lo, tl.max(tl.where(b_up, b_mid, LOWEST), 1))
                b_at = tl.minimum(b_at, tl.min(tl.where(b_up, b_reach, HIGHEST), 1))
                b_hi = tl.minimum(b_hi, tl.min(tl.where(b_open[:, None] & (b_reach < k), b_mid, HIGHEST), 1))
                b_open = (b_at > k) & (b_hi - 1 > b_lo)
                b_mid = _between(b_lo, tl.maximum(b_hi, b_lo + 2), i_step)
                i_step += 1
                state = 1
                if tl.sum(b_open.to(tl.int32), 0) == 0:
                    state = 2
            elif state == 2:
                b_free = k - b_n
                state = 3
            else:
                state = 4
