"""How much of a query's softmax falls on every chunk: exact, and never more than a block of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..chunks.table import ChunkTable
from ..routing.descriptors import wide
from ..routing.scores import per_chunk

BLOCK_ELEMENTS = 2**25  # probabilities held at a time


@torch.no_grad()
def chunk_mass(
    q: Tensor,
    k: Tensor,
    table: ChunkTable,
    *,
    rows: Tensor | None = None,
    attended: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention mass of every chunk [B, H, R, C]: a row's softmax over all keys, added up over the keys of each chunk.

    q, k      [B, H, N, D] in sorted order; q may already hold only the rows asked for when `rows` is None: [B, H, R, D]
    rows      [R] sorted positions of the query rows; None: every row of q
    attended  bool, broadcastable to [B, H, R, C]: the softmax runs over the keys of these chunks alone
    scale     of q.k; D**-0.5 by default
    A row's masses add up to 1; a row that attends nothing has mass 0 everywhere. float32, float64 for float64 inputs.
    """
    if rows is not None:
        q = q.index_select(-2, rows)
    b, h, count, d = q.shape
    scale = d**-0.5 if scale is None else scale
    chunk_of = table.tensors(q.device).chunk_of
    if attended is not None:
        attended = attended.expand(b, h, count, len(table.chunks))
    step = max(1, min(count, BLOCK_ELEMENTS // k.shape[-2]))
    mass = torch.empty(b, h, count, len(table.chunks), dtype=wide(q[..., :1, :1]).dtype, device=q.device)
    with without_autocast(q.device):
        for sample in range(b):
            for head in range(h):
                keys = wide(k[sample, head])
                for low in range(0, count, step):
                    some = slice(low, low + step)
                    logits = keys @ wide(q[sample, head, some]).mT * scale  # [N, R]: chunks are runs of its rows
                    if attended is not None:
                        logits = logits.masked_fill(~attended[sample, head, some].mT[chunk_of], -torch.inf)
                    shares = per_chunk(logits.softmax(0), table, lambda block: block.sum(-2))
                    mass[sample, head, some] = shares.mT.nan_to_num(0.0)
    return mass
