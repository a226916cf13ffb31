"""CSR from a selection mask, for up to some hundred chunks, without atomics.

A 32 x 32 bit block of the mask (rows x chunks) is transposed with five butterfly shuffles. Then one word holds the 32
rows that chose a chunk: its popcount is the chunk's counter, and the popcount below a row's bit the row's place. Rows
of a list are in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from ..device_table import DeviceTable
from ..lib.sortable import ones

SQUARE = 32
SQUARES = 8  # one above another that a program takes: their counters share a sector of memory


@triton.jit
def _swap(b_x, o, SIZE: tl.constexpr, MASK: tl.constexpr):
    """Exchange two quarters of every square of 2 * SIZE bits."""
    b_y = tl.gather(b_x, tl.broadcast_to(o[None, :] ^ SIZE, b_x.shape), 1)
    b_low = (b_x & MASK) | ((b_y & MASK) << SIZE)
    b_high = (b_x & ~MASK) | ((b_y >> SIZE) & MASK)
    return tl.where((o & SIZE)[None, :] == 0, b_low, b_high)


@triton.jit
def transposed(b_x):
    """[S, 32] -> [S, 32]: bit j of number i becomes bit i of number j."""
    o = tl.arange(0, 32)
    b_x = _swap(b_x, o, 16, 0x0000FFFF)
    b_x = _swap(b_x, o, 8, 0x00FF00FF)
    b_x = _swap(b_x, o, 4, 0x0F0F0F0F)
    b_x = _swap(b_x, o, 2, 0x33333333)
    return _swap(b_x, o, 1, 0x55555555)


@triton.jit
def moc_lists_bits_histogram(sel, count, N, C, S, W, BS: tl.constexpr):
    """How many of every 32 rows chose a chunk: count [heads, C, S]."""
    i_h = tl.program_id(1).to(tl.int64)
    o_s = (tl.program_id(0) * BS + tl.arange(0, BS))[:, None]
    o_b = tl.arange(0, 32)[None, :]
    o_n = o_s * 32 + o_b
    for i in range(0, W):
        b_x = tl.load(sel + (i_h * W + i) * N + o_n, mask=o_n < N, other=0)
        o_c = i * 32 + o_b
        tl.store(count + (i_h * C + o_c) * S + o_s, ones(transposed(b_x)), mask=(o_c < C) & (o_s < S))


@triton.jit(do_not_specialize=["first"])
def moc_lists_bits_scatter(sel, end, entry, number, N, C, S, W, first, K: tl.constexpr, BS: tl.constexpr):
    """first: how many heads come before these. Slots of a row in the order of its chunks."""
    i_h = tl.program_id(1).to(tl.int64)
    o_s = (tl.program_id(0) * BS + tl.arange(0, BS))[:, None]
    o_b = tl.arange(0, 32)[None, :]
    o_n = o_s * 32 + o_b
    o_head = (first + i_h) * C * S
    b_before = tl.load(end + o_head - 1, mask=o_head > 0, other=0)
    b_slot = tl.zeros([BS, 32], tl.int32)
    for i in range(0, W):
        b_x = tl.load(sel + (i_h * W + i) * N + o_n, mask=o_n < N, other=0)
        b_rows = transposed(b_x)
        o_c = i * 32 + o_b
        o_e = o_head + o_c * S + o_s
        b_at = tl.load(end + o_e - 1, mask=(o_c < C) & (o_s < S) & (o_e > 0), other=0) - b_before
        for _ in range(0, tl.max(tl.max(ones(b_x), 1), 0)):
            m = b_x != 0
            b_c = ones((b_x & -b_x) - 1) & 31
            b_place = tl.gather(b_at, b_c, 1) + ones(tl.gather(b_rows, b_c, 1) & ((1 << o_b) - 1))
            tl.store(entry + i_h * N * K + b_place, o_n * K + b_slot, mask=m)
            b_slot += m.to(tl.int32)
            b_x = b_x & (b_x - 1)
    tl.store(number + i_h * N + o_n, b_slot, mask=o_n < N)


@triton.jit(do_not_specialize=["W"])
def moc_lists_bits_to_indices(sel, indices, number, N, W, K: tl.constexpr, BR: tl.constexpr):
    """Bits [heads, W, N] -> chunks * 2**16 [heads, N, K] in rising order."""
    i_h = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BR + tl.arange(0, BR)
    m_n = o_n < N
    p_sel = sel + i_h * W * N + o_n
    p_out = indices + (i_h * N + o_n) * K
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


@dataclass(frozen=True)
class SelectionMask:
    """A choice of rows: bit c % 32 of word c // 32 says that a row chose chunk c, at most `places` of them."""

    sel: Tensor  # [heads, W, N]
    chunks: int
    places: int

    @staticmethod
    def of_plan(sel: Tensor, plan: DeviceTable) -> SelectionMask:
        return SelectionMask(sel, plan.chunks, plan.top_k)

    def of(self, heads: slice) -> SelectionMask:
        return SelectionMask(self.sel[heads], self.chunks, self.places)

    @property
    def size(self) -> tuple[int, int, int]:
        """Heads, rows, places of a row."""
        return self.sel.shape[0], self.sel.shape[2], self.places

    def bits(self, plan: DeviceTable) -> Tensor:
        return self.sel

    def counted(self) -> Tensor:
        """[heads, C, S] rows of every 32 that chose a chunk."""
        heads, words, n = self.sel.shape
        squares = -(-n // SQUARE)
        count = self.sel.new_empty(heads, self.chunks, squares)
        moc_lists_bits_histogram[(-(-squares // SQUARES), heads)](
            self.sel, count, n, self.chunks, squares, words, BS=SQUARES, num_warps=1
        )
        return count

    def placed(self, end: Tensor, heads: slice) -> tuple[Tensor, Tensor]:
        """(entries [heads, N * K], slots in use [heads, N]) of some heads. end: the sum of all `counted` so far."""
        sel = self.sel[heads]
        count, words, n = sel.shape
        squares = -(-n // SQUARE)
        entry, number = sel.new_empty(count, n * self.places), sel.new_empty(count, n)
        moc_lists_bits_scatter[(-(-squares // SQUARES), count)](
            sel, end, entry, number, n, self.chunks, squares, words, heads.start, K=self.places, BS=SQUARES, num_warps=1
        )
        return entry, number

    def unpack(self, indices: Tensor, number: Tensor) -> None:
        """The chunks of every row, slot by slot."""
        heads, words, n = self.sel.shape
        moc_lists_bits_to_indices[(-(-n // 64), heads)](
            self.sel, indices, number, n, words, K=self.places, BR=64, num_warps=1
        )
