"""What rows always see, what they may choose from, and what the outer loop and union lists make of it.

Tensors are in sorted token order (`ChunkTable`). B batch, H heads, R rows of a block, C chunks, S shots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..chunks.table import NO_SHOT, ChunkTable
from ..config import RoutingConfig
from .descriptors import wide
from .rules import select


def candidates(
    table: ChunkTable, routing: RoutingConfig, rows: slice | Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(mandatory, candidate) [R, C]: what these rows always see, and what top-k may choose from.

    Mandatory links leave the competition before top-k (section 3.3). Causality acts on routed links only: shots that
    come later than the query's own cannot be chosen (section 3.4).
    """
    t = table.tensors(device)
    group = t.row_group[rows]
    index = torch.arange(t.lengths.numel(), device=device)
    own = t.group_own[group]
    mandatory = t.linked | ((index >= own[:, :1]) & (index < own[:, 1:]))
    candidate = t.routable & ~mandatory & t.group_routed[group, None]
    if routing.candidates.causal:
        candidate = candidate & (t.chunk_shot <= t.group_shot[group, None])
    return mandatory, candidate


def kept_shots(q: Tensor, k: Tensor, table: ChunkTable, routing: RoutingConfig) -> Tensor | None:
    """Outer loop (section 3.5): [B, H, S, S], True where shot i may be routed into from shot s; None without it.

    A shot's feature is the mean of its queries on the reading side and the mean of its keys on the other. The best
    `shots_kept` other shots stay; the own shot always does.
    """
    if routing.candidates.shots_kept is None:
        return None
    t = table.tensors(q.device)
    shot_of_token = t.chunk_shot[t.chunk_of]
    shots = int(max(c.shot for c in table.chunks)) + 1
    member = torch.nn.functional.one_hot(shot_of_token.clamp(min=0), shots) * (shot_of_token != NO_SHOT)[:, None]
    member = member.to(wide(q[..., :1, :1]).dtype)
    mean = (member / member.sum(0).clamp(min=1)).T  # [S, N]
    score = (mean @ wide(q)) @ (mean @ wide(k)).transpose(-1, -2)
    index = torch.arange(shots, device=q.device)
    own = index[:, None] == index
    allowed = ~own & (index[:, None] >= index if routing.candidates.causal else torch.ones_like(own))
    return select(score, allowed, routing.candidates.shots_kept) | own


def narrow(candidate: Tensor, keep: Tensor | None, table: ChunkTable, rows: slice | Tensor) -> Tensor:
    """Candidates [R, C] that the outer loop leaves -> [R, C] or, with `keep` [B, H, S, S], [B, H, R, C]."""
    if keep is None:
        return candidate
    t = table.tensors(candidate.device)
    reader = t.group_shot[t.row_group[rows]].clamp(min=0)
    seen = keep[:, :, reader][..., t.chunk_shot.clamp(min=0)]
    return candidate & (seen | (t.chunk_shot == NO_SHOT))


def union(chosen: Tensor, candidate: Tensor, table: ChunkTable, rows: slice) -> Tensor:
    """One list per query tile: every row takes what any row of its tile chose or owns, if it may choose that at all.

    chosen [B, H, R, C]; candidate broadcastable to it. The rows hold whole tiles (`ChunkTable.query_tiles`).
    """
    tiles = table.tensors("cpu").row_tile[rows]  # counted on the CPU: the device is not waited for
    first, count = int(tiles[0]), int(tiles[-1] - tiles[0]) + 1
    place = table.tensors(chosen.device).row_tile[rows] - first
    asked = chosen | owned(table, rows, chosen.device)
    lists = chosen.new_zeros(*chosen.shape[:2], count, chosen.shape[-1], dtype=torch.int32)
    lists.index_add_(2, place, asked.expand(chosen.shape).to(torch.int32))
    return (lists > 0).index_select(2, place) & candidate


def owned(table: ChunkTable, rows: slice | Tensor, device: torch.device) -> Tensor:
    """[R, C]: the own chunks of routed rows."""
    t = table.tensors(device)
    group, index = t.row_group[rows], torch.arange(t.lengths.numel(), device=device)
    own = t.group_own[group]
    return (index >= own[:, :1]) & (index < own[:, 1:]) & t.group_routed[group, None]
