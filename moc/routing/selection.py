"""What the rows of one call read beside what they always see: candidates, scores and rule put together.

Tensors are in sorted token order (`ChunkTable`). B batch, H heads, N tokens, R rows asked for, C chunks, S shots,
D head dim, G groups of rows that choose together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ..chunks.table import ChunkTable
from ..config import RoutingConfig
from .candidates import candidates, kept_shots, narrow
from .descriptors import wide
from .rules import RULES, choose
from .scores import Descriptors, chunk_means, describe, per_chunk, scores

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
        shots: Tensor | None = None, described: Descriptors | None = None,
    ) -> None:  # fmt: skip
        """q, k [B, H, N, D]; scale: of q . k in the softmax. shots, described: `kept_shots` and `describe`, where they
        are known."""
        self.q, self.table, self.routing, self.scale = q, table, routing, scale
        self.described = describe(k, table, routing.score.descriptor) if described is None else described
        self.shots = kept_shots(q, k, table, routing) if shots is None else shots
        self.place: Tensor | None = None  # [N] row -> where its choice stands in `ready` [B, H, G or N, C]
        guard, shared = routing.score.guard, routing.score.shared
        self.like_keys = like_rows = None
        if guard:
            centred = wide(k) - wide(k).mean(-2, keepdim=True)
            self.like_keys = likeness(chunk_means(normalize(centred, dim=-1), table)) > guard
        if shared:
            groups = shared_rows(table, shared, q.device)
            if guard:
                like_rows = likeness(group_means(normalize(wide(q), dim=-1), table, groups)) > guard
            self.place = groups.place
            if routing.score.exact:
                self.ready = self._by_mass(k, groups)
                return
            self.ready = self._choose(group_means(q, table, groups), groups.first, like_rows)
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
        """asked [B, H, G, D]: a query for each of the rows [G] -> [B, H, G, C]. A rule that looks at a whole head gets
        one head at a time, others some rows."""
        heads = asked.shape[1]
        step = len(rows) if self.whole else max(64, BLOCK_ELEMENTS // (asked.shape[0] * heads * len(self.table.chunks)))
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
        high, low = self.described.high, self.described.low
        score = scores(asked, Descriptors(high[:, head], None if low is None else low[:, head]))
        if self.like_keys is None:
            return choose(score, open_to, self.table, self.routing, self.scale)
        like = self.like_keys[:, head, None]
        chosen = choose(score, open_to & like, self.table, self.routing, self.scale) | (open_to & ~like)
        return chosen if like_rows is None else chosen | (open_to & ~like_rows[..., None])


@dataclass(frozen=True)
class RowGroups:
    """place [N]: group of every row; first [G]: its first row; of_chunk [C]: group that the rows of a chunk are in."""

    place: Tensor
    first: Tensor
    of_chunk: Tensor


def shared_rows(table: ChunkTable, shared: int, device: torch.device) -> RowGroups:
    """The rows of so many neighbouring chunks that always see the same."""
    starts = np.array([c.start for c in table.chunks])
    lengths = np.array([c.length for c in table.chunks])
    alike = np.searchsorted([g.start for g in table.groups], starts, "right") - 1  # query group of every chunk
    within = (np.arange(len(starts)) - np.searchsorted(alike, alike)) // shared
    new = np.diff(alike * len(starts) + within, prepend=-1) != 0
    of_chunk = new.cumsum() - 1
    return RowGroups(*(torch.from_numpy(x).to(device) for x in (of_chunk.repeat(lengths), starts[new], of_chunk)))


def group_means(x: Tensor, table: ChunkTable, groups: RowGroups) -> Tensor:
    """Mean of x [B, H, N, D] over the rows of every group -> [B, H, G, D]."""
    sums = per_chunk(x, table, lambda block: wide(block).sum(-2))
    member = one_hot(groups.of_chunk, len(groups.first)).to(sums.dtype).mT  # [G, C]
    return member @ sums / (member @ table.tensors(x.device).lengths.to(sums.dtype))[:, None]


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
