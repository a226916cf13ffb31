"""What the rows of one call read beside what they always see: candidates, scores and rule put together.

Tensors are in sorted token order (`ChunkTable`). B batch, H heads, N tokens, R rows asked for, C chunks, S shots,
D head dim, G groups of rows that choose together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..chunks.table import ChunkTable
from ..config import RoutingConfig
from .candidates import candidates, kept_shots, narrow
from .descriptors import wide
from .rules import RULES, choose
from .scores import Descriptors, describe, per_chunk, scores

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
        centred = wide(k) - wide(k).mean(-2, keepdim=True) if guard else k
        self.like_keys = likeness(centred, table) > guard if guard else None
        if shared:
            self.place, first = shared_rows(table, shared, q.device)
            like_rows = likeness(q, table, self.place) > guard if guard else None
            self.ready = self._choose(group_means(q, table, self.place), first, like_rows)
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

    def _by_score(self, asked: Tensor, open_to: Tensor, head: slice, like_rows: Tensor | None) -> Tensor:
        high, low = self.described.high, self.described.low
        score = scores(asked, Descriptors(high[:, head], None if low is None else low[:, head]))
        if self.like_keys is None:
            return choose(score, open_to, self.table, self.routing, self.scale)
        like = self.like_keys[:, head, None]
        chosen = choose(score, open_to & like, self.table, self.routing, self.scale) | (open_to & ~like)
        return chosen if like_rows is None else chosen | (open_to & ~like_rows[..., None])


def shared_rows(table: ChunkTable, shared: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(group of every row [N], first row of every group [G]): the rows of so many neighbouring chunks that always see
    the same."""
    t = table.tensors(device)
    first_chunk = t.chunk_of[torch.tensor([g.start for g in table.groups], device=device)]
    within = (t.chunk_of - first_chunk[t.row_group]) // shared
    _, place, count = torch.unique_consecutive(
        t.row_group * len(table.chunks) + within, return_inverse=True, return_counts=True
    )
    return place, count.cumsum(0) - count


def group_means(x: Tensor, table: ChunkTable, place: Tensor) -> Tensor:
    """Mean of x [B, H, N, D] over the rows of every group -> [B, H, G, D]. place [N]: `shared_rows`."""
    t = table.tensors(x.device)
    sums = per_chunk(x, table, lambda block: wide(block).sum(-2))
    member = torch.nn.functional.one_hot(place[t.starts]).to(sums.dtype)  # [C, G]
    return member.mT @ sums / (member.mT @ t.lengths.to(sums.dtype))[:, None]


def likeness(x: Tensor, table: ChunkTable, place: Tensor | None = None) -> Tensor:
    """Mean cosine of the tokens of every chunk, with themselves too, or of every group of rows -> [B, H, C or G]."""
    t = table.tensors(x.device)
    return group_means(normalize(wide(x), dim=-1), table, t.chunk_of if place is None else place).square().sum(-1)
