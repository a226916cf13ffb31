"""Hot chunks, those that many neighbouring rows chose: a query block attends to them once, instead of every row by
itself.

The gather kernels write and read a partial per row and slot. Where ENOUGH of 64 rows chose a chunk it costs less to let
all of them attend to it and mask those that did not choose it (`hot_chunks_sm90.py`). Hot chunks are found among the
choices of a few rows of the block; one is missed now and then, which costs time and changes no result. All other
choices stay in the CSR.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device_table import DeviceTable
from ..lib.launch import processors
from ..lib.sortable import ones
from .csr import SelectionIndices, counter

ROWS = tl.constexpr(64)
MOST = 64  # chunks of a tile of 64 rows
ENOUGH = 16  # rows that chose a chunk
LOOKED_AT = 128  # choices of a tile among which popular chunks are looked for
AT_ONCE = 12  # programs of a multiprocessor that look for them


@dataclass(frozen=True)
class HotChunks:
    """Lists of tiles of 128 rows, which are two of 64.

    entry [heads, T, 2 * MOST, 8]: first token, tokens, chunk, -, and one bit for each of the 128 rows that chose it
    count [heads, T]
    """

    entry: Tensor
    count: Tensor

    def of(self, heads: slice) -> HotChunks:
        return HotChunks(self.entry[heads], self.count[heads])


@triton.jit
def _seen(b_x, b_low, b_high, o_r):
    """Which of some rows have bit x [X, 1] of their 64 -> bits [X]. o_r: the rows' places among 32."""
    b_word = tl.where(b_x < 32, b_low[None, :], b_high[None, :])
    return tl.sum(((b_word >> (b_x & 31)) & 1) << o_r[None, :], 1)


@triton.jit
def _rows(p_indices, p_number, p_place, first, o_k, N, K: tl.constexpr):
    """Which of the chunks that have a place, one to MOST, 32 rows from `first` on chose -> 64 bits of every row."""
    o_n = first + tl.arange(0, 32)
    b_n = tl.load(p_number + o_n, mask=o_n < N, other=0)
    m = o_k[None, :] < b_n[:, None]
    b_c = (tl.load(p_indices + o_n[:, None] * K + o_k[None, :], mask=m, other=0) >> 16) & 0xFFFF
    b_at = tl.load(p_place + b_c, mask=m, other=0).to(tl.int32) - 1
    b_bit = tl.where(b_at >= 0, 1 << (b_at & 31), 0)
    return tl.sum(tl.where(b_at < 32, b_bit, 0), 1), tl.sum(tl.where(b_at < 32, 0, b_bit), 1)


@triton.jit(do_not_specialize=["enough", "tiles", "work"])
def moc_lists_hot_find(
    indices, number, found, count, taken, place, N, C, W, enough, tiles, work,
    K: tl.constexpr, KP: tl.constexpr, S: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Popular chunks of 64 rows. found [heads, T, 3, MOST]: chunk, rows as bits; taken [heads, T, W]: chunks' bits.

    place [programs, C], zeros: a program's table of the chunks that it looks for.
    """
    i_tile = tl.program_id(0).to(tl.int64)
    p_place = place + i_tile * C
    while i_tile < work:
        i_t, i_h = (i_tile % tiles).to(tl.int32), i_tile // tiles
        p_indices, p_number, first = indices + i_h * N * K, number + i_h * N, i_t * ROWS
        o_x = tl.arange(0, S * KP)
        i_s, i_k = o_x // KP, o_x % KP
        # rows of all corners, should the tile be a square of tokens
        o_s = first + (i_s * ROWS // S + ROWS // S // 2 + 2 + 3 * (i_s & 1)) % ROWS
        m_x = i_k < tl.load(p_number + o_s, mask=o_s < N, other=0)
        b_x = tl.where(m_x, (tl.load(p_indices + o_s * K + i_k, mask=m_x, other=0) >> 16) & 0xFFFF, -1)
        b_again = ((b_x[:, None] == b_x[None, :]) & (o_x[:, None] < o_x[None, :])).to(tl.int32)
        b_new = (b_x >= 0) & (tl.sum(b_again, 0) == 0)
        o_out = tl.cumsum(b_new.to(tl.int32), 0) - 1
        b_new = b_new & (o_out < MOST)
        p_found = found + i_tile * 3 * MOST
        tl.store(p_found + o_out, b_x, mask=b_new)
        tl.store(p_place + b_x, (o_out + 1).to(tl.int8), mask=b_new)
        tl.debug_barrier()
        o_x = tl.arange(0, MOST)
        m_x = o_x < tl.sum(b_new.to(tl.int32), 0)
        b_x = tl.load(p_found + o_x, mask=m_x, other=0)
        o_k = tl.arange(0, KP)
        a_low, a_high = _rows(p_indices, p_number, p_place, first, o_k, N, K)
        b_low, b_high = _rows(p_indices, p_number, p_place, first + 32, o_k, N, K)
        tl.debug_barrier()
        tl.store(p_place + b_x, tl.zeros([MOST], tl.int8), mask=m_x)

        o_r = tl.arange(0, 32)
        b_low, b_high = _seen(o_x[:, None], a_low, a_high, o_r), _seen(o_x[:, None], b_low, b_high, o_r)
        b_keep = (ones(b_low) + ones(b_high) >= enough) & m_x
        p_found += tl.cumsum(b_keep.to(tl.int32), 0) - 1
        tl.store(p_found, b_x, mask=b_keep)
        tl.store(p_found + MOST, b_low, mask=b_keep)
        tl.store(p_found + 2 * MOST, b_high, mask=b_keep)
        tl.store(count + i_tile, tl.sum(b_keep.to(tl.int32), 0))
        tl.atomic_or(taken + i_tile * W + (b_x >> 5), 1 << (b_x & 31), mask=b_keep, sem="relaxed")
        tl.debug_barrier()
        i_tile += tl.num_programs(0)


@triton.jit
def _put(p_entry, chunk, C, b_c, b_0, b_1, b_2, b_3, m):
    tl.store(p_entry, tl.load(chunk + b_c, mask=m, other=0), mask=m)
    tl.store(p_entry + 1, tl.load(chunk + C + b_c, mask=m, other=0), mask=m)
    tl.store(p_entry + 2, b_c, mask=m)
    tl.store(p_entry + 4, b_0, mask=m)
    tl.store(p_entry + 5, b_1, mask=m)
    tl.store(p_entry + 6, b_2, mask=m)
    tl.store(p_entry + 7, b_3, mask=m)


@triton.jit
def _before(b_x, b_y, m_y):
    """How many of y are less than x [X]."""
    return tl.sum(((b_y[None, :] < b_x[:, None]) & m_y[None, :]).to(tl.int32), 1)


@triton.jit
def _joined(p_found, n_a, n_b, chunk, p_entry, C, MOST: tl.constexpr, X: tl.constexpr):
    """`moc_lists_hot_join` for two tiles with at most X chunks each -> how many they are together."""
    o = tl.arange(0, X)
    m_a, m_b = o < n_a, o < n_b
    p_a = p_found + o
    p_b = p_a + 3 * MOST
    b_a, b_b = tl.load(p_a, mask=m_a, other=-1), tl.load(p_b, mask=m_b, other=-2)
    a_low, a_high = tl.load(p_a + MOST, mask=m_a, other=0), tl.load(p_a + 2 * MOST, mask=m_a, other=0)
    b_low, b_high = tl.load(p_b + MOST, mask=m_b, other=0), tl.load(p_b + 2 * MOST, mask=m_b, other=0)
    b_same = b_a[:, None] == b_b[None, :]
    m_new = m_b & (tl.sum(b_same.to(tl.int32), 0) == 0)  # of the second tile only
    o_a = _before(b_a, b_a, m_a) + _before(b_a, b_b, m_new)
    c_low, c_high = tl.sum(tl.where(b_same, b_low[None, :], 0), 1), tl.sum(tl.where(b_same, b_high[None, :], 0), 1)
    _put(p_entry + o_a * 8, chunk, C, b_a, a_low, a_high, c_low, c_high, m_a)
    o_b = _before(b_b, b_a, m_a) + _before(b_b, b_b, m_new)
    _put(p_entry + o_b * 8, chunk, C, b_b, 0, 0, b_low, b_high, m_new)
    return n_a + tl.sum(m_new.to(tl.int32), 0)


@triton.jit
def moc_lists_hot_join(found, found_count, chunk, entry, count, C, MOST: tl.constexpr):
    """Two tiles' chunks, none twice, in rising order: neighbouring programs then read the same at a time."""
    i_tile = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    n_a, n_b = tl.load(found_count + 2 * i_tile), tl.load(found_count + 2 * i_tile + 1)
    p_found, p_entry = found + i_tile * 6 * MOST, entry + i_tile * 16 * MOST
    if tl.maximum(n_a, n_b) <= MOST // 2:
        n = _joined(p_found, n_a, n_b, chunk, p_entry, C, MOST, MOST // 2)
    else:
        n = _joined(p_found, n_a, n_b, chunk, p_entry, C, MOST, MOST)
    tl.store(count + i_tile, n)


@triton.jit
def moc_lists_hot_rest(
    indices, number, taken, frame, count, N, W, C, F, tiles,
    K: tl.constexpr, KP: tl.constexpr, TURNS: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Take popular chunks out of the choices of every row, in place, and count what stays (`lists._rank`)."""
    i_h = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BR + tl.arange(0, BR)
    o_k = tl.arange(0, KP)[None, :]
    b_number = tl.load(number + i_h * N + o_n, mask=o_n < N, other=0)
    m = o_k < b_number[:, None]
    p_indices = indices + (i_h * N + o_n)[:, None] * K
    b_p = tl.load(p_indices + o_k, mask=m, other=0)
    b_c = (b_p >> 16) & 0xFFFF
    b_w = tl.load(taken + ((i_h * tiles + o_n // ROWS) * W)[:, None] + (b_c >> 5), mask=m, other=0)
    b_stay = m & (((b_w >> (b_c & 31)) & 1) == 0)
    b_n = b_stay.to(tl.int32)
    o_count = counter(frame, o_n[:, None] + o_k * 0, b_c, b_stay, i_h, C, F, TURNS)
    b_r = tl.atomic_add(count + o_count, 1, mask=b_stay, sem="relaxed")
    tl.store(p_indices + tl.cumsum(b_n, 1) - 1, (b_c << 16) | b_r, mask=b_stay)
    tl.store(number + i_h * N + o_n, tl.sum(b_n, 1), mask=o_n < N)


@triton.jit(do_not_specialize=["bh_first"])
def moc_lists_hot_count(
    entry, listed, frame, chunk, column, pairs, N, C, H, F, K, bh_first, MOST: tl.constexpr, JOINED: tl.constexpr
):  # fmt: skip
    """As `count._count_choices`: rows by frame that chose a popular chunk, 64 of them."""
    i_half, i_h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_tile = i_h * (tl.num_programs(0) // 2) + i_half // 2
    o_m = tl.arange(0, ROWS)
    o_n = i_half * ROWS + o_m
    b_f = tl.load(frame + o_n, mask=o_n < N, other=F)  # F: not video
    o = tl.arange(0, 2 * MOST)
    m = o < tl.load(listed + i_tile)
    p_entry = entry + (i_tile * 2 * MOST + o) * 8
    b_c = tl.load(p_entry + 2, mask=m, other=0)
    b_length = tl.load(chunk + C + b_c, mask=m, other=0).to(tl.float32)
    p_rows = p_entry + 4 + i_half % 2 * 2
    b_low, b_high = tl.load(p_rows, mask=m, other=0), tl.load(p_rows + 1, mask=m, other=0)
    o_k = b_c
    if JOINED:
        o_k = tl.load(column + b_c, mask=m, other=0)
    p_pairs = pairs + ((bh_first + i_h) % H) * F * K + o_k
    i_f = tl.min(b_f, 0)
    while i_f < F:
        b_here = (b_f == i_f).to(tl.int32) << (o_m & 31)
        here_low, here_high = tl.sum(tl.where(o_m < 32, b_here, 0), 0), tl.sum(tl.where(o_m < 32, 0, b_here), 0)
        n = ones(b_low & here_low) + ones(b_high & here_high)
        tl.atomic_add(p_pairs + i_f * K, n.to(tl.float32) * b_length, mask=m & (n > 0), sem="relaxed")
        i_f = tl.min(tl.where(b_f > i_f, b_f, F), 0)


def hot_chunks_of(choice: SelectionIndices, plan: DeviceTable) -> HotChunks:
    """Popular chunks, which leave the choice. What stays is `histogram`."""
    heads, n, k = choice.indices.shape
    tiles, places = -(-n // 128), max(8, triton.next_power_of_2(k))
    like = choice.number
    found = like.new_empty(heads, 2 * tiles, 3, MOST)
    found_count = like.new_empty(heads, 2 * tiles)
    taken = like.new_zeros(heads, 2 * tiles, plan.words)
    work = 2 * tiles * heads
    programs = min(work, AT_ONCE * processors(like))
    place = torch.zeros(programs, plan.chunks, dtype=torch.int8, device=like.device)
    moc_lists_hot_find[(programs,)](
        choice.indices, choice.number, found, found_count, taken, place, n, plan.chunks, plan.words, ENOUGH,
        2 * tiles, work, K=k, KP=places, S=max(1, LOOKED_AT // places), MOST=MOST, num_warps=4,
    )  # fmt: skip
    out = HotChunks(like.new_empty(heads, tiles, 2 * MOST, 8), like.new_empty(heads, tiles))
    moc_lists_hot_join[(tiles, heads)](
        found, found_count, plan.chunk, out.entry, out.count, plan.chunks, MOST=MOST, num_warps=4
    )
    rows = 1024 // places
    _, chunks, frames, turns = choice.count.shape
    moc_lists_hot_rest[(-(-n // rows), heads)](
        choice.indices, choice.number, taken, choice.frame, choice.count, n, plan.words, chunks, frames, 2 * tiles,
        K=k, KP=places, TURNS=turns, BR=rows, num_warps=4,
    )  # fmt: skip
    return out


def count_hot_chunks(
    popular: HotChunks, choice: SelectionIndices, plan: DeviceTable, heads: range, pairs: Tensor, column: Tensor | None
) -> None:
    """As `count.count_choices`, from what left the choice."""
    moc_lists_hot_count[(2 * popular.count.shape[1], len(heads))](
        popular.entry, popular.count, choice.frame, plan.chunk, popular.count if column is None else column, pairs,
        plan.length, plan.chunks, *pairs.shape, heads.start, MOST=MOST, JOINED=column is not None, num_warps=4,
    )  # fmt: skip
