"""Tile-major lists: for every tile of query rows the pieces of the chunks that any of its rows chose.

With every piece come two words, one bit a row, so that each row still sees exactly what it chose itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .plan import Pieces, Plan, Tiles


@dataclass(frozen=True)
class UnionLists:
    piece: Tensor  # [heads, T, width]
    low: Tensor  # [heads, T, width] rows 0 to 31 of the tile
    high: Tensor  # [heads, T, width] rows 32 to 63
    count: Tensor  # [heads, T]
    width: int
    pieces: Pieces


@triton.jit(do_not_specialize=["tiles", "width", "pieces"])
def _union(
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
def _union_words(
    sel, row, first, stop, piece_of, piece_start, piece_len, piece, low, high, count,
    N, C, W, tiles, width,
    BM: tl.constexpr, OWN: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """As `_union` where a chunk is one piece at most: word by word, and most words hold nothing."""
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


@triton.jit(do_not_specialize=["width", "steps"])
def _steps(low, high, count, step, width, steps, NP: tl.constexpr, B: tl.constexpr):
    """NP pieces to a step: how many tokens of each the first query tile may see, 8 bits a piece, and the second one."""
    i_l = tl.program_id(0).to(tl.int64)
    n = tl.load(count + i_l)
    for i in range(0, tl.cdiv(n, NP), B):
        o_s = i + tl.arange(0, B)
        b_first = tl.zeros([B], tl.int64)
        b_second = tl.zeros([B], tl.int64)
        for e in tl.static_range(NP):
            o_p = o_s * NP + e
            b_who = tl.load(low + i_l * width + o_p, mask=o_p < n, other=0)
            b_len = tl.load(high + i_l * width + o_p, mask=o_p < n, other=0).to(tl.int64) << (8 * e)
            b_first += tl.where((b_who & 1) > 0, b_len, 0)
            b_second += tl.where((b_who & 2) > 0, b_len, 0)
        p_step = step + (i_l * steps + o_s) * 2
        tl.store(p_step, b_first, mask=o_s * NP < n)
        tl.store(p_step + 1, b_second, mask=o_s * NP < n)


def steps_of(lists: UnionLists, pieces_in_a_step: int) -> Tensor:
    """Of lists made with `pairs`: [heads, T, steps, 2] int64, see `_steps`."""
    steps = -(-lists.width // pieces_in_a_step)
    step = torch.empty(*lists.count.shape, steps, 2, dtype=torch.int64, device=lists.count.device)
    _steps[(lists.count.numel(),)](
        lists.low, lists.high, lists.count, step, lists.width, steps, NP=pieces_in_a_step, B=64, num_warps=1
    )
    return step


def width_of(plan: Plan, pieces: Pieces, rows: int, all_: bool) -> int:
    """Pieces that a list may have to hold: no host knows how alike rows choose, so the most there can be."""
    per_chunk = -(-plan.longest // pieces.size)
    return max(1, pieces.count if all_ else min(pieces.count, rows * plan.top_k * per_chunk))


def union_lists(
    sel: Tensor, plan: Plan, tiles: Tiles, pieces: Pieces, rows: int, width: int, own: bool, pairs: bool = False
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
        _union_words[(tiles.count * heads,)](
            sel, plan.row, tiles.first, tiles.stop, pieces.of_chunk, pieces.start, pieces.length, piece, low, high,
            count, n, plan.chunks, words, tiles.count, width,
            BM=2 if pairs else rows, OWN=own, PAIRS=pairs, num_warps=1,
        )  # fmt: skip
        return UnionLists(piece, low, high, count, width, pieces)
    _union[(tiles.count * heads,)](
        sel, plan.row, tiles.first, tiles.stop, pieces.chunk, pieces.start, pieces.length, piece, low, high, count,
        n, words, pieces.count, tiles.count, width, BM=2 if pairs else rows, BP=64, OWN=own, PAIRS=pairs, num_warps=4,
    )  # fmt: skip
    return UnionLists(piece, low, high, count, width, pieces)
