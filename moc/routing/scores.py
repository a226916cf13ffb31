"""Descriptors of chunks, and how a query scores them.

Tensors are in sorted token order (`ChunkTable`). B batch, H heads, N tokens, R rows of a block, C chunks, D head
dim. Scores and descriptors are float32, or float64 for float64 inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..chunks.table import ChunkTable
from .descriptors import DESCRIPTORS, wide


@dataclass(frozen=True)
class Descriptors:
    """Summaries of every chunk's keys [B, H, C, D]. low: what negative channels of a query meet, if it is another."""

    high: Tensor
    low: Tensor | None = None


def chunk_means(x: Tensor, table: ChunkTable) -> Tensor:
    """Mean of x [B, H, N, D] over every chunk -> [B, H, C, D] (eq. 3: phi = mean pooling)."""
    return per_chunk(x, table, lambda block: wide(block).mean(-2))


def describe(k: Tensor, table: ChunkTable, descriptor: str) -> Descriptors:
    """Chunk descriptors of the keys [B, H, N, D], by the name of one of `DESCRIPTORS`."""
    kind = DESCRIPTORS[descriptor]
    if not kind.signed:
        return Descriptors(per_chunk(k, table, lambda keys: kind.ends(keys)[0]))
    both = per_chunk(k, table, lambda keys: torch.cat(kind.ends(keys), -1))
    return Descriptors(*wide(both.to(k.dtype)).chunk(2, -1))


def scores(q: Tensor, chunks: Descriptors) -> Tensor:
    """q [B, H, R, D] -> [B, H, R, C]: q . mean(K_c) in the paper (eq. 2)."""
    q = wide(q)
    if chunks.low is None:
        return q @ chunks.high.mT
    return q.clamp(min=0) @ chunks.high.mT + q.clamp(max=0) @ chunks.low.mT


def per_chunk(x: Tensor, table: ChunkTable, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce x [B, H, N, D] over the tokens of every chunk; chunks of one length go together."""
    t = table.tensors(x.device)
    if len(t.buckets) == 1:
        return reduce(x.unflatten(-2, (t.lengths.numel(), -1)))
    parts = [reduce(x.index_select(-2, b.flatten()).unflatten(-2, b.shape)) for b in t.buckets]
    return torch.cat(parts, -2).index_select(-2, t.bucket_place)
