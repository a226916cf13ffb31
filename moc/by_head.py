"""Heads with chunks of their own: partitions that depend on a head's queries and keys.

Such heads are attended one by one, or as many together as have the same chunks, with a table of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunks.build import build_chunks
from .chunks.orders import ALIKE
from .chunks.table import ChunkTable
from .config import RoutingConfig
from .probe.sampled_error import SampledError, sampled_error, spread
from .routing.clusters import clusters

ROWS = 64  # queries that SVG compares both orders on


@dataclass(frozen=True)
class Part:
    """heads of one sample of a batch, the table and the routing that they get."""

    sample: int
    heads: list[int]
    table: ChunkTable
    routing: RoutingConfig

    def of(self, x: Tensor) -> Tensor:
        """Of x [B, H, ...]: [1, heads, ...]."""
        return x[self.sample, self.heads][None]


@torch.no_grad()
def parts(q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Iterator[Part]:
    """q, k, v [B, H, N, D] in the model's order; table: of the layout, with any chunks."""
    find = _alike if routing.partition.order == ALIKE else _frames_or_columns
    for sample in range(q.shape[0]):
        one = slice(sample, sample + 1)
        for heads, own, its in find(q[one], k[one], v[one], table, routing, scale):
            yield Part(sample, heads, own, its)


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float,
    one: Callable[..., Tensor], record, lse: Tensor | None,
) -> Tensor:  # fmt: skip
    """one: (q, k, v, table, routing, record, lse) -> the attention of heads that have the same chunks."""
    out = torch.zeros_like(q)
    for part in parts(q, k, v, table, routing, scale):
        mine = None if lse is None else part.of(lse).clone()
        seen = record.part(part.heads, part.table) if hasattr(record, "part") else None
        got = one(*map(part.of, (q, k, v)), part.table, part.routing, record=seen, lse=mine)
        if seen is not None:
            record.take(seen, part.heads, len(q))
        out[part.sample, part.heads] = got[0]
        if lse is not None and mine is not None:
            lse[part.sample, part.heads] = mine[0]
    return out


def sampled(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, tokens: Tensor,
    scale: float | None = None,
) -> SampledError:  # fmt: skip
    """As `sampled_error`, of q, k, v and tokens [R] in the model's order: heads with chunks of their own, too."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if not routing.partition.by_head:
        return _on(q, k, v, table, routing, tokens, scale)
    total: SampledError | None = None
    for part in parts(q, k, v, table, routing, scale):
        mine = part.of(q), part.of(k), part.of(v)
        found = _on(*mine, part.table, part.routing, tokens, scale).spread(part.heads, q.shape[1])
        total = found if total is None else total + found
    assert total is not None
    return total.with_rows(len(tokens) * len(q))


def _on(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, tokens: Tensor, scale: float
) -> SampledError:
    t = table.tensors(q.device)
    q, k, v = (x.index_select(-2, t.order) for x in (q, k, v))
    return sampled_error(q, k, v, table, [routing], t.inverse[tokens.to(q.device)], scale=scale)


def _frames_or_columns(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float
) -> Iterator[tuple[list[int], ChunkTable, RoutingConfig]]:
    """SVG (arXiv 2502.01776, section 4.2): whichever order's mask is nearer to full attention on a few rows."""
    tables, error = [], []
    layout = table.layout
    tokens = layout.video_start + spread(layout.video_stop - layout.video_start, ROWS)
    for order in ("raster", "columns"):
        its = routing.changed(order=order)
        if (0, order) not in table.plans:
            table.plans[0, order] = build_chunks(table.layout, table.starts, its)
        tables.append((table.plans[0, order], its))
        error.append(_on(q, k, v, *tables[-1], tokens, scale).error[0])
    columns = (error[1] < error[0]).tolist()
    for which in (False, True):
        heads = [head for head, its in enumerate(columns) if its == which]
        if heads:
            yield heads, *tables[which]


def _alike(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float
) -> Iterator[tuple[list[int], ChunkTable, RoutingConfig]]:
    """Clusters of alike keys within every shot, about as many as `chunk_tokens` makes (SVG 2)."""
    size, layout = routing.partition.chunk_tokens, table.layout
    assert size is not None
    shots: dict[int, list[int]] = {}
    for chunk in table.chunks:
        if chunk.kind == "video":
            shots.setdefault(chunk.shot, []).extend(table.order[chunk.start : chunk.stop].tolist())
    inside = [torch.tensor(tokens, device=k.device) for tokens in shots.values()]
    for head in range(k.shape[1]):
        label = torch.empty(layout.length, dtype=torch.int64, device=k.device)
        for tokens in inside:
            label[tokens] = clusters(k[0, head, tokens], -(-len(tokens) // size))
        video = label[layout.video_start : layout.video_stop].cpu().numpy()
        yield [head], build_chunks(layout, table.starts, routing, video), routing
