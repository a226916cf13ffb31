"""What the rows of one call read beside what they always see: candidates, scores and rule put together.

Tensors are in sorted token order (`ChunkTable`). B batch, H heads, N tokens, R rows asked for, C chunks, S shots,
D head dim, G groups of rows that choose together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ..chunks.table import ChunkTable
from ..config import RoutingConfig
from .candidates import candidates, kept_shots, narrow
from .clusters import clusters
from .descriptors import wide
from .rules import RULES, choose
from .scores import Descriptors, chunk_means, describe, in_buckets, per_chunk, scores, summary_errors

BLOCK_ELEMENTS = 2**26  # scores of groups held at a time


@dataclass(frozen=True)
class Choice:
    """chosen [B, H, R, C]; open_to: what the rows might choose [R, C] or, with an outer loop, [B, H, R, C]; candidate
    [R, C]: the same before the outer loop, of which the tail is made."""

    chosen: Tensor
    open_to: Tensor
    candidate: Tensor


class Selection:
    """The choice of one call, for some rows at a time. What rows choose together is chosen when this is made."""

    def __init__(
        self, q: Tensor, k: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float,
        shots: Tensor | None = None, described: Descriptors | None = None, v: Tensor | None = None,
    ) -> None:  # fmt: skip
        """q, k, v [B, H, N, D]; scale: of q . k in the softmax. shots, described: `kept_shots` and `describe`, where
        they are known. v: for rules that weigh errors."""
        self.q, self.k, self.v, self.table, self.routing, self.scale = q, k, v, table, routing, scale
        self.described = describe(k, table, routing.score.descriptor) if described is None else described
        self.shots = kept_shots(q, k, table, routing) if shots is None else shots
        self.place: Tensor | None = None  # [N] row -> where its choice stands in `ready` [B, H, G or N, C]
        guard, shared = routing.score.guard, routing.score.shared
        self.like_keys = like_rows = None
        if guard:
            centred = wide(k) - wide(k).mean(-2, keepdim=True)
            self.like_keys = likeness(chunk_means(normalize(centred, dim=-1), table)) > guard
        if shared:
            groups = alike_rows(q, table, routing) if table.labelled else shared_rows(table, shared, q.device)
            if guard:
                like_rows = likeness(groups.means(normalize(wide(q), dim=-1))) > guard
            self.place = groups.place
            if routing.score.exact:
                self.ready = self._by_mass(k, groups)
                return
            several = self.described.several
            asked = groups.means(q) if several is None else groups.reduce(q, several.queries, -3)
            self.ready = self._choose(asked, groups.first, like_rows)
        elif self.whole:
            self.place = torch.arange(table.length, device=q.device)
            self.ready = self._choose(q, self.place)

    @property
    def whole(self) -> bool:
        return RULES[self.routing.budget.rule].whole

    def of(self, rows: slice | Tensor) -> Choice:
        """rows: a stretch of the sorted order, or which [R]."""
        t = self.table.tensors(self.q.device)
        _, candidate = candidates(self.table, self.routing, rows, self.q.device)
        open_to = narrow(candidate, self.shots, self.table, rows)
        if self.place is None:
            chosen = self._by_score(self.q[:, :, rows], open_to, slice(None), None)
        else:
            chosen = self.ready[:, :, self.place[rows]]
        if t.near is not None:
            chosen = chosen | (t.near[t.chunk_of[rows]] & candidate)
        return Choice(chosen, open_to, candidate)

    def _choose(self, asked: Tensor, rows: Tensor, like_rows: Tensor | None = None) -> Tensor:
        """asked [B, H, G, D] or [B, H, G, A, D]: what each of the rows [G] asks with -> [B, H, G, C]. A rule that looks
        at a whole head gets one head at a time, others some rows."""
        heads, several = asked.shape[1], self.described.several
        pairs = 1 if several is None else several.products * asked[0, 0, 0].numel() // asked.shape[-1]
        wide_row = asked.shape[0] * heads * len(self.table.chunks) * pairs
        step = len(rows) if self.whole else max(64, BLOCK_ELEMENTS // wide_row)
        parts = []
        for head in [slice(h, h + 1) for h in range(heads)] if self.whole else [slice(None)]:
            found = []
            for low in range(0, len(rows), step):
                some = slice(low, low + step)
                _, candidate = candidates(self.table, self.routing, rows[some], asked.device)
                open_to = narrow(candidate, self.shots, self.table, rows[some])
                open_to = open_to if open_to.dim() == 2 else open_to[:, head]
                like = None if like_rows is None else like_rows[:, head, some]
                found.append(self._by_score(asked[:, head, some], open_to, head, like))
            parts.append(torch.cat(found, 2))
        return torch.cat(parts, 1)

    def _by_mass(self, k: Tensor, groups: RowGroups) -> Tensor:
        """By what falls on the chunks in full attention -> [B, H, G, C]."""
        table, routing, first = self.table, self.routing, groups.first
        mandatory, candidate = candidates(table, routing, first, k.device)
        open_to = narrow(candidate, self.shots, table, first)
        mass = chunk_mass(self.q, k, table, groups, self.scale)
        chosen = choose(mass, open_to, table, routing, self.scale)
        if not routing.budget.ladder:
            return chosen
        # AdaSpa (arXiv 2502.21079, section 4.2): the n heads that hold most read half as much, the n that hold least
        # half as much again; n is the number of those above the ladder, and at most half of them
        t = table.tensors(k.device)
        rows = torch.bincount(groups.place, minlength=len(first)) * t.group_routed[t.row_group[first]]
        held = (mass.where(chosen | mandatory, 0.0).sum(-1) * rows).sum(-1) / rows.sum()  # [B, H]
        n = (held > routing.budget.ladder).sum(-1, keepdim=True).clamp(max=held.shape[1] // 2)
        rank = held.argsort(dim=-1, descending=True, stable=True).argsort(-1)[..., None, None]
        n, k0 = n[..., None, None], table.top_k(routing)
        few = (k0 + 1) // 2
        less, more = (
            choose(mass, open_to, table, routing.changed(top_k=count, density=None), self.scale)
            for count in (few, 2 * k0 - few)
        )
        return torch.where(rank < n, less, torch.where(rank >= held.shape[1] - n, more, chosen))

    def _by_score(self, asked: Tensor, open_to: Tensor, head: slice, like_rows: Tensor | None) -> Tensor:
        score, how = scores(asked, self.described.of(head), self.scale), (self.table, self.routing, self.scale)
        error = None
        if RULES[self.routing.budget.rule].by_error:
            assert self.v is not None
            one = asked if asked.dim() == 4 else asked.mean(-2)
            error = summary_errors(one, self.k[:, head], self.v[:, head], self.table, self.scale)
        if self.like_keys is None:
            return choose(score, open_to, *how, error)
        like = self.like_keys[:, head, None]
        chosen = choose(score, open_to & like, *how, error) | (open_to & ~like)
        return chosen if like_rows is None else chosen | (open_to & ~like_rows[..., None])


@dataclass(frozen=True)
class RowGroups:
    """place [N]: group of every row; first [G]: its first row; buckets: for every number of rows, those [groups, L] of
    the groups that have so many; bucket_place [G]: of every group in these."""

    place: Tensor
    first: Tensor
    buckets: tuple[Tensor, ...]
    bucket_place: Tensor

    @staticmethod
    def of(place: np.ndarray, device: torch.device) -> RowGroups:
        """place [N]: 0 to G - 1, none missing."""
        counts = np.bincount(place)
        rows, first = np.argsort(place, kind="stable"), np.cumsum(counts) - counts
        sized = [np.flatnonzero(counts == size) for size in np.unique(counts)]
        buckets = [rows[first[some, None] + np.arange(counts[some[0]])] for some in sized]

        def on(x: np.ndarray) -> Tensor:
            return torch.from_numpy(x).to(device)

        return RowGroups(on(place), on(rows[first]), tuple(map(on, buckets)), on(np.argsort(np.concatenate(sized))))

    def reduce(self, x: Tensor, how: Callable[[Tensor], Tensor], axis: int = -2) -> Tensor:
        """x [B, H, N, D], over the rows of every group; axis: as of `per_chunk`."""
        return in_buckets(x, self.buckets, self.bucket_place, how, axis)

    def means(self, x: Tensor) -> Tensor:
        """[B, H, G, D]"""
        return self.reduce(x, lambda block: wide(block).mean(-2))


def shared_rows(table: ChunkTable, shared: int, device: torch.device) -> RowGroups:
    """The rows of so many neighbouring chunks that always see the same."""
    starts = np.array([c.start for c in table.chunks])
    lengths = np.array([c.length for c in table.chunks])
    alike = np.searchsorted([g.start for g in table.groups], starts, "right") - 1  # query group of every chunk
    within = (np.arange(len(starts)) - np.searchsorted(alike, alike)) // shared
    new = np.diff(alike * len(starts) + within, prepend=-1) != 0
    return RowGroups.of((new.cumsum() - 1).repeat(lengths), device)


def alike_rows(q: Tensor, table: ChunkTable, routing: RoutingConfig) -> RowGroups:
    """Of q [1, 1, N, D]: alike queries among those that always see the same, as SVG 2 shares a choice."""
    size = routing.score.shared * (routing.partition.chunk_tokens or 1)
    place, groups = np.empty(table.length, int), 0
    for group in table.groups:
        label = np.zeros(group.stop - group.start, int)
        if group.routed:
            label = clusters(q[0, 0, group.start : group.stop], -(-len(label) // size)).cpu().numpy()
        place[group.start : group.stop] = groups + np.unique(label, return_inverse=True)[1]
        groups = int(place[group.start : group.stop].max()) + 1
    return RowGroups.of(place, q.device)


def chunk_mass(q: Tensor, k: Tensor, table: ChunkTable, groups: RowGroups, scale: float) -> Tensor:
    """Share of full attention that falls on every chunk, the mean over the rows of a group: q, k [B, H, N, D] ->
    [B, H, G, C]."""
    size, n = torch.bincount(groups.place, minlength=len(groups.first)), q.shape[2]
    out = wide(q).new_zeros(*q.shape[:2], len(groups.first), len(table.chunks))
    step = max(64, BLOCK_ELEMENTS // (q.shape[0] * q.shape[1] * n))
    for low in range(0, n, step):
        rows = slice(low, min(low + step, n))
        share = (wide(q[:, :, rows]) @ wide(k).mT * scale).softmax(-1)
        mass = per_chunk(share.mT, table, lambda block: block.sum(-2))  # [B, H, C, R]
        member = one_hot(groups.place[rows], len(groups.first)).to(mass.dtype)  # [R, G]
        out += (mass @ member).mT
    return out / size[:, None]


def likeness(means: Tensor) -> Tensor:
    """Mean cosine of tokens with each other and themselves: of the means of what `normalize` made of them [..., D]."""
    return means.square().sum(-1)
