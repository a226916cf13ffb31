"""Exact top-k of every row among the scores that survived `topk_filter_sm90.py`, in Gluon."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..device_table import DeviceTable
from ..lib import sortable

SLOTS = 64  # for the scores of a row that a thread writes, four threads to a row
SURVIVORS = 32  # of them count; where more are in use some were written over. Powers of two: an address tells how many
FREE = gl.constexpr(-1e38)  # a level below shut nothing out
ROWS = 8  # of a warp, four threads to a row as well

key_of, middle, value_of = (gluon.jit(f.fn) for f in (sortable.key_of, sortable.middle, sortable.value_of))
cumsum = gluon.jit(tl.cumsum.fn)


@gluon.jit
def _total(b_x):
    """Of every row [M, 4, X] -> [M]."""
    return gl.sum(gl.sum(b_x, 2), 1)


@gluon.jit
def _reach(b_s, b_t):
    return _total(gl.where(b_s >= b_t[:, None, None], 1.0, 0.0)).to(gl.int32)


@gluon.jit
def _least_chosen(b_s, k):
    """`sortable.least_chosen` of scores [M, 4, X]."""
    b_live = b_s > float("-inf")
    b_at = _total(b_live.to(gl.int32))
    b_lo = key_of(gl.min(gl.min(gl.where(b_live, b_s, float("inf")), 2), 1))
    b_hi = key_of(gl.max(gl.max(b_s, 2), 1)) + 1
    b_open = (b_at > k) & (b_hi - 1 > b_lo)
    i_step = 0
    while gl.max(b_open.to(gl.int32), 0) > 0:
        for _ in gl.static_range(2):
            b_mid = middle(b_lo, gl.maximum(b_hi, b_lo + 2), i_step)
            b_n = _reach(b_s, value_of(b_mid))
            b_up = b_open & (b_n >= k)
            b_lo = gl.where(b_up, b_mid, b_lo)
            b_at = gl.where(b_up, b_n, b_at)
            b_hi = gl.where(b_open & (b_n < k), b_mid, b_hi)
            b_open = (b_at > k) & (b_hi - 1 > b_lo)
            i_step += 1
    return value_of(b_lo), b_at


@gluon.jit(do_not_specialize=["k", "rotation"])
def moc_select_filter_finish_sm90(
    written, count, sel, pairs, number, threshold, overflow_rows, overflow_count, N, W, k, rotation,
    BM: gl.constexpr, G: gl.constexpr, SLOTS: gl.constexpr, X: gl.constexpr, BITS: gl.constexpr,
):  # fmt: skip
    """Rows take the k best; those whose k best may not be of all are listed (`topk_stream_heap.finish`)."""
    layout: gl.constexpr = gl.BlockedLayout([1, 1, X], [8, 4, 1], [1, 1, 1], [2, 1, 0])  # as they were written
    by_thread: gl.constexpr = gl.SliceLayout(2, layout)
    i_h = gl.program_id(1).to(gl.int64)
    o_n = gl.program_id(0) * BM + gl.arange(0, BM, gl.SliceLayout(1, by_thread))
    o_q = gl.arange(0, 4, gl.SliceLayout(0, by_thread))
    o_x = gl.arange(0, X, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    m_n = o_n < N
    o_row = i_h * N + o_n
    b_n = gl.load(count + o_row[:, None] * 4 + o_q[None, :], mask=m_n[:, None], other=0)
    p_x = written + (o_row[:, None] * (4 * SLOTS) + o_q[None, :] * SLOTS)[:, :, None] + o_x
    b_x = gl.load(p_x, mask=o_x // 4 * 4 < b_n[:, :, None], other=0)  # whole sectors
    b_s = gl.where(o_x < b_n[:, :, None], b_x.to(gl.int32).to(gl.float32, bitcast=True), float("-inf"))
    b_i = (b_x >> 32).to(gl.int32)
    b_t, b_at = _least_chosen(b_s, k)
    b_level = gl.load(threshold + o_row, mask=m_n, other=0.0)
    b_all = _total((b_s > float("-inf")).to(gl.int32))
    m_lost = m_n & ((gl.max(b_n, 1) >= X) | ((b_all < k) & (b_level > FREE)))
    if gl.max(m_lost.to(gl.int32), 0) > 0:  # which place of the list a row gets does not show
        o_overflow = gl.atomic_add(overflow_count + i_h + o_n * 0, m_lost.to(gl.int32), mask=m_lost, sem="relaxed")
        gl.store(overflow_rows + i_h * N + o_overflow, o_n, mask=m_lost)
        # a little below the k-th best; below the level by as much as the best is above it where fewer reach it
        b_top = gl.where(b_all > 0, gl.max(gl.max(b_s, 2), 1), b_level)
        b_low = gl.where(b_all < k, 2 * b_level - b_top, b_t)
        gl.store(threshold + o_row, b_low - gl.abs(b_low) * 2.0**-8, mask=m_lost)
    m_row = m_n & (m_lost == 0)
    b_take = (b_s >= b_t[:, None, None]) & (b_s > float("-inf")) & m_row[:, None, None]
    b_pass = b_i // G
    b_c = b_pass * G + ((b_i + b_pass * rotation) & (G - 1))
    m_tied = m_row & (b_at > k)
    if gl.max(m_tied.to(gl.int32), 0) > 0:  # of equals the lower chunks win
        b_equal = gl.where(b_take & (b_s == b_t[:, None, None]), b_c, 2**31 - 1)
        b_need = gl.where(m_tied, k - b_at + _total((b_equal < 2**31 - 1).to(gl.int32)), 0)
        b_cut = gl.where(m_tied, -1, 2**31 - 1)
        while gl.max(b_need, 0) > 0:
            b_next = gl.min(gl.min(gl.where(b_equal > b_cut[:, None, None], b_equal, 2**31 - 1), 2), 1)
            b_cut = gl.where(b_need > 0, b_next, b_cut)
            b_need -= 1
        b_take = b_take & ((b_equal == 2**31 - 1) | (b_equal <= b_cut[:, None, None]))
    if BITS:
        p_sel = sel + i_h * W * N + (b_c >> 5).to(gl.int64) * N + o_n[:, None, None]
        gl.atomic_or(p_sel, 1 << (b_c & 31), mask=b_take, sem="relaxed")
    else:
        b_one = b_take.to(gl.int32)
        b_mine = gl.sum(b_one, 2)
        gl.store(number + o_row, gl.sum(b_mine, 1), mask=m_row)
        b_upto = cumsum(gl.convert_layout(b_mine, gl.BlockedLayout([1, 1], [8, 4], [1, 1], [1, 0])), 1)
        b_before = gl.convert_layout(b_upto, by_thread) - b_mine
        o_slot = (o_row[:, None] * k + b_before)[:, :, None] + cumsum(b_one, 2) - 1
        gl.store(pairs + o_slot, b_c << 16, mask=b_take)


def finish_topk(
    written: Tensor, count: Tensor, sel: Tensor, pairs: Tensor, number: Tensor, threshold: Tensor,
    overflow_rows: Tensor,
    overflow_count: Tensor, plan: DeviceTable, *, groups: int, rotation: int, as_bits: bool,
) -> None:  # fmt: skip
    """written, as [heads, N, 4, SLOTS]: score and place among passes of `groups` chunks; count [heads, N, 4]; level
    [heads, N]. Into what `topk_stream` makes of some heads."""
    heads, n = threshold.shape
    moc_select_filter_finish_sm90[(-(-n // ROWS), heads)](
        written, count, sel, pairs, number, threshold, overflow_rows, overflow_count, n, plan.words, plan.top_k,
        rotation,
        BM=ROWS, G=groups, SLOTS=SLOTS, X=SURVIVORS, BITS=as_bits, num_warps=1,
    )  # fmt: skip
