"""Turn the choice of every row into lists of rows per chunk, sorted, without atomics and without asking the host.

count per (head, chunk, block of rows) -> running sum -> every block knows where its rows go.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import ones
from .plan import Plan

ROWS = 1024  # rows of a block
STEP = 128  # rows taken at a time


@dataclass(frozen=True)
class RowLists:
    """Rows per (head, chunk), in tiles of at most `rows` rows. An entry is row * K + slot, slot = place in the row."""

    entry: Tensor  # [pairs]
    tile: Tensor  # [3, most]: list (head * C + chunk, or -1 where there is none), first and last entry
    most: int
    rows: int


@triton.jit(do_not_specialize=["W"])
def _before(sel, before, N, W, BR: tl.constexpr):
    """How many chunks a row chose in lower words: before [heads, W, N]."""
    i_r, i_h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_n = i_r * BR + tl.arange(0, BR)
    o = i_h * W * N + o_n
    b_n = tl.zeros([BR], tl.int32)
    for _ in range(0, W):
        tl.store(before + o, b_n.to(tl.int16), mask=o_n < N)
        b_n += ones(tl.load(sel + o, mask=o_n < N, other=0))
        o += N


@triton.jit(do_not_specialize=["blocks", "W"])
def _count(sel, count, N, C, W, blocks, BR: tl.constexpr, BS: tl.constexpr):
    i_r, i_w, i_h = tl.program_id(0) % blocks, tl.program_id(0) // blocks % W, tl.program_id(0) // (blocks * W)
    p_sel = sel + (i_h.to(tl.int64) * W + i_w) * N
    o_b = tl.arange(0, 32)
    b_n = tl.zeros([32], tl.int32)
    for i in range(0, BR, BS):
        o_n = i_r * BR + i + tl.arange(0, BS)
        b_w = tl.load(p_sel + o_n, mask=o_n < N, other=0)
        b_n += tl.sum((b_w[:, None] >> o_b[None, :]) & 1, 0)
    o_c = i_w * 32 + o_b
    tl.store(count + (i_h.to(tl.int64) * C + o_c) * blocks + i_r, b_n, mask=o_c < C)


@triton.jit(do_not_specialize=["blocks", "W"])
def _scatter(sel, before, end, entry, N, C, W, blocks, K: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr):
    i_r, i_w, i_h = tl.program_id(0) % blocks, tl.program_id(0) // blocks % W, tl.program_id(0) // (blocks * W)
    o_row = (i_h.to(tl.int64) * W + i_w) * N
    o_b = tl.arange(0, 32)
    o_c = i_w * 32 + o_b
    o_end = (i_h * C + o_c) * blocks + i_r
    b_at = tl.load(end + o_end - 1, mask=(o_c < C) & (o_end > 0), other=0)
    for i in range(0, BR, BS):
        o_n = i_r * BR + i + tl.arange(0, BS)
        b_w = tl.load(sel + o_row + o_n, mask=o_n < N, other=0)
        b_before = tl.load(before + o_row + o_n, mask=o_n < N, other=0).to(tl.int32)
        b_on = (b_w[:, None] >> o_b[None, :]) & 1  # [BS, 32]
        b_slot = ones(b_w[:, None] & ((1 << o_b) - 1)[None, :]) + b_before[:, None]
        o_e = b_at[None, :] + tl.cumsum(b_on, 0) - 1
        tl.store(entry + o_e, o_n[:, None] * K + b_slot, mask=b_on > 0)
        b_at += tl.sum(b_on, 0)


@triton.jit(do_not_specialize=["lists", "most", "steps"])
def _cut(tile_end, end, tile, lists, most, steps, ROWS_: tl.constexpr, BT: tl.constexpr):
    """Find the list of every tile by bisection."""
    o_t = tl.program_id(0) * BT + tl.arange(0, BT)
    b_lo = tl.zeros([BT], tl.int32)
    b_hi = tl.zeros([BT], tl.int32) + lists
    for _ in range(0, steps):
        b_open = b_lo < b_hi
        b_mid = (b_lo + b_hi) // 2
        b_up = tl.load(tile_end + b_mid, mask=b_open, other=0) <= o_t
        b_lo = tl.where(b_open & b_up, b_mid + 1, b_lo)
        b_hi = tl.where(b_open & (b_up == 0), b_mid, b_hi)
    m_t = b_lo < lists
    b_first = tl.load(tile_end + b_lo - 1, mask=m_t & (b_lo > 0), other=0)
    b_start = tl.load(end + b_lo - 1, mask=m_t & (b_lo > 0), other=0)
    b_stop = tl.load(end + b_lo, mask=m_t, other=0)
    tl.store(tile + o_t, tl.where(m_t, b_lo, -1), mask=o_t < most)
    tl.store(tile + most + o_t, b_start + (o_t - b_first) * ROWS_, mask=o_t < most)
    tl.store(tile + 2 * most + o_t, b_stop, mask=o_t < most)


def row_lists(sel: Tensor, plan: Plan, slots: int, rows: int) -> RowLists:
    """sel [heads, W, N] -> for every (head, chunk) the rows that chose it. slots: K of the entries."""
    heads, words, n = sel.shape
    c, lists = plan.chunks, heads * plan.chunks
    blocks = -(-n // ROWS)
    before = torch.empty(sel.shape, dtype=torch.int16, device=sel.device)
    _before[(-(-n // 256), heads)](sel, before, n, words, BR=256, num_warps=4)
    count = torch.empty(lists, blocks, dtype=torch.int32, device=sel.device)
    grid = (blocks * words * heads,)
    _count[grid](sel, count, n, c, words, blocks, BR=ROWS, BS=STEP, num_warps=4)
    end = torch.cumsum(count.view(-1), 0, dtype=torch.int32)
    pairs = heads * n * plan.top_k
    entry = torch.empty(pairs, dtype=torch.int32, device=sel.device)
    _scatter[grid](sel, before, end, entry, n, c, words, blocks, K=slots, BR=ROWS, BS=STEP, num_warps=4)
    end = end.view(lists, blocks)[:, -1].contiguous()
    length = torch.diff(end, prepend=end.new_zeros(1))
    tile_end = torch.cumsum((length + rows - 1) // rows, 0, dtype=torch.int32)
    most = pairs // rows + lists  # no list leaves more than one tile partly filled
    tile = torch.empty(3, most, dtype=torch.int32, device=sel.device)
    _cut[(-(-most // 256),)](tile_end, end, tile, lists, most, lists.bit_length(), ROWS_=rows, BT=256, num_warps=4)
    return RowLists(entry, tile, most, rows)
