"""Any torch device, CPU and MPS included: grouped variable-length attention, never an [N, N] tensor, with gradients.

Two engines for two regimes. Large chunks: one call per (head, chunk) over the rows that chose it, merged by
log-sum-exp (`chunk_major`). Small tiles: one softmax per tile of query rows over the union of what its rows chose,
every row masked to its own choice (`tile_major`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...chunks import ChunkTable, Group
from ...config import RoutingConfig
from ...routing import candidates, chunk_means, describe, disturb, kept_shots, narrow, scores, select
from . import chunk_major, tile_major

# Below this mean chunk length the calls of chunk_major cost more than the masked pairs of tile_major
# (benchmarks/results: crossover on 2 CPU threads and on an H100).
LARGE_CHUNK = 128
BLOCK_ELEMENTS = 2**24  # scores held at a time


@dataclass(frozen=True)
class Block:
    """Consecutive routed query rows. chosen [B, H, R, C]; skipped [B, H, R, C] where the tail stands in, or None."""

    rows: slice
    groups: tuple[Group, ...]
    chosen: Tensor
    skipped: Tensor | None


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, *, scale: float, training: bool, record
) -> Tensor:
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]."""
    with torch.no_grad():
        blocks = list(_route(q, k, table, routing, training, record))
    mean_k = mean_v = None
    if routing.tail == "pooled":
        mean_k, mean_v = chunk_means(k, table).to(q.dtype), chunk_means(v, table).to(q.dtype)
    engine = chunk_major if table.mean_chunk >= LARGE_CHUNK else tile_major
    out = engine.attend(q, k, v, mean_k, mean_v, table, blocks, scale)
    for group in table.groups:  # text and references see everything
        if not group.routed:
            rows = slice(group.start, group.stop)
            dense = scaled_dot_product_attention(q[:, :, rows], k, v, scale=scale)
            out = torch.slice_scatter(out, dense, 2, group.start, group.stop)
    return out


def _route(q: Tensor, k: Tensor, table: ChunkTable, routing: RoutingConfig, training: bool, record) -> Iterator[Block]:
    described = describe(k, table, routing.descriptor)
    keep = kept_shots(q, k, table, routing)
    top_k = table.top_k(routing)
    order = table.tensors(q.device).order
    limit = max(64, BLOCK_ELEMENTS // (q.shape[0] * q.shape[1] * len(table.chunks)))
    for rows, groups in _row_blocks(table, limit):
        _, candidate = candidates(table, routing, rows, q.device)
        open_to = narrow(candidate, keep, table, rows)
        chosen = select(scores(q[:, :, rows], described), open_to, top_k)
        if training:
            chosen = disturb(chosen, open_to, routing, order[rows])
        if record is not None:
            record.add(rows, chosen)
        yield Block(rows, groups, chosen, candidate & ~chosen if routing.tail == "pooled" else None)


def _row_blocks(table: ChunkTable, limit: int) -> Iterator[tuple[slice, tuple[Group, ...]]]:
    """Runs of routed groups of at most `limit` rows; a longer group is cut."""
    run: list[Group] = []
    for group in (*table.groups, None):
        if run and (group is None or not group.routed or group.stop - run[0].start > limit):
            start, stop = run[0].start, run[-1].stop
            for low in range(start, stop, limit):
                high = min(low + limit, stop)
                yield slice(low, high), tuple(g for g in run if g.stop > low and g.start < high)
            run = []
        if group is not None and group.routed:
            run.append(group)
