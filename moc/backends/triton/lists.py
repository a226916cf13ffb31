"""Turn the choice of every row into lists of rows per chunk, in time linear in the choices, without asking the host.

bits -> the chunks of every row, in rising order -> how many rows chose a chunk before this one did -> places.
Every chunk has SPREAD counters that its rows use in turn, because additions to one address wait for each other.
Rows take their numbers by atomic additions, so that the order inside a list differs from run to run. It shows nowhere:
what a row gets from a chunk does not depend on its neighbours in the list, and it is stored by row and place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import ones
from .plan import Plan

SPREAD = 16


@dataclass(frozen=True)
class RowLists:
    """Rows per (head, chunk), in tiles of at most `rows` rows. An entry is row * K + slot, slot = place in the row."""

    entry: Tensor  # [pairs]
    tile: Tensor  # [3, most]: list (head * C + chunk, or -1 where there is none), first and last entry
    tiles: Tensor  # [1] how many there are
    number: Tensor  # [heads, N] chunks that the row chose
    most: int
    rows: int


@triton.jit(do_not_specialize=["W"])
def _unpack(sel, choice, number, N, W, K: tl.constexpr, BR: tl.constexpr):
    """Bits [heads, W, N] -> chunks [heads, N, K] in rising order; places beyond the row's number stay as they are."""
    i_h = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BR + tl.arange(0, BR)
    m_n = o_n < N
    p_sel = sel + i_h * W * N + o_n
    p_out = choice + (i_h * N + o_n) * K
    b_at = tl.zeros([BR], tl.int32)
    for i in range(0, W):
        b_w = tl.load(p_sel, mask=m_n, other=0)
        while tl.max((b_w != 0).to(tl.int32), 0) > 0:
            b_c = i * 32 + ones((b_w & -b_w) - 1)
            tl.store(p_out + b_at, b_c, mask=b_w != 0)
            b_at += (b_w != 0).to(tl.int32)
            b_w = b_w & (b_w - 1)
        p_sel += N
    tl.store(number + i_h * N + o_n, b_at, mask=m_n)


@triton.jit
def _rank(choice, count, rank, size, C, N, K: tl.constexpr, SPREAD: tl.constexpr, B: tl.constexpr):
    """One more at the counter of every entry's chunk; what it stood at is the entry's number there."""
    o = tl.program_id(0) * B + tl.arange(0, B)
    b_c = tl.load(choice + o, mask=o < size, other=-1)
    o_count = (o // (N * K) * C + b_c) * SPREAD + o // K % SPREAD
    b_r = tl.atomic_add(count + o_count, 1, mask=b_c >= 0, sem="relaxed")
    tl.store(rank + o, b_r, mask=b_c >= 0)


@triton.jit
def _place(choice, rank, end, entry, size, C, N, K: tl.constexpr, SPREAD: tl.constexpr, B: tl.constexpr):
    o = tl.program_id(0) * B + tl.arange(0, B)
    b_c = tl.load(choice + o, mask=o < size, other=-1)
    m = b_c >= 0
    o_count = (o // (N * K) * C + b_c) * SPREAD + o // K % SPREAD
    b_at = tl.load(end + o_count - 1, mask=m & (o_count > 0), other=0) + tl.load(rank + o, mask=m, other=0)
    tl.store(entry + b_at, o % (N * K), mask=m)


@triton.jit(do_not_specialize=["lists", "most", "steps"])
def _cut(tile_end, end, tile, lists, most, steps, ROWS: tl.constexpr, BT: tl.constexpr):
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
    tl.store(tile + most + o_t, b_start + (o_t - b_first) * ROWS, mask=o_t < most)
    tl.store(tile + 2 * most + o_t, b_stop, mask=o_t < most)


def row_lists(sel: Tensor, plan: Plan, slots: int, rows: int) -> RowLists:
    """sel [heads, W, N] -> for every (head, chunk) the rows that chose it. slots: K of the entries."""
    heads, words, n = sel.shape
    lists, pairs = heads * plan.chunks, heads * n * slots
    number = torch.empty(heads, n, dtype=torch.int32, device=sel.device)
    choice = torch.full((pairs,), -1, dtype=torch.int32, device=sel.device)
    _unpack[(-(-n // 64), heads)](sel, choice, number, n, words, K=slots, BR=64, num_warps=2)
    count = torch.zeros(lists * SPREAD, dtype=torch.int32, device=sel.device)
    rank, entry = torch.empty_like(choice), torch.empty_like(choice)
    grid = (-(-pairs // 1024),)
    how = dict(K=slots, SPREAD=SPREAD, B=1024, num_warps=4)
    _rank[grid](choice, count, rank, pairs, plan.chunks, n, **how)
    end = torch.cumsum(count, 0, dtype=torch.int32)
    _place[grid](choice, rank, end, entry, pairs, plan.chunks, n, **how)
    end = end[SPREAD - 1 :: SPREAD].contiguous()
    length = torch.diff(end, prepend=end.new_zeros(1))
    tile_end = torch.cumsum((length + rows - 1) // rows, 0, dtype=torch.int32)
    most = pairs // rows + lists  # no list leaves more than one tile partly filled
    tile = torch.empty(3, most, dtype=torch.int32, device=sel.device)
    _cut[(-(-most // 256),)](tile_end, end, tile, lists, most, lists.bit_length(), ROWS=rows, BT=256, num_warps=4)
    return RowLists(entry, tile, tile_end[-1:], number, most, rows)
