"""Routed part, chunk by chunk: every large chunk meets exactly the rows that chose it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...chunks.table import ChunkTable
from .softmax import ROWS, merge, part_gradients, softmax_part


def forward(q, k, v, table: ChunkTable, block, scale: float, out: Tensor, lse: Tensor) -> None:
    """Merge the block's routed chunks into out [B, H, N, D] and lse [B, H, N]."""
    for b, h, rows, keys in _lists(table, block):
        query, key, value = (x[None, None] for x in (q[b, h, rows], k[b, h, keys], v[b, h, keys]))
        part, part_lse = softmax_part(query, key, value, scale)
        out[b, h, rows], lse[b, h, rows] = merge(out[b, h, rows], lse[b, h, rows], part[0, 0], part_lse[0, 0])


def backward(q, k, v, table: ChunkTable, block, scale: float, lse, delta, grad, dq, dk, dv) -> None:
    """Add the gradients of the block's routed chunks to dq, dk, dv."""
    for b, h, rows, keys in _lists(table, block):
        for some in rows.split(ROWS):
            mine = q[b, h, some], lse[b, h, some], delta[b, h, some], grad[b, h, some]
            gq, gk, gv = part_gradients(*mine, k[b, h, keys], v[b, h, keys], scale)
            dq[b, h].index_add_(0, some, gq)
            dk[b, h, keys] += gk
            dv[b, h, keys] += gv


def _lists(table: ChunkTable, block) -> Iterator[tuple[int, int, Tensor, slice]]:
    """(batch, head, rows that chose the chunk, the chunk's tokens), empty ones left out."""
    chosen = block.chosen.transpose(-1, -2)  # [B, H, C, R]
    counts = chosen.sum(-1).flatten().tolist()
    rows = chosen.nonzero()[:, -1] + block.rows.start
    heads, chunks = chosen.shape[1], len(table.chunks)
    for index, mine in enumerate(rows.split(counts)):
        if len(mine):
            bh, c = divmod(index, chunks)
            yield bh // heads, bh % heads, mine, slice(table.chunks[c].start, table.chunks[c].stop)
