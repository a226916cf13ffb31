"""Any torch device, CPU and MPS included: grouped variable-length attention, never an [N, N] tensor, with gradients.

The mandatory keys, the routed chunks and the pooled tail are three partial softmaxes, merged by log-sum-exp. Two
engines for the routed part: large chunks meet the rows that chose them (`chunk_major`); tiles of query rows meet the
union of the small chunks that their rows chose (`tile_major`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...chunks import ChunkTable, Group
from ...config import RoutingConfig
from ...routing import candidates, chunk_means, describe, disturb, kept_shots, narrow, scores, select
from .function import Attend, Block

# Below this mean chunk length the many small calls of chunk_major cost more than the masked pairs of tile_major.
LARGE_CHUNK = 128
BLOCK_ELEMENTS = 2**24  # scores held at a time


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, *, scale: float, training: bool, record
) -> Tensor:
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]."""
    with torch.autocast(q.device.type, enabled=False):  # scores and sums keep the digits that `wide` gives them
        return _attend(q, k, v, table, routing, scale, training, record)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, training: bool, record
) -> Tensor:
    with torch.no_grad():
        blocks = tuple(_route(q, k, table, routing, training, record))
    mean_k = mean_v = q.new_zeros(0)
    if routing.tail == "pooled":
        mean_k, mean_v = chunk_means(k, table).to(q.dtype), chunk_means(v, table).to(q.dtype)
    out = Attend.apply(q, k, v, mean_k, mean_v, table, blocks, scale, table.mean_chunk >= LARGE_CHUNK)
    for group in table.groups:  # text and references see everything
        if not group.routed:
            rows = slice(group.start, group.stop)
            dense = scaled_dot_product_attention(q[:, :, rows], k, v, scale=scale)
            out = torch.slice_scatter(out, dense, 2, group.start, group.stop)
    return out


def _route(
    q: Tensor, k: Tensor, table: ChunkTable, routing: RoutingConfig, training: bool, record
) -> Iterator[Block]:
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
