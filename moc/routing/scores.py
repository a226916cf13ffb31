"""Descriptors of chunks, and how a query scores them.

Tensors are in sorted token order (`ChunkTable`). B batch, H heads, N tokens, R rows of a block, C chunks, D head
dim. Scores and descriptors are float32, or float64 for float64 inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..chunks.table import ChunkTable
from .descriptors import DESCRIPTORS, Several, wide

BLOCK_ELEMENTS = 2**24  # logits held at a time


@dataclass(frozen=True)
class Descriptors:
    """Summaries of every chunk's keys [B, H, C, D]. low: what negative channels of a query meet, if it is another.
    With `several` high is [B, H, C, P, D]."""

    high: Tensor
    low: Tensor | None = None
    several: Several | None = None

    def of(self, heads: slice) -> Descriptors:
        return replace(self, high=self.high[:, heads], low=None if self.low is None else self.low[:, heads])


def chunk_means(x: Tensor, table: ChunkTable) -> Tensor:
    """Mean of x [B, H, N, D] over every chunk -> [B, H, C, D] (eq. 3: phi = mean pooling)."""
    return per_chunk(x, table, lambda block: wide(block).mean(-2))


def describe(k: Tensor, table: ChunkTable, descriptor: str) -> Descriptors:
    """Chunk descriptors of the keys [B, H, N, D], by the name of one of `DESCRIPTORS`."""
    kind = DESCRIPTORS[descriptor]
    if kind.several is not None:
        return Descriptors(per_chunk(k, table, kind.several.keys, -3), several=kind.several)
    if not kind.signed:
        return Descriptors(per_chunk(k, table, lambda keys: kind.ends(keys)[0]))
    both = per_chunk(k, table, lambda keys: torch.cat(kind.ends(keys), -1))
    high, low = wide(both.to(k.dtype)).chunk(2, -1)
    return Descriptors(high, low)


def scores(q: Tensor, chunks: Descriptors, scale: float = 1.0) -> Tensor:
    """q [B, H, R, D] -> [B, H, R, C]: q . mean(K_c) in the paper (eq. 2). With `several` q may be [B, H, R, A, D], and
    scale, of q . k in the softmax, counts."""
    q = wide(q)
    if chunks.several is not None:
        return chunks.several.meet(q if q.dim() == 5 else q[..., None, :], chunks.high, scale)
    if chunks.low is None:
        return q @ chunks.high.mT
    return q.clamp(min=0) @ chunks.high.mT + q.clamp(max=0) @ chunks.low.mT


def per_chunk(x: Tensor, table: ChunkTable, reduce: Callable[[Tensor], Tensor], axis: int = -2) -> Tensor:
    """Reduce x [B, H, N, D] over the tokens of every chunk; chunks of one length go together. axis: where chunks stand
    in what `reduce` makes."""
    t = table.tensors(x.device)
    if len(t.buckets) == 1:
        return reduce(x.unflatten(-2, (t.lengths.numel(), -1)))
    return in_buckets(x, t.buckets, t.bucket_place, reduce, axis)


def in_buckets(
    x: Tensor, buckets: Sequence[Tensor], place: Tensor, reduce: Callable[[Tensor], Tensor], axis: int = -2
) -> Tensor:
    """As `per_chunk`, of any sets of tokens. buckets: of one length each, tokens [sets, L]; place: of a set there."""
    parts = [reduce(x.index_select(-2, b.flatten()).unflatten(-2, b.shape)) for b in buckets]
    return torch.cat(parts, axis).index_select(axis, place)


def summary_errors(asked: Tensor, k: Tensor, v: Tensor, table: ChunkTable, scale: float) -> Tensor:
    """What a chunk's pooled summary gets wrong for a query: log sum_j |exp(q . k_j) v_j - exp(q . mean k) mean v|^2.

    asked [B, H, R, D]; k, v [B, H, N, D] -> [B, H, R, C]. SVG-EAR (arXiv 2603.08982), as its code estimates it. Every
    key is looked at, so it is for rows that choose together.
    """
    values = wide(v)
    middle = chunk_means(v, table)[:, :, table.tensors(v.device).chunk_of]
    beside = torch.stack((values.square().sum(-1), (values * middle).sum(-1)), -1)  # |v|^2, v . mean v
    tiny = torch.finfo(values.dtype).tiny

    def reduce(block: Tensor) -> Tensor:  # [..., chunks, L, R + 2] -> [..., chunks, R]
        logits, square, along = block[..., :-2], block[..., -2:-1], block[..., -1:]
        centre, length = logits.mean(-2, keepdim=True), block.shape[-2]
        top = torch.maximum(logits.amax(-2, keepdim=True), centre)
        weight, pooled = (logits - top).exp(), (centre - top).exp()
        error = (weight.square() * square - 2 * pooled * weight * along).sum(-2, keepdim=True)
        error = error + length * pooled.square() * along.mean(-2, keepdim=True)
        return (error.clamp(min=tiny).log() + 2 * top).squeeze(-2)

    step = max(1, BLOCK_ELEMENTS // (k.shape[0] * k.shape[1] * k.shape[-2]))
    found = []
    for some in wide(asked).split(step, -2):
        logits = wide(k) @ some.mT * scale
        found.append(per_chunk(torch.cat((logits, beside), -1), table, reduce).mT)
    return torch.cat(found, -2)
