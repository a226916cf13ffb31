"""Descriptors of chunks, and how a query scores them.

Tensors are in sorted token order (`ChunkTable`). B batch, H heads, N tokens, R rows of a block, C chunks, D head
dim. Scores and descriptors are float32, or float64 for float64 inputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..chunks.table import NO_SHOT, ChunkTable
from ..config import RoutingConfig
from ..descriptors import DESCRIPTORS, wide
from .rules import select


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


def candidates(table: ChunkTable, routing: RoutingConfig, rows: slice, device: torch.device) -> tuple[Tensor, Tensor]:
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
    if routing.causal:
        candidate = candidate & (t.chunk_shot <= t.group_shot[group, None])
    return mandatory, candidate


def kept_shots(q: Tensor, k: Tensor, table: ChunkTable, routing: RoutingConfig) -> Tensor | None:
    """Outer loop (section 3.5): [B, H, S, S], True where shot i may be routed into from shot s; None without it.

    A shot's feature is the mean of its queries on the reading side and the mean of its keys on the other. The best
    `shots_kept` other shots stay; the own shot always does.
    """
    if routing.shots_kept is None:
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
    allowed = ~own & (index[:, None] >= index if routing.causal else torch.ones_like(own))
    return select(score, allowed, routing.shots_kept) | own


def narrow(candidate: Tensor, keep: Tensor | None, table: ChunkTable, rows: slice) -> Tensor:
    """Candidates [R, C] that the outer loop leaves -> [R, C] or, with `keep` [B, H, S, S], [B, H, R, C]."""
    if keep is None:
        return candidate
    t = table.tensors(candidate.device)
    reader = t.group_shot[t.row_group[rows]].clamp(min=0)
    seen = keep[:, :, reader][..., t.chunk_shot.clamp(min=0)]
    return candidate & (seen | (t.chunk_shot == NO_SHOT))


def share(chosen: Tensor, candidate: Tensor, table: ChunkTable, rows: slice) -> Tensor:
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


def disturb(chosen: Tensor, candidate: Tensor, routing: RoutingConfig, tokens: Tensor) -> Tensor:
    """Context drop-off and drop-in (section 3.2), for training.

    Per row: a share p ~ U(0, drop_off) of the chosen chunks, rounded down, is removed; then m ~ Poisson(drop_in)
    random candidates are added. The noise is a hash of (seed, batch, head, token, chunk): any split into blocks, any
    device and a recomputation in backward draw the same.

    chosen [B, H, R, C]; candidate broadcastable to it; tokens [R]: the rows' positions in the sequence.
    """
    if not (routing.drop_off or routing.drop_in):
        return chosen
    b, h, _, c = chosen.shape
    device = chosen.device
    heads = torch.arange(b * h, device=device).view(b, h, 1, 1)
    row = (heads << 40) + tokens.view(-1, 1)

    def uniform(stream: int, count: int) -> Tensor:  # [B, H, R, count]
        column = torch.arange(count, device=device)
        return _hash(row * 8 + stream, column, routing.seed)

    if routing.drop_off:
        share = uniform(0, 1) * routing.drop_off
        drop = (share * chosen.sum(-1, keepdim=True)).floor()
        chosen = chosen & ~_lowest(uniform(1, c), chosen, drop)
    if routing.drop_in:
        free = candidate & ~chosen
        extra = _poisson(uniform(2, 1), routing.drop_in)
        chosen = chosen | _lowest(uniform(3, c), free, extra)
    return chosen


def _lowest(noise: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Mask of the `count` [..., 1] smallest noises among a mask [..., C]."""
    rank = noise.masked_fill(~among, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    return among & (rank < count)


def _poisson(u: Tensor, mean: float, most: int = 64) -> Tensor:
    """Poisson counts from uniforms by inverting the distribution function."""
    mass = [math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(most)]
    steps = torch.tensor(list(itertools.accumulate(mass)), dtype=u.dtype, device=u.device)
    return (u > steps).sum(-1, keepdim=True)


def _hash(row: Tensor, column: Tensor, seed: int) -> Tensor:
    """Uniform float32 in [0, 1) of two integer tensors (a splitmix-style mixer on wrapping int64)."""
    x = row * -7046029254386353131 + column * -4658895280553007687 + (seed + 1) * 0x2545F4914F6CDD1D % 2**62
    for shift, factor in ((31, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return ((x >> 40) & 0xFFFFFF).float() / 2**24


def per_chunk(x: Tensor, table: ChunkTable, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce x [B, H, N, D] over the tokens of every chunk; chunks of one length go together."""
    t = table.tensors(x.device)
    if len(t.buckets) == 1:
        return reduce(x.unflatten(-2, (t.lengths.numel(), -1)))
    parts = [reduce(x.index_select(-2, b.flatten()).unflatten(-2, b.shape)) for b in t.buckets]
    return torch.cat(parts, -2).index_select(-2, t.bucket_place)
