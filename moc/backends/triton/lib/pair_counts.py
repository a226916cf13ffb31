"""How many (query, key) pairs of every frame were chosen, for a trace, without a mask of rows x chunks."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..device_table import DeviceTable

ROWS = 128  # times three at once


@triton.jit
def _word(p_sel, rows, o_n, stop, IN_A_ROW: tl.constexpr):
    m_n = o_n < stop
    if not IN_A_ROW:
        o_n = tl.load(rows + o_n, mask=m_n, other=0)
    return tl.load(p_sel + o_n, mask=m_n, other=0)


@triton.jit
def _total(b_n, b_even, b_odd, o_b, i: tl.constexpr):
    """Put the sums of bits i, i + 8, i + 16 and i + 24 into their places of even and odd [32], two in a number."""
    b_here = (o_b & 7) == i
    b_even = tl.where(b_here, tl.sum(b_n & 0x00FF00FF, 0), b_even)
    b_odd = tl.where(b_here, tl.sum((b_n >> 8) & 0x00FF00FF, 0), b_odd)
    return b_even, b_odd


@triton.jit(do_not_specialize=["bh_first", "parts"])
def moc_count_frames(
    sel, part, rows, chunk, column, pairs, N, C, W, H, F, K, bh_first, parts,
    BR: tl.constexpr, IN_A_ROW: tl.constexpr, JOINED: tl.constexpr,
):  # fmt: skip
    """A program adds up one word over the rows of one part. The 32 sums of a word share registers for as long as they
    are small: pairs of bits hold three rows, bytes what one place of ROWS meets, halves of a number the whole part."""
    i_p, i_w, i_local = tl.program_id(0) % parts, tl.program_id(0) // parts % W, tl.program_id(0) // (parts * W)
    first, stop, frame = tl.load(part + i_p), tl.load(part + parts + i_p), tl.load(part + 2 * parts + i_p)
    p_sel = sel + (i_local.to(tl.int64) * W + i_w) * N
    b_0 = tl.zeros([BR], tl.int32)
    b_1, b_2, b_3, b_4, b_5, b_6, b_7 = b_0, b_0, b_0, b_0, b_0, b_0, b_0
    for low in range(first, stop, 3 * BR):
        o_n = low + tl.arange(0, BR)
        b_x = _word(p_sel, rows, o_n, stop, IN_A_ROW)
        b_y = _word(p_sel, rows, o_n + BR, stop, IN_A_ROW)
        b_z = _word(p_sel, rows, o_n + 2 * BR, stop, IN_A_ROW)
        b_even = (b_x & 0x55555555) + (b_y & 0x55555555) + (b_z & 0x55555555)
        b_odd = ((b_x >> 1) & 0x55555555) + ((b_y >> 1) & 0x55555555) + ((b_z >> 1) & 0x55555555)
        b_0 += b_even & 0x03030303
        b_1 += b_odd & 0x03030303
        b_2 += (b_even >> 2) & 0x03030303
        b_3 += (b_odd >> 2) & 0x03030303
        b_4 += (b_even >> 4) & 0x03030303
        b_5 += (b_odd >> 4) & 0x03030303
        b_6 += (b_even >> 6) & 0x03030303
        b_7 += (b_odd >> 6) & 0x03030303
    o_b = tl.arange(0, 32)
    b_even = tl.zeros([32], tl.int32)
    b_odd = b_even
    b_even, b_odd = _total(b_0, b_even, b_odd, o_b, 0)
    b_even, b_odd = _total(b_1, b_even, b_odd, o_b, 1)
    b_even, b_odd = _total(b_2, b_even, b_odd, o_b, 2)
    b_even, b_odd = _total(b_3, b_even, b_odd, o_b, 3)
    b_even, b_odd = _total(b_4, b_even, b_odd, o_b, 4)
    b_even, b_odd = _total(b_5, b_even, b_odd, o_b, 5)
    b_even, b_odd = _total(b_6, b_even, b_odd, o_b, 6)
    b_even, b_odd = _total(b_7, b_even, b_odd, o_b, 7)
    b_n = (tl.where((o_b & 8) == 0, b_even, b_odd) >> (o_b & 16)) & 0xFFFF
    o_c = i_w * 32 + o_b
    m_c = o_c < C
    b_pairs = b_n.to(tl.float32) * tl.load(chunk + C + o_c, mask=m_c, other=0).to(tl.float32)
    p_pairs = pairs + (((bh_first + i_local) % H).to(tl.int64) * F + frame) * K
    if JOINED:  # neighbouring chunks share a column
        b_k = tl.load(column + o_c, mask=m_c, other=K)
        i_k = tl.min(b_k, 0)
        while i_k < K:
            tl.atomic_add(p_pairs + i_k, tl.sum(tl.where(b_k == i_k, b_pairs, 0.0), 0), sem="relaxed")
            i_k = tl.min(tl.where(b_k > i_k, b_k, K), 0)
    else:
        tl.atomic_add(p_pairs + o_c, b_pairs, mask=m_c & (b_n > 0), sem="relaxed")


def count_frames(sel: Tensor, plan: DeviceTable, heads: range, pairs: Tensor, column: Tensor | None) -> None:
    """Add what sel [heads, W, N] says to pairs [H, F, K] float32, over the batch. column [C]: of every chunk, rising;
    None: K is C. Whole numbers: up to 2**24 their sums are exact in whatever order they are added."""
    frames = plan.frame_parts()
    moc_count_frames[(frames.count * plan.words * len(heads),)](
        sel, frames.part, frames.rows, plan.chunk, sel if column is None else column, pairs,
        plan.length, plan.chunks, plan.words, *pairs.shape, heads.start, frames.count,
        BR=ROWS, IN_A_ROW=frames.in_a_row, JOINED=column is not None, num_warps=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["bh_first"])
def moc_count_choices(
    count, chunk, column, pairs, C, H, F, K, bh_first,
    TURNS: tl.constexpr, BC: tl.constexpr, BF: tl.constexpr, JOINED: tl.constexpr,
):  # fmt: skip
    """count [heads, C, F + 1, TURNS]: a program adds up some chunks and frames."""
    o_c = tl.program_id(0) * BC + tl.arange(0, BC)
    o_f = tl.program_id(1) * BF + tl.arange(0, BF)
    i_local = tl.program_id(2).to(tl.int64)
    m_c = o_c < C
    m = m_c[:, None] & (o_f < F)[None, :]
    p_count = count + ((i_local * C + o_c[:, None]) * (F + 1) + o_f[None, :]) * TURNS
    b_n = tl.sum(tl.load(p_count[:, :, None] + tl.arange(0, TURNS)[None, None, :], mask=m[:, :, None], other=0), 2)
    b_pairs = b_n.to(tl.float32) * tl.load(chunk + C + o_c, mask=m_c, other=0).to(tl.float32)[:, None]
    o_k = o_c
    if JOINED:
        o_k = tl.load(column + o_c, mask=m_c, other=0)
    p_pairs = pairs + (((bh_first + i_local) % H) * F + o_f[None, :]) * K + o_k[:, None]
    tl.atomic_add(p_pairs, b_pairs, mask=m & (b_n > 0), sem="relaxed")


def count_choices(count: Tensor, plan: DeviceTable, heads: range, pairs: Tensor, column: Tensor | None) -> None:
    """As `count_frames`, from the counters of a choice, which are by frame."""
    turns = count.shape[3]
    few = max(1, 4096 // turns)  # chunks times frames of a program
    chunks = min(32, few)
    frames = min(few // chunks, triton.next_power_of_2(pairs.shape[1]))
    moc_count_choices[(-(-plan.chunks // chunks), -(-pairs.shape[1] // frames), len(heads))](
        count, plan.chunk, count if column is None else column, pairs, plan.chunks, *pairs.shape, heads.start,
        TURNS=turns, BC=chunks, BF=frames, JOINED=column is not None, num_warps=4,
    )  # fmt: skip
