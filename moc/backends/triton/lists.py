"""Turn the choice of every row into lists of rows per chunk, in time linear in the choices, without asking the host.

The chunks of every row, slot by slot, from `stream` or from `route`'s bits -> how many rows chose a chunk before this
one did -> places. A chunk has many counters, because additions to one address wait for each other: one for every frame
of rows, which is what a trace wants to know, or several where frames are few. Rows take their numbers by atomic
additions, so that the order inside a list differs from run to run. It shows nowhere: what a row gets from a chunk does
not depend on its neighbours in the list, and it is stored by row and slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import ones
from .plan import Plan

EACH = 16  # rows that a counter is for, were all chunks alike: more wait for each other
RANKS = 2**16  # that one counter can give


@dataclass(frozen=True)
class Choice:
    """The chunks of every row, slot by slot; slots from the row's number on hold anything."""

    pair: Tensor  # [heads, N, K] chunk * 2**16, and what its counter stood at, once `ranked`
    number: Tensor  # [heads, N] slots in use
    count: Tensor  # [heads, C, F + 1, turns]: rows by frame (last: not video), which take turns
    frame: Tensor  # [N] frame of a row

    def of(self, heads: slice) -> Choice:
        return Choice(self.pair[heads], self.number[heads], self.count[heads], self.frame)


def new_choice(heads: int, plan: Plan) -> Choice:
    pair = torch.empty(heads, plan.length, plan.top_k, dtype=torch.int32, device=plan.device)
    number = pair.new_empty(heads, plan.length)
    frame, frames, most = plan.row_frames()
    rows = plan.length * plan.top_k // plan.chunks
    turns = triton.next_power_of_2(max(-(-rows // (frames * EACH)), -(-most // RANKS)))
    return Choice(pair, number, pair.new_zeros(heads, plan.chunks, frames, turns), frame)


@dataclass(frozen=True)
class RowLists:
    """Rows per (head, chunk), in tiles of at most `rows` rows. An entry is row * K + slot."""

    entry: Tensor  # [pairs]
    tile: Tensor  # [3, most]: list (head * C + chunk, or -1 where there is none), first and last entry
    tiles: Tensor  # [1] how many there are
    number: Tensor  # [heads, N] chunks that the row chose
    most: int


@triton.jit(do_not_specialize=["W"])
def _unpack(sel, pair, number, N, W, K: tl.constexpr, BR: tl.constexpr):
    """Bits [heads, W, N] -> chunks [heads, N, K] in rising order."""
    i_h = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BR + tl.arange(0, BR)
    m_n = o_n < N
    p_sel = sel + i_h * W * N + o_n
    p_out = pair + (i_h * N + o_n) * K
    b_at = tl.zeros([BR], tl.int32)
    for i in range(0, W):
        b_w = tl.load(p_sel, mask=m_n, other=0)
        while tl.max((b_w != 0).to(tl.int32), 0) > 0:
            b_c = i * 32 + ones((b_w & -b_w) - 1)
            tl.store(p_out + b_at, b_c << 16, mask=b_w != 0)
            b_at += (b_w != 0).to(tl.int32)
            b_w = b_w & (b_w - 1)
        p_sel += N
    tl.store(number + i_h * N + o_n, b_at, mask=m_n)


@triton.jit
def _choices(pair, number, N, K: tl.constexpr, B: tl.constexpr):
    """B slots of a head -> (head, slot, row, chunk, what its counter stood at, whether the slot is in use)."""
    i_h = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * B + tl.arange(0, B)
    o_n = o // K
    m = o % K < tl.load(number + i_h * N + o_n, mask=o_n < N, other=0)
    b_x = tl.load(pair + i_h * N * K + o, mask=m, other=0)
    return i_h, o, o_n, (b_x >> 16) & 0xFFFF, b_x & 0xFFFF, m


@triton.jit
def _counter(frame, o_n, b_c, m, i_h, C, F, TURNS: tl.constexpr):
    """Where the counter of a row and a chunk stands."""
    return ((i_h * C + b_c) * F + tl.load(frame + o_n, mask=m, other=0)) * TURNS + o_n % TURNS


@triton.jit
def _rank(pair, number, frame, count, N, C, F, K: tl.constexpr, TURNS: tl.constexpr, B: tl.constexpr):
    """One more at the counter of every choice's chunk."""
    i_h, o, o_n, b_c, _, m = _choices(pair, number, N, K, B)
    b_r = tl.atomic_add(count + _counter(frame, o_n, b_c, m, i_h, C, F, TURNS), 1, mask=m, sem="relaxed")
    tl.store(pair + i_h * N * K + o, (b_c << 16) | b_r, mask=m)


@triton.jit
def _place(pair, number, frame, end, entry, N, C, F, K: tl.constexpr, TURNS: tl.constexpr, B: tl.constexpr):
    i_h, o, o_n, b_c, b_r, m = _choices(pair, number, N, K, B)
    o_count = _counter(frame, o_n, b_c, m, i_h, C, F, TURNS)
    tl.store(entry + tl.load(end + o_count - 1, mask=m & (o_count > 0), other=0) + b_r, o, mask=m)


@triton.jit
def _set(pair, number, frame, sel, N, W, K: tl.constexpr, B: tl.constexpr):
    """Chunks -> bits [heads, W, N] that were zero."""
    i_h, _, o_n, b_c, _, m = _choices(pair, number, N, K, B)
    tl.atomic_or(sel + (i_h * W + (b_c >> 5)) * N + o_n, 1 << (b_c & 31), mask=m, sem="relaxed")


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


def _every_slot(kernel, choice: Choice, *args, **kwargs) -> None:
    heads, n, k = choice.pair.shape
    kernel[(-(-n * k // 1024), heads)](
        choice.pair, choice.number, choice.frame, *args, K=k, B=1024, num_warps=4, **kwargs
    )


def ranked(choice: Choice) -> Choice:
    """Count all choices, in place."""
    _, chunks, frames, turns = choice.count.shape
    _every_slot(_rank, choice, choice.count, choice.pair.shape[1], chunks, frames, TURNS=turns)
    return choice


def choice_of(sel: Tensor, plan: Plan) -> Choice:
    """From bits [heads, W, N]."""
    heads, words, n = sel.shape
    out = new_choice(heads, plan)
    _unpack[(-(-n // 64), heads)](sel, out.pair, out.number, n, words, K=plan.top_k, BR=64, num_warps=1)
    return ranked(out)


def bits_of(choice: Choice, plan: Plan) -> Tensor:
    """Bits [heads, W, N]: who watches wants them, the engine does not."""
    sel = choice.pair.new_zeros(len(choice.pair), plan.words, plan.length)
    _every_slot(_set, choice, sel, plan.length, plan.words)
    return sel


def row_lists(choice: Choice, plan: Plan, rows: int) -> RowLists:
    """For every (head, chunk) the rows that chose it, in tiles of at most `rows`."""
    pairs, (heads, chunks, frames, turns) = choice.pair.numel(), choice.count.shape
    lists = heads * chunks
    end = torch.cumsum(choice.count.flatten(), 0, dtype=torch.int32)
    entry = torch.empty(pairs, dtype=torch.int32, device=end.device)
    _every_slot(_place, choice, end, entry, plan.length, chunks, frames, TURNS=turns)
    end = end[frames * turns - 1 :: frames * turns].contiguous()
    length = torch.diff(end, prepend=end.new_zeros(1))
    tile_end = torch.cumsum((length + rows - 1) // rows, 0, dtype=torch.int32)
    most = pairs // rows + lists  # no list leaves more than one tile partly filled
    tile = torch.empty(3, most, dtype=torch.int32, device=end.device)
    _cut[(-(-most // 256),)](tile_end, end, tile, lists, most, lists.bit_length(), ROWS=rows, BT=256, num_warps=4)
    return RowLists(entry, tile, tile_end[-1:], choice.number, most)
