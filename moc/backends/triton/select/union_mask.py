"""`lists="union"`: a row takes what any row of its query block chose or owns, where it may choose that at all."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ....chunks.table import TILE_ROWS
from ..device_table import DeviceTable
from ..lib.sortable import bounds, closed, open_to, own_of_rows


@triton.jit
def _or(a, b):
    return a | b


@triton.jit(do_not_specialize=["bh_first", "tiles", "S"])
def moc_select_union_mask(
    sel, chunk, row, shot_mask, passes, first, stop,
    N, C, S, W, bh_first, tiles,
    BM: tl.constexpr, CAUSAL: tl.constexpr, SHOT_MASK: tl.constexpr,
):  # fmt: skip
    i_t, i_local = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    o_n = tl.load(first + i_t) + tl.arange(0, BM)
    m_n = o_n < tl.load(stop + i_t)
    b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)
    own_from, own_to, shot = bounds(b_first, b_last, b_shot, m_n)
    o_b = tl.arange(0, 32)
    p_sel = sel + i_local.to(tl.int64) * W * N + o_n
    p_shot_mask = shot_mask + (bh_first + i_local).to(tl.int64) * S * S
    for i in range(0, W):
        b_any = tl.reduce(tl.load(p_sel, mask=m_n, other=0), 0, _or)
        b_w = tl.zeros([BM], tl.int32) + b_any
        if SHOT_MASK or closed(tl.load(passes + i), i * 32, i * 32 + 32, own_from, own_to, shot, CAUSAL):
            o_c = i * 32 + o_b
            b_own = (o_c[None, :] >= b_first[:, None]) & (o_c[None, :] < b_last[:, None]) & m_n[:, None]
            b_asked = ((b_any >> o_b) & 1) | tl.max(b_own.to(tl.int32), 0)  # [32]
            b_open = open_to(o_c, b_first, b_last, b_shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK)
            b_w = tl.sum(tl.where(b_open, b_asked[None, :], 0) << o_b[None, :], 1)
        tl.store(p_sel, b_w, mask=m_n)
        p_sel += N


def union_masks(sel: Tensor, shot_mask: Tensor | None, plan: DeviceTable, heads: range, *, causal: bool) -> None:
    """Change sel [heads, W, N] in place, as `routing.share` does."""
    tiles = plan.tiles(TILE_ROWS, "shared")
    moc_select_union_mask[(tiles.count * len(heads),)](
        sel, plan.chunk, plan.row, sel if shot_mask is None else shot_mask,
        plan.max_shot_per_block(32), tiles.first, tiles.stop,
        plan.length, plan.chunks, 0 if shot_mask is None else shot_mask.shape[-1], plan.words, heads.start, tiles.count,
        BM=TILE_ROWS, CAUSAL=causal, SHOT_MASK=shot_mask is not None, num_warps=2,
    )  # fmt: skip
