"""Query-major lists: for every query block the pieces of the chunks that any of its rows chose.

With every piece come two mask words, one bit a row, so that each row sees exactly what it chose itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device_table import DeviceTable, Pieces
from ..tiles import Tiles

RUN = 4  # steps that one query tile alone takes before the other takes its own


@dataclass(frozen=True)
class UnionLists:
    piece: Tensor  # [heads, T, width]
    low: Tensor  # [heads, T, width] rows 0 to 31 of the tile
    high: Tensor  # [heads, T, width] rows 32 to 63
    count: Tensor  # [heads, T]
    width: int
    pieces: Pieces


@triton.jit(do_not_specialize=["tiles", "width", "pieces"])
def moc_lists_union(
    sel, row, first, stop, piece_chunk, piece_start, piece_len, piece, low, high, count,
    N, W, pieces, tiles, width,
    BM: tl.constexpr, BP: tl.constexpr, OWN: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    i_t, i_h = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    o_m = tl.arange(0, BM)
    if PAIRS:
        o_n = tl.load(first + i_t) + o_m * 64
    else:
        o_n = tl.load(first + i_t) + o_m
    m_n = o_n < tl.load(stop + i_t)
    if OWN:
        b_first = tl.load(row + o_n, mask=m_n, other=0)[:, None]
        b_last = tl.load(row + N + o_n, mask=m_n, other=0)[:, None]
    b_bit = (1 << (o_m & 31))[:, None]
    n_found = 0
    p_out = (i_h * tiles + i_t) * width
    for i in range(0, pieces, BP):
        o_p = i + tl.arange(0, BP)
        m_p = o_p < pieces
        b_c = tl.load(piece_chunk + o_p, mask=m_p, other=0)[None, :]
        b_w = tl.load(sel + (i_h * W + (b_c >> 5)) * N + o_n[:, None], mask=m_n[:, None] & m_p[None, :], other=0)
        b_on = (b_w >> (b_c & 31)) & 1  # [BM, BP]
        if OWN:
            b_mine = (b_c >= b_first) & (b_c < b_last) & m_n[:, None] & m_p[None, :]
            b_on = tl.where(b_mine, 1, b_on)
        b_low = tl.sum(tl.where(o_m[:, None] < 32, b_on, 0) * b_bit, 0)
        b_high = tl.sum(tl.where(o_m[:, None] < 32, 0, b_on) * b_bit, 0)
        b_any = ((b_low != 0) | (b_high != 0)).to(tl.int32)
        o_out = p_out + n_found + tl.cumsum(b_any, 0) - 1
        tl.store(low + o_out, b_low, mask=b_any > 0)
        if PAIRS:
            tl.store(piece + o_out, tl.load(piece_start + o_p, mask=m_p, other=0), mask=b_any > 0)
            tl.store(high + o_out, tl.load(piece_len + o_p, mask=m_p, other=0), mask=b_any > 0)
        else:
            tl.store(piece + o_out, o_p, mask=b_any > 0)
            tl.store(high + o_out, b_high, mask=b_any > 0)
        n_found += tl.sum(b_any, 0)
    tl.store(count + tl.program_id(0), n_found)


@triton.jit(do_not_specialize=["tiles", "width"])
def moc_lists_union_words(
    sel, row, first, stop, piece_of, piece_start, piece_len, piece, low, high, count,
    N, C, W, tiles, width,
    BM: tl.constexpr, OWN: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """As `moc_lists_union` where a chunk is one piece at most: word by word, and most words hold nothing."""
    i_t, i_h = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    o_m, o_b = tl.arange(0, BM), tl.arange(0, 32)
    if PAIRS:
        o_n = tl.load(first + i_t) + o_m * 64
    else:
        o_n = tl.load(first + i_t) + o_m
    m_n = o_n < tl.load(stop + i_t)
    own_from, own_to = 0, 0
    if OWN:
        b_first = tl.load(row + o_n, mask=m_n, other=C)
        b_last = tl.load(row + N + o_n, mask=m_n, other=0)
        own_from, own_to = tl.min(b_first, 0), tl.max(b_last, 0)
    p_sel = sel + i_h * W * N + o_n
    p_out = (i_h * tiles + i_t) * width
    n_found = 0
    for w in range(0, W):
        b_w = tl.load(p_sel, mask=m_n, other=0)
        own = (w * 32 < own_to) & (w * 32 + 32 > own_from)
        if (tl.max((b_w != 0).to(tl.int32), 0) > 0) | own:
            o_c = w * 32 + o_b
            b_on = (b_w[:, None] >> o_b[None, :]) & 1  # [BM, 32]
            if OWN:
                b_on = tl.where((o_c[None, :] >= b_first[:, None]) & (o_c[None, :] < b_last[:, None]), 1, b_on)
            b_bit = b_on << (o_m & 31)[:, None]
            b_low = tl.sum(tl.where(o_m[:, None] < 32, b_bit, 0), 0)
            b_high = tl.sum(tl.where(o_m[:, None] < 32, 0, b_bit), 0)
            b_p = tl.load(piece_of + o_c, mask=o_c < C, other=-1)
            m_p = ((b_low | b_high) != 0) & (b_p >= 0)
            o_out = p_out + n_found + tl.cumsum(m_p.to(tl.int32), 0) - 1
            tl.store(low + o_out, b_low, mask=m_p)
            if PAIRS:
                b_high = tl.load(piece_len + b_p, mask=m_p, other=0)
                b_p = tl.load(piece_start + b_p, mask=m_p, other=0)
            tl.store(piece + o_out, b_p, mask=m_p)
            tl.store(high + o_out, b_high, mask=m_p)
            n_found += tl.sum(m_p.to(tl.int32), 0)
        p_sel += N
    tl.store(count + tl.program_id(0), n_found)


@triton.jit
def _counts(b_who):
    """Pieces that both query tiles listed, that only the first did, and only the second."""
    b_both, b_first = (b_who == 3).to(tl.int32), (b_who == 1).to(tl.int32)
    return b_both, b_first, (b_who == 2).to(tl.int32)


@triton.jit(do_not_specialize=["width", "steps"])
def moc_lists_union_steps(
    piece, low, high, count, start, seen, number, width, steps,
    NP: tl.constexpr, B: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Pieces put together in steps of NP: those of both query tiles, then RUN steps of the first one's alone and RUN of
    the second one's in turn. start: first token of every piece; seen: as bytes, how many of its tokens either sees."""
    i_l = tl.program_id(0).to(tl.int64)
    n = tl.load(count + i_l)
    o = tl.arange(0, B)
    n_both, n_first, n_second = 0, 0, 0
    for i in range(0, n, B):
        b_both, b_first, b_second = _counts(tl.load(low + i_l * width + i + o, mask=i + o < n, other=0))
        n_both, n_first, n_second = n_both + tl.sum(b_both), n_first + tl.sum(b_first), n_second + tl.sum(b_second)
    s_both, s_first, s_second = tl.cdiv(n_both, NP), tl.cdiv(n_first, NP), tl.cdiv(n_second, NP)
    n_steps = s_both + s_first + s_second
    p_start, p_seen = start + i_l * steps * NP, seen + i_l * steps * 16
    for i in range(0, n_steps * 16, B):  # places that no piece fills: nobody sees them
        tl.store(p_start + i + o, o * 0, mask=i + o < n_steps * NP)
        tl.store(p_seen + i + o, (o * 0).to(tl.int8), mask=i + o < n_steps * 16)
    tl.debug_barrier()
    n_both, n_first, n_second = 0, 0, 0
    for i in range(0, n, B):
        o_p = i_l * width + i + o
        b_both, b_first, b_second = _counts(tl.load(low + o_p, mask=i + o < n, other=0))
        b_b, b_f = n_both + tl.cumsum(b_both) - 1, n_first + tl.cumsum(b_first) - 1
        b_s = n_second + tl.cumsum(b_second) - 1
        b_f += (s_both + tl.minimum(b_f // (NP * RUN) * RUN, s_second)) * NP
        b_s += (s_both + tl.minimum((b_s // (NP * RUN) + 1) * RUN, s_first)) * NP
        b_at = tl.where(b_both > 0, b_b, tl.where(b_first > 0, b_f, b_s))
        tl.store(p_start + b_at, tl.load(piece + o_p, mask=i + o < n, other=0), mask=i + o < n)
        b_len = tl.load(high + o_p, mask=i + o < n, other=0).to(tl.int8)
        p_byte = p_seen + b_at // NP * 16 + b_at % NP
        tl.store(p_byte, b_len, mask=(b_both | b_first) > 0)
        tl.store(p_byte + 8, b_len, mask=(b_both | b_second) > 0)
        n_both, n_first, n_second = n_both + tl.sum(b_both), n_first + tl.sum(b_first), n_second + tl.sum(b_second)
    tl.store(number + i_l, n_steps)


@dataclass(frozen=True)
class Steps:
    """What two query tiles meet, `lists` made with `pairs` in steps of some pieces.

    start   [heads, T, steps * pieces] first tokens
    seen    [heads, T, steps, 2] int64: how many tokens of each piece the first query tile sees, 8 bits a piece, and the
            second one. Zero: it skips the step
    number  [heads, T] steps in use
    """

    start: Tensor
    seen: Tensor
    number: Tensor
    most: int


def steps_of(lists: UnionLists, pieces: int) -> Steps:
    most = -(-lists.width // pieces) + 2
    shape, device = lists.count.shape, lists.count.device
    start = torch.empty(*shape, most * pieces, dtype=torch.int32, device=device)
    seen = torch.empty(*shape, most, 2, dtype=torch.int64, device=device)
    number = torch.empty_like(lists.count)
    moc_lists_union_steps[(lists.count.numel(),)](
        lists.piece, lists.low, lists.high, lists.count, start, seen.view(torch.int8), number, lists.width, most,
        NP=pieces, B=64, RUN=RUN, num_warps=1,
    )  # fmt: skip
    return Steps(start, seen, number, most)


def width_of(plan: DeviceTable, pieces: Pieces, rows: int, all_: bool) -> int:
    """Pieces that a list may have to hold: no host knows how alike rows choose, so the most there can be."""
    per_chunk = -(-plan.longest // pieces.size)
    return max(1, pieces.count if all_ else min(pieces.count, rows * plan.top_k * per_chunk))


def union_lists(
    sel: Tensor, plan: DeviceTable, tiles: Tiles, pieces: Pieces, rows: int, width: int, own: bool, pairs: bool = False
) -> UnionLists:
    """sel [heads, W, N] -> lists of at most `width` pieces per tile, made of its first `rows` rows; with `own`, a row's
    own chunks count as chosen.

    pairs: a tile is two query tiles of which each has one list. Of a piece come its first token, its length in the
    place of `high`, and in `low` bit 0 where the first query tile listed it and bit 1 where the second did.
    """
    heads, words, n = sel.shape
    shape = heads, tiles.count, width
    piece, low, high = (torch.empty(shape, dtype=torch.int32, device=sel.device) for _ in range(3))
    count = torch.empty(shape[:2], dtype=torch.int32, device=sel.device)
    if pieces.of_chunk is not None:
        moc_lists_union_words[(tiles.count * heads,)](
            sel, plan.row, tiles.first, tiles.stop, pieces.of_chunk, pieces.start, pieces.length, piece, low, high,
            count, n, plan.chunks, words, tiles.count, width,
            BM=2 if pairs else rows, OWN=own, PAIRS=pairs, num_warps=1,
        )  # fmt: skip
        return UnionLists(piece, low, high, count, width, pieces)
    moc_lists_union[(tiles.count * heads,)](
        sel, plan.row, tiles.first, tiles.stop, pieces.chunk, pieces.start, pieces.length, piece, low, high, count,
        n, words, pieces.count, tiles.count, width, BM=2 if pairs else rows, BP=64, OWN=own, PAIRS=pairs, num_warps=4,
    )  # fmt: skip
    return UnionLists(piece, low, high, count, width, pieces)
