"""Routed part, tile by tile: a tile of query rows meets the union of the small chunks that its rows chose.

Rows of a tile choose alike, so the union is a few times one row's choice; a mask keeps every row to its own chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...chunks.table import ChunkTable
from .softmax import merge, never, part_gradients, softmax_part

TILE = 32  # query rows
GATHERED = 2**22  # elements of gathered keys held at a time


@dataclass(frozen=True)
class Tiles:
    """Some tiles of one block. rows [T, TILE] and tokens [T, J] index the flattened [B*H*N]; bias [T, TILE, J]."""

    which: Tensor
    rows: Tensor
    tokens: Tensor
    bias: Tensor


def takes_own(block) -> bool:
    """Groups smaller than a tile would be a call each: their own chunks then count as chosen by their rows."""
    return len(block.groups) > 1 and all(g.stop - g.start < TILE for g in block.groups)


def forward(q, k, v, table: ChunkTable, block, scale: float, out: Tensor, lse: Tensor) -> None:
    """Merge the block's routed chunks into out [B, H, N, D] and lse [B, H, N]."""
    b, h, n, d = q.shape
    flat_q, flat_k, flat_v = (x.reshape(-1, d) for x in (q, k, v))
    rows, count = block.rows, block.rows.stop - block.rows.start
    tiles = -(-count // TILE)
    part = out.new_zeros(b * h * tiles, TILE, d)
    part_lse = lse.new_full((b * h * tiles, TILE), -torch.inf)
    for some in _tiles(q, table, block):
        keys, values = flat_k[some.tokens][:, None], flat_v[some.tokens][:, None]
        one = softmax_part(flat_q[some.rows][:, None], keys, values, scale, some.bias[:, None])
        part[some.which], part_lse[some.which] = one[0][:, 0], one[1][:, 0]
    part = part.view(b, h, -1, d)[:, :, :count]
    part_lse = part_lse.view(b, h, -1)[:, :, :count]
    out[:, :, rows], lse[:, :, rows] = merge(out[:, :, rows], lse[:, :, rows], part, part_lse)


def backward(q, k, v, table: ChunkTable, block, scale: float, lse, delta, grad, dq, dk, dv) -> None:
    """Add the gradients of the block's routed chunks to dq, dk, dv."""
    d = q.shape[-1]
    flat_q, flat_k, flat_v, flat_grad = (x.reshape(-1, d) for x in (q, k, v, grad))
    flat_lse, flat_delta = lse.reshape(-1), delta.reshape(-1)
    for some in _tiles(q, table, block):
        mine = flat_q[some.rows], flat_lse[some.rows], flat_delta[some.rows], flat_grad[some.rows]
        gq, gk, gv = part_gradients(*mine, flat_k[some.tokens], flat_v[some.tokens], scale, some.bias.to(lse.dtype))
        dq.view(-1, d).index_add_(0, some.rows.flatten(), gq.flatten(0, 1))
        dk.view(-1, d).index_add_(0, some.tokens.flatten(), gk.flatten(0, 1))
        dv.view(-1, d).index_add_(0, some.tokens.flatten(), gv.flatten(0, 1))


def kept(table: ChunkTable, block) -> Tensor:
    """What the block's rows attend to here [B, H, R, C]."""
    if not takes_own(block):
        return block.chosen
    own = torch.zeros(block.rows.stop - block.rows.start, len(table.chunks), dtype=torch.bool)
    for g in block.groups:
        own[max(g.start - block.rows.start, 0) : g.stop - block.rows.start, g.own[0] : g.own[1]] = True
    own &= ~torch.tensor([c.linked for c in table.chunks])
    return block.chosen | own.to(block.chosen.device)


def _tiles(q: Tensor, table: ChunkTable, block) -> Iterator[Tiles]:
    """The block's tiles that attend to anything, alike in length of list, as many at a time as memory allows."""
    b, h, n, d = q.shape
    t = table.tensors(q.device)
    longest = max((c.length for c in table.chunks if not c.linked), default=1)
    keep = kept(table, block)
    count = keep.shape[-2]
    tiles = -(-count // TILE)
    keep = pad(keep, (0, 0, 0, tiles * TILE - count)).reshape(b * h * tiles, TILE, -1)
    tile, chunk = keep.any(1).nonzero(as_tuple=True)
    lengths = torch.bincount(tile, minlength=len(keep))
    start = lengths.cumsum(0) - lengths
    by_length = lengths.argsort()
    sizes = lengths[by_length].tolist()
    row = (torch.arange(tiles * TILE, device=q.device).clamp(max=count - 1) + block.rows.start).view(tiles, TILE)
    inside = torch.arange(longest, device=q.device)
    high = len(sizes)
    while high and sizes[high - 1]:  # the longest lists first
        width = sizes[high - 1]
        low = max(0, high - max(1, GATHERED // (width * longest * d)))
        which = by_length[low:high]
        place = torch.arange(width, device=q.device)
        listed = place < lengths[which, None]
        chunks = chunk[torch.where(listed, start[which, None] + place, 0)]  # [T, U]
        seen = keep[which].gather(-1, chunks[:, None].expand(-1, TILE, -1)) & listed[:, None]
        bias = torch.where(seen, 0.0, never(q.dtype)).to(q.dtype)[..., None]
        whole = inside < t.lengths[chunks][..., None]  # [T, U, L]
        if longest > 1 and len(t.buckets) > 1:
            bias = torch.where(whole[:, None], bias, never(q.dtype))
        bias = bias.expand(-1, -1, -1, longest).flatten(2)
        head = which // tiles * n
        tokens = torch.where(whole, t.starts[chunks][..., None] + inside, 0).flatten(1) + head[:, None]
        yield Tiles(which, row[which % tiles] + head[:, None], tokens, bias)
        high = low
