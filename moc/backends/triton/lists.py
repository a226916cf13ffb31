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

ROWS = 128  # rows of a block


@dataclass(frozen=True)
class RowLists:
    """Rows per (head, chunk), in tiles of at most `rows` rows. An entry is row * K + slot, slot = place in the row."""

    entry: Tensor  # [pairs]
    end: Tensor  # [heads * C] where each list ends
    tile_end: Tensor  # [heads * C] running number of tiles
    tile: Tensor  # [most] tile -> list; heads * C where there is none
    most: int
    rows: int


@triton.jit(do_not_specialize=["blocks", "W"])
def _count(sel, count, N, C, W, blocks, BR: tl.constexpr):
    i_r, i_h = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    o_n = i_r * BR + tl.arange(0, BR)
    o_b = tl.arange(0, 32)
    p_sel = sel + i_h * W * N + o_n
    for i in range(0, W):
        b_w = tl.load(p_sel, mask=o_n < N, other=0)
        b_n = tl.sum((b_w[:, None] >> o_b[None, :]) & 1, 0)  # [32]
        o_c = i * 32 + o_b
        tl.store(count + (i_h * C + o_c) * blocks + i_r, b_n, mask=o_c < C)
        p_sel += N


@triton.jit(do_not_specialize=["blocks", "W"])
def _scatter(sel, end, entry, N, C, W, blocks, K: tl.constexpr, BR: tl.constexpr):
    i_r, i_h = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    o_n = i_r * BR + tl.arange(0, BR)
    o_b = tl.arange(0, 32)
    p_sel = sel + i_h * W * N + o_n
    b_before = tl.zeros([BR], tl.int32)  # chosen chunks in lower words
    for i in range(0, W):
        b_w = tl.load(p_sel, mask=o_n < N, other=0)
        b_on = (b_w[:, None] >> o_b[None, :]) & 1  # [BR, 32]
        o_c = i * 32 + o_b
        b_end = tl.load(end + (i_h * C + o_c) * blocks + i_r, mask=o_c < C, other=0)
        b_slot = ones(b_w[:, None] & ((1 << o_b) - 1)[None, :]) + b_before[:, None]
        o_e = (b_end - tl.sum(b_on, 0))[None, :] + tl.cumsum(b_on, 0) - 1
        tl.store(entry + o_e, o_n[:, None] * K + b_slot, mask=b_on > 0)
        b_before += ones(b_w)
        p_sel += N


def row_lists(sel: Tensor, plan: Plan, slots: int, rows: int) -> RowLists:
    """sel [heads, W, N] -> for every (head, chunk) the rows that chose it. slots: K of the entries."""
    heads, words, n = sel.shape
    c = plan.chunks
    blocks = -(-n // ROWS)
    count = torch.empty(heads * c, blocks, dtype=torch.int32, device=sel.device)
    grid = (blocks * heads,)
    _count[grid](sel, count, n, c, words, blocks, BR=ROWS, num_warps=4)
    end = torch.cumsum(count.view(-1), 0, dtype=torch.int32).view(heads * c, blocks)
    pairs = heads * n * plan.top_k
    entry = torch.empty(pairs, dtype=torch.int32, device=sel.device)
    _scatter[grid](sel, end, entry, n, c, words, blocks, K=slots, BR=ROWS, num_warps=4)
    end = end[:, -1].contiguous()
    length = torch.diff(end, prepend=end.new_zeros(1))
    tile_end = torch.cumsum((length + rows - 1) // rows, 0, dtype=torch.int32)
    most = pairs // rows + heads * c  # no chunk leaves more than one tile partly filled
    tile = torch.searchsorted(
        tile_end, torch.arange(most, dtype=torch.int32, device=sel.device), right=True, out_int32=True
    )
    return RowLists(entry, end, tile_end, tile, most, rows)
