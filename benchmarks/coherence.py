"""How skewed and how coherent a routing is: what decides which engine suits it.

skewed    do all queries ask for the same few chunks, and does nobody ask for some?
coherent  do neighbouring queries ask for the same ones?
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moc.chunks import ChunkTable
from moc.config import RoutingConfig
from moc.routing import candidates, describe, scores, select


def choose(
    q: Tensor, k: Tensor, table: ChunkTable, routing: RoutingConfig, rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(chosen [B, H, R, C], candidate and mandatory [R, C]) for q, k [B, H, N, D], all in sorted order; all rows by
    default."""
    rows = torch.arange(table.length, device=q.device) if rows is None else rows
    mandatory, candidate = candidates(table, routing, rows, q.device)
    score = scores(q.index_select(-2, rows), describe(k, table, routing.descriptor))
    return select(score, candidate, table.top_k(routing)), candidate, mandatory


@dataclass(frozen=True)
class Measures:
    """All are means over heads.

    gini, entropy   of how often a chunk is chosen, over how often it could be: 0 and 1 where all are equally popular
    never           share of the chunks that no query chose
    top_tenth       share of all choices that falls on the most popular tenth of the chunks
    beside, below, later
                    share of a query's choices that its neighbour (next column, row, frame of the same shot) also made
    union_16/64/128 chunks that 4x4, 8x8 and 8x16 neighbouring queries of a frame choose together, over k
    """

    gini: float
    entropy: float
    never: float
    top_tenth: float
    beside: float
    below: float
    later: float
    union_16: float
    union_64: float
    union_128: float


def measure(chosen: Tensor, candidate: Tensor, table: ChunkTable) -> Measures:
    """chosen [B, H, N, C] and candidate [N, C] in sorted order; every token of the sequence is video."""
    open_to = candidate.sum(0).clamp(min=1)
    popular = (chosen.sum(2).float() / open_to).flatten(0, 1)  # [heads, C]
    popular = popular[:, candidate.any(0)]
    t, h, w = table.layout.grid
    shot = torch.tensor([0] * t)
    for start in table.starts[1:]:
        shot[start:] += 1
    same = (shot[1:] == shot[:-1]).nonzero().flatten()
    grid = chosen.index_select(2, table.tensors("cpu").inverse).flatten(0, 1).unflatten(1, (t, h, w))
    k = grid.sum(-1).float().clamp(min=1)

    def shared(a: Tensor, b: Tensor, count: Tensor) -> float:
        return float(((a & b).sum(-1) / count).mean())

    def union(rows: int, columns: int) -> float:
        cut = grid[:, :, : h // rows * rows, : w // columns * columns]
        tiles = cut.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).any(5).any(3)
        return float(tiles.sum(-1).float().mean() / k.mean())

    return Measures(
        gini=float(gini(popular).mean()),
        entropy=float(entropy(popular).mean()),
        never=float((popular == 0).float().mean()),
        top_tenth=float(top_share(popular, 0.1).mean()),
        beside=shared(grid[:, :, :, 1:], grid[:, :, :, :-1], k[:, :, :, 1:]),
        below=shared(grid[:, :, 1:], grid[:, :, :-1], k[:, :, 1:]),
        later=shared(grid[:, same + 1], grid[:, same], k[:, same + 1]),
        union_16=union(4, 4),
        union_64=union(8, 8),
        union_128=union(8, 16),
    )


def gini(x: Tensor) -> Tensor:
    """x [..., C] not negative -> [...]: 0 where all are equal, (C - 1) / C where one has everything."""
    x, n = x.sort(-1).values, x.shape[-1]
    weight = 2 * torch.arange(1, n + 1, device=x.device) - n - 1
    return (x * weight).sum(-1) / (n * x.sum(-1)).clamp(min=1e-12)


def entropy(x: Tensor) -> Tensor:
    """x [..., C] not negative -> [...]: entropy of the shares over its largest value, log C."""
    p = x / x.sum(-1, keepdim=True).clamp(min=1e-12)
    return -(p * p.clamp(min=1e-12).log()).sum(-1) / torch.tensor(float(x.shape[-1])).log()


def top_share(x: Tensor, part: float) -> Tensor:
    """x [..., C] -> [...]: share of the sum in the largest `part` of the entries."""
    count = max(1, round(part * x.shape[-1]))
    return x.topk(count, -1).values.sum(-1) / x.sum(-1).clamp(min=1e-12)
