"""CSR: the selection transposed, for every chunk the rows that chose it. Linear in the choices, without a host sync.

Among few chunks the selection is a mask (`csr_from_bits.py`). Among many it is indices, slot by slot: histogram, scan,
scatter. A chunk has many counters, since atomic additions to one address serialise: one for every frame of rows, which
is what a trace counts, or several where frames are few. Rows get their numbers by atomic additions, so the order within
a list differs from run to run. No output depends on it: what a row gets from a chunk does not depend on its neighbours
in the list, and it is stored by row and slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device_table import DeviceTable
from .csr_from_bits import SelectionMask

EACH = 4  # rows that a counter is for, were all chunks alike: more wait for each other
MOST_TURNS = 256  # counters of a chunk and frame, unless their ranks are too few
RANKS = 2**16  # that one counter can give


@dataclass(frozen=True)
class SelectionIndices:
    """The chunks of every row, slot by slot; slots from the row's number on hold anything."""

    indices: Tensor  # [heads, N, K] chunk * 2**16, and what its counter stood at, once `histogram`
    number: Tensor  # [heads, N] slots in use
    count: Tensor  # [heads, C, F + 1, turns]: rows by frame (last: not video), which take turns
    frame: Tensor  # [N] frame of a row

    def of(self, heads: slice) -> SelectionIndices:
        return SelectionIndices(self.indices[heads], self.number[heads], self.count[heads], self.frame)

    @property
    def size(self) -> torch.Size:
        """Heads, rows, places of a row."""
        return self.indices.shape

    def bits(self, plan: DeviceTable) -> Tensor:
        """[heads, W, N], for whoever records the selection; the kernels do not need them."""
        sel = self.indices.new_zeros(len(self.indices), plan.words, plan.length)
        _every_slot(moc_lists_set_bits, self, sel, plan.length, plan.words)
        return sel

    def counted(self) -> Tensor:
        """[heads, C, (F + 1) * turns] once `histogram`."""
        return self.count.flatten(2)

    def placed(self, end: Tensor, heads: slice) -> tuple[Tensor, Tensor]:
        """(entries [heads, N * K], slots in use [heads, N]) of some heads. end: the sum of all `counted` so far."""
        choice, (_, chunks, frames, turns) = self.of(heads), self.count.shape
        count, n, k = choice.indices.shape
        entry = choice.indices.new_empty(count, n * k)
        _every_slot(moc_lists_scatter, choice, end, entry, n, chunks, frames, heads.start, TURNS=turns)
        return entry, choice.number


def counters(plan: DeviceTable) -> tuple[int, int]:
    """(frames, counters that a chunk has for each of them) of a choice that is written slot by slot."""
    _, frames, most = plan.row_frames()
    rows = plan.length * plan.top_k // plan.chunks
    return frames, triton.next_power_of_2(max(min(-(-rows // (frames * EACH)), MOST_TURNS), -(-most // RANKS)))


def new_indices(heads: int, plan: DeviceTable) -> SelectionIndices:
    indices = torch.empty(heads, plan.length, plan.top_k, dtype=torch.int32, device=plan.device)
    number = indices.new_empty(heads, plan.length)
    return SelectionIndices(
        indices, number, indices.new_zeros(heads, plan.chunks, *counters(plan)), plan.row_frames()[0]
    )


@dataclass(frozen=True)
class ChunkCSR:
    """Rows per (head, chunk) of some heads, in tiles of at most `rows` rows. An entry is row * K + slot."""

    entry: Tensor  # [heads, N * K]
    tile: Tensor  # [3, T] of all heads: list (head * C + chunk), first and last entry among its head's
    border: Tensor  # [all heads + 1] where the tiles of a head begin
    head: int  # the first of these heads among all
    number: Tensor  # [heads, N] chunks that the row chose
    most: int  # tiles that there may be


@dataclass(frozen=True)
class Listed:
    """All heads of a choice: how long their lists are. Entries take up room, so they are placed for some at a time."""

    choice: SelectionIndices | SelectionMask
    end: Tensor  # [heads * C * counters] choices up to a counter
    tile: Tensor
    border: Tensor
    rows: int
    chunks: int

    def of(self, heads: slice) -> ChunkCSR:
        entry, number = self.choice.placed(self.end, heads)
        most = _most(entry.numel(), len(entry) * self.chunks, self.rows)
        return ChunkCSR(entry, self.tile, self.border, heads.start, number, most)


@triton.jit
def _choices(indices, number, N, K: tl.constexpr, B: tl.constexpr):
    """B slots of a head -> (head, slot, row, chunk, what its counter stood at, whether the slot is in use)."""
    i_h = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * B + tl.arange(0, B)
    o_n = o // K
    m = o % K < tl.load(number + i_h * N + o_n, mask=o_n < N, other=0)
    b_x = tl.load(indices + i_h * N * K + o, mask=m, other=0)
    return i_h, o, o_n, (b_x >> 16) & 0xFFFF, b_x & 0xFFFF, m


@triton.jit
def counter(frame, o_n, b_c, m, i_h, C, F, TURNS: tl.constexpr):
    """Where the counter of a row and a chunk stands."""
    return ((i_h * C + b_c) * F + tl.load(frame + o_n, mask=m, other=0)) * TURNS + o_n % TURNS


@triton.jit
def moc_lists_histogram(indices, number, frame, count, N, C, F, K: tl.constexpr, TURNS: tl.constexpr, B: tl.constexpr):
    """One more at the counter of every choice's chunk."""
    i_h, o, o_n, b_c, _, m = _choices(indices, number, N, K, B)
    b_r = tl.atomic_add(count + counter(frame, o_n, b_c, m, i_h, C, F, TURNS), 1, mask=m, sem="relaxed")
    tl.store(indices + i_h * N * K + o, (b_c << 16) | b_r, mask=m)


@triton.jit(do_not_specialize=["first"])
def moc_lists_scatter(
    indices, number, frame, end, entry, N, C, F, first, K: tl.constexpr, TURNS: tl.constexpr, B: tl.constexpr
):
    """first: how many heads come before these."""
    i_h, o, o_n, b_c, b_r, m = _choices(indices, number, N, K, B)
    o_head = (first + i_h) * C * F * TURNS
    b_before = tl.load(end + o_head - 1, mask=o_head > 0, other=0)
    o_count = counter(frame, o_n, b_c, m, first + i_h, C, F, TURNS)
    b_place = tl.load(end + o_count - 1, mask=m & (o_count > 0), other=0) - b_before + b_r
    tl.store(entry + i_h * N * K + b_place, o, mask=m)


@triton.jit
def moc_lists_set_bits(indices, number, frame, sel, N, W, K: tl.constexpr, B: tl.constexpr):
    """Chunks -> bits [heads, W, N] that were zero."""
    i_h, _, o_n, b_c, _, m = _choices(indices, number, N, K, B)
    tl.atomic_or(sel + (i_h * W + (b_c >> 5)) * N + o_n, 1 << (b_c & 31), mask=m, sem="relaxed")


@triton.jit(do_not_specialize=["lists", "most", "steps", "C"])
def moc_lists_tiles(tile_end, end, tile, lists, most, steps, C, ROWS: tl.constexpr, BT: tl.constexpr):
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
    o_head = b_lo // C * C
    b_before = tl.load(end + o_head - 1, mask=m_t & (o_head > 0), other=0)
    m_t = m_t & (o_t < most)
    tl.store(tile + o_t, b_lo, mask=m_t)
    tl.store(tile + most + o_t, b_start - b_before + (o_t - b_first) * ROWS, mask=m_t)
    tl.store(tile + 2 * most + o_t, b_stop - b_before, mask=m_t)


def _every_slot(kernel, choice: SelectionIndices, *args, **kwargs) -> None:
    heads, n, k = choice.indices.shape
    kernel[(-(-n * k // 1024), heads)](
        choice.indices, choice.number, choice.frame, *args, K=k, B=1024, num_warps=4, **kwargs
    )


def histogram(choice: SelectionIndices) -> SelectionIndices:
    """Count all choices, in place."""
    _, chunks, frames, turns = choice.count.shape
    _every_slot(moc_lists_histogram, choice, choice.count, choice.indices.shape[1], chunks, frames, TURNS=turns)
    return choice


def indices_of(bits: SelectionMask, plan: DeviceTable) -> SelectionIndices:
    """Slot by slot, not `histogram`."""
    out = new_indices(len(bits.sel), plan)
    bits.unpack(out.indices, out.number)
    return out


def _most(pairs: int, lists: int, rows: int) -> int:
    """Tiles that there may be: no list leaves more than one partly filled."""
    return pairs // rows + lists


def listed(choice: SelectionIndices | SelectionMask, plan: DeviceTable, rows: int) -> Listed:
    """For every (head, chunk) the rows that chose it, in tiles of at most `rows`. The choice is `histogram`."""
    count = choice.counted()
    heads, chunks, counters = count.shape
    _, n, k = choice.size
    lists = heads * chunks
    end = torch.cumsum(count.flatten(), 0, dtype=torch.int32)
    list_end = end[counters - 1 :: counters].contiguous()
    length = torch.diff(list_end, prepend=end.new_zeros(1))
    tile_end = torch.cumsum((length + rows - 1) // rows, 0, dtype=torch.int32)
    most = _most(heads * n * k, lists, rows)
    tile = end.new_empty(3, most)
    moc_lists_tiles[(-(-most // 256),)](
        tile_end, list_end, tile, lists, most, lists.bit_length(), chunks, ROWS=rows, BT=256, num_warps=4
    )
    border = end.new_zeros(heads + 1)
    border[1:] = tile_end[chunks - 1 :: chunks]
    return Listed(choice, end, tile, border, rows, chunks)
