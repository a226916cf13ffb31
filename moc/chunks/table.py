"""Chunks, the query rows that share what they always see, and the token order that makes every chunk one run."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import RoutingConfig
from .layout import TokenLayout

NO_SHOT = -1
TILE_ROWS = 64  # query rows that may share a list


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) in sorted order. frame is the grid frame it begins in; -1 outside the video."""

    kind: str
    start: int
    stop: int
    shot: int = NO_SHOT
    frame: int = -1
    linked: bool = False  # every query sees it: text, static memory, linked references
    routable: bool = False  # may be chosen by top-k

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class QueryGroup:
    """Query rows [start, stop) in sorted order that share their mandatory chunks.

    The mandatory chunks are own = [first, last) and every linked chunk. routed is False for rows that see everything.
    """

    start: int
    stop: int
    own: tuple[int, int]
    shot: int = NO_SHOT
    routed: bool = True


@dataclass(frozen=True)
class TableTensors:
    """The geometry on one device. order/inverse [N]; per chunk [C]; per group [G]; row_group, row_frame [N]."""

    order: Tensor
    inverse: Tensor
    starts: Tensor
    lengths: Tensor
    chunk_shot: Tensor
    linked: Tensor
    routable: Tensor
    chunk_of: Tensor  # [N] sorted token -> chunk
    row_group: Tensor
    row_frame: Tensor  # [N] sorted token -> grid frame, -1 outside the video
    group_own: Tensor  # [G, 2]
    group_shot: Tensor
    group_routed: Tensor
    buckets: tuple[Tensor, ...]  # for every length, the tokens [chunks, length] of the chunks that have it
    bucket_place: Tensor  # [C] chunk -> its row in the concatenated buckets
    row_tile: Tensor  # [N] sorted token -> query tile
    near: Tensor | None  # [C, C]


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """Chunks and query groups of one layout. Sorted order: what stands before the video, the video by
    (shot, frames, tile), what stands after it. Build with `build_chunks`."""

    layout: TokenLayout
    starts: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    groups: tuple[QueryGroup, ...]
    order: np.ndarray
    frames: np.ndarray  # [N] grid frame of every sorted token
    identity: bool  # sorted order is the sequence's own order: nothing has to be moved
    near: np.ndarray | None = None  # [C, C]: chunks that the rows of a chunk read because of where they stand
    labelled: bool = False  # chunks are those of one head
    _cache: dict[str, TableTensors] = field(default_factory=dict, repr=False)
    _top_k: dict[tuple[float, bool], int] = field(default_factory=dict, repr=False)
    _pairs: dict[tuple[int, bool], tuple[float, float]] = field(default_factory=dict, repr=False)
    plans: dict[tuple[int, str], Any] = field(default_factory=dict, repr=False)  # of backends, as long as the table
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def length(self) -> int:
        return self.layout.length

    @cached_property
    def mean_chunk(self) -> float:
        """Mean length of the chunks that can be chosen, in tokens."""
        lengths = [c.length for c in self.chunks if c.routable]
        return sum(lengths) / len(lengths) if lengths else 0.0

    @cached_property
    def owns_nothing(self) -> bool:
        """Whether some rows see nothing of their own."""
        return any(g.own[0] == g.own[1] for g in self.groups if g.routed)

    def mandatory(self, group: QueryGroup) -> list[tuple[int, int]]:
        """Token ranges (sorted order) that every row of the group sees, merged and rising."""
        ranges: list[tuple[int, int]] = []
        for index, chunk in enumerate(self.chunks):
            if chunk.linked or group.own[0] <= index < group.own[1]:
                if ranges and ranges[-1][1] == chunk.start:
                    ranges[-1] = (ranges[-1][0], chunk.stop)
                else:
                    ranges.append((chunk.start, chunk.stop))
        return ranges

    def density(self, top_k: int, causal: bool) -> float:
        """Kept share of all (query, key) pairs when every row takes top_k chunks of mean length."""
        return sum(self.pairs(top_k, causal)) / self.length**2

    def pairs(self, top_k: int, causal: bool) -> tuple[float, float]:
        """(query, key) pairs: those that are always seen, and those that rows choose by taking top_k chunks."""
        if (top_k, causal) not in self._pairs:
            rows, mandatory, choices, tokens = self._totals(causal)
            chosen = np.minimum(choices, top_k) * tokens / np.maximum(choices, 1)
            self._pairs[top_k, causal] = float((rows * mandatory).sum()), float((rows * chosen).sum())
        return self._pairs[top_k, causal]

    def _totals(self, causal: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Per group [G]: rows, mandatory tokens, candidate chunks and their tokens."""
        lengths = np.array([c.length for c in self.chunks])
        linked = np.array([c.linked for c in self.chunks])
        routable = np.array([c.routable for c in self.chunks])
        shot = np.array([c.shot for c in self.chunks])
        first, last = np.array([g.own for g in self.groups]).T

        def upto(values: np.ndarray) -> np.ndarray:
            return np.concatenate([[0], np.cumsum(values)])

        def inside(values: np.ndarray) -> np.ndarray:  # sum over the own range
            return upto(values)[last] - upto(values)[first]

        mandatory = (lengths * linked).sum() + inside(lengths * ~linked)
        shots, index = np.unique([g.shot for g in self.groups], return_inverse=True)
        visible = np.array([routable & (shot <= s) if causal else routable for s in shots])
        routed = np.array([g.routed for g in self.groups])
        choices = (visible.sum(1)[index] - inside(routable)) * routed
        tokens = ((visible * lengths).sum(1)[index] - inside(routable * lengths)) * routed
        rows = np.array([g.stop - g.start for g in self.groups])
        return rows, mandatory, choices, tokens

    def top_k(self, routing: RoutingConfig) -> int:
        """The budget's top_k, or the k whose density comes nearest to its density."""
        budget = routing.on(self.layout.grid).budget
        return budget.top_k if budget.density is None else self.top_k_at(budget.density, routing.candidates.causal)

    def top_k_at(self, density: float, causal: bool) -> int:
        """The k whose density comes nearest."""
        if (density, causal) not in self._top_k:
            low, high = 0, len(self.chunks)
            while low < high:  # density rises with k
                middle = (low + high) // 2
                if self.density(middle, causal) < density:
                    low = middle + 1
                else:
                    high = middle
            below = max(low - 1, 0)
            gap = [abs(self.density(k, causal) - density) for k in (below, low)]
            self._top_k[density, causal] = below if gap[0] <= gap[1] else low
        return self._top_k[density, causal]

    def query_tiles(self) -> list[tuple[int, int]]:
        """Runs [start, stop) of at most TILE_ROWS routed rows that share a list where `lists` is "union".

        Groups of TILE_ROWS rows and more on average are tiled one by one. Smaller ones are joined first, within a
        shot: rows of one shot may choose from the same chunks, so a shared list breaks neither causality nor the
        outer loop.
        """
        runs: list[tuple[int, int, int]] = []  # start, stop, shot
        routed = [g for g in self.groups if g.routed]
        joined = sum(g.stop - g.start for g in routed) < TILE_ROWS * len(routed)
        for g in routed:
            if joined and runs and runs[-1][1:] == (g.start, g.shot):
                runs[-1] = (runs[-1][0], g.stop, g.shot)
            else:
                runs.append((g.start, g.stop, g.shot))
        return [(low, min(low + TILE_ROWS, b)) for a, b, _ in runs for low in range(a, b, TILE_ROWS)]

    def tensors(self, device: torch.device | str) -> TableTensors:
        """The geometry on a device, made once. Never inference tensors, so that autograd may keep them."""
        key = str(device)
        with self._lock:
            if key not in self._cache:
                with torch.inference_mode(False):
                    self._cache[key] = self._upload(torch.device(device))
            return self._cache[key]

    def leave_devices(self) -> None:
        """Forget what was made for devices. A caller that holds a part keeps it; asked again, it is made again."""
        with self._lock:
            self._cache.clear()
            self.plans.clear()

    def _upload(self, device: torch.device) -> TableTensors:
        def on(values: object, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.as_tensor(np.asarray(values), dtype=dtype).to(device)

        lengths = np.array([c.length for c in self.chunks])
        starts = np.array([c.start for c in self.chunks])
        buckets = [np.flatnonzero(lengths == size) for size in np.unique(lengths)]
        inverse = np.empty_like(self.order)
        inverse[self.order] = np.arange(self.length)
        tile_edge = np.zeros(self.length, int)
        tile_edge[[edge for tile in self.query_tiles() for edge in tile if edge < self.length]] = 1
        return TableTensors(
            order=on(self.order),
            inverse=on(inverse),
            starts=on(starts),
            lengths=on(lengths),
            chunk_shot=on([c.shot for c in self.chunks]),
            linked=on([c.linked for c in self.chunks], torch.bool),
            routable=on([c.routable for c in self.chunks], torch.bool),
            chunk_of=on(np.repeat(np.arange(len(self.chunks)), lengths)),
            row_group=on(np.repeat(np.arange(len(self.groups)), [g.stop - g.start for g in self.groups])),
            row_frame=on(self.frames),
            group_own=on([g.own for g in self.groups]).reshape(-1, 2),
            group_shot=on([g.shot for g in self.groups]),
            group_routed=on([g.routed for g in self.groups], torch.bool),
            buckets=tuple(on(starts[b, None] + np.arange(lengths[b[0]])) for b in buckets),
            bucket_place=on(np.argsort(np.concatenate(buckets))),
            row_tile=on(tile_edge.cumsum()),
            near=None if self.near is None else on(self.near, torch.bool),
        )
