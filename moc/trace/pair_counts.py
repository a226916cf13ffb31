"""What one attention call chose, counted on its device while it routes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..chunks.table import ChunkTable
from .attention_mass import chunk_mass
from .axes import Axes, axes_of, column_of_chunk

MASS_ROWS = 8  # query tokens of a frame whose attention is measured


@dataclass(frozen=True)
class Geometry:
    """A table's axes, and on one device what its chunks are added up into: tokens of every column [K], column of every
    chunk [C] (None: itself)."""

    table: ChunkTable  # keeps its id taken
    axes: Axes
    mandatory: float
    tokens: Tensor
    column: Tensor | None

    @staticmethod
    def of(table: ChunkTable, causal: bool, device: torch.device) -> Geometry:
        axes, column = axes_of(table, causal), column_of_chunk(table)
        tokens = torch.tensor([c.tokens for c in axes.columns], dtype=torch.float32, device=device)
        index = torch.tensor(column, dtype=torch.int32, device=device) if len(axes.columns) < len(column) else None
        return Geometry(table, axes, table.density(0, False), tokens, index)


@dataclass(frozen=True)
class PartCounts:
    """Of heads with chunks of their own. pairs [heads, F, K]; shared [C, K]: tokens of the table's chunks in every
    column."""

    pairs: Tensor
    table: ChunkTable
    shared: Tensor

    def of(self, heads: slice) -> PartCounts:
        return replace(self, pairs=self.pairs[heads])

    def forget(self) -> None:
        self.pairs.zero_()

    def add(self, rows: slice, chosen: Tensor) -> None:
        """chosen [1, heads, R, C] for sorted rows."""
        video = self.table.frames[rows]
        frames = torch.arange(max(int(video.min()), 0), int(video.max()) + 1, device=chosen.device)
        of_frame = (self.table.tensors(chosen.device).row_frame[rows] == frames[:, None]).float()
        with without_autocast(chosen.device):
            counted = of_frame @ chosen[0].float() @ self.shared
        self.pairs[:, frames] += counted


class Counts:
    """Collects one attention call on its device: give it to `moc_attention(record=...)`.

    What is counted are (query, key) pairs that were chosen, by frame and column, over the batch.
    """

    def __init__(
        self, table: ChunkTable, heads: int, device: torch.device, batch: int = 1, causal: bool = False,
        geometry: Geometry | None = None,
    ) -> None:  # fmt: skip
        self.geometry = geometry or Geometry.of(table, causal, device)
        self._pairs = torch.zeros(heads, table.layout.grid[0], len(self.geometry.tokens), device=device)
        self._batch = batch
        self._mass: Tensor | None = None  # [H, F, K]

    @staticmethod
    def together(parts: Sequence[Counts]) -> Counts:
        """Of one call whose heads, in this order, were counted apart."""
        whole = copy.copy(parts[0])
        whole._pairs = torch.cat([part._pairs for part in parts])
        masses = [part._mass for part in parts if part._mass is not None]
        whole._mass = torch.cat(masses) if masses else None
        return whole

    def of(self, heads: slice) -> Counts:
        """For a call with some of the heads: what it counts is counted here too."""
        some = copy.copy(self)
        some._pairs = self._pairs[heads]
        return some

    def part(self, heads: list[int], table: ChunkTable) -> PartCounts:
        """What counts for heads with chunks of their own; `take` it afterwards."""
        shared = torch.zeros(len(table.chunks), len(self.geometry.tokens), device=self._pairs.device)
        mine, usual = (of.tensors(shared.device) for of in (table, self.geometry.table))
        chunk = usual.chunk_of[usual.inverse[mine.order]]
        column = chunk if self.geometry.column is None else self.geometry.column.long()[chunk]
        shared.index_put_((mine.chunk_of, column), shared.new_ones(()), accumulate=True)
        return PartCounts(torch.zeros_like(self._pairs[heads]), table, shared)

    def take(self, part: PartCounts, heads: list[int], batch: int) -> None:
        """Of one of `batch` samples."""
        self._batch = batch
        self._pairs[heads] += part.pairs

    def frame_pairs(self, heads: int) -> tuple[Tensor, Tensor | None]:
        """For backends that count while they route: what to add pairs to [H, F, K], and the column of every chunk
        [C] int32, None where a chunk is a column. Needs `batch` to have been told."""
        return self._pairs, self.geometry.column

    def add(self, rows: slice, chosen: Tensor) -> None:
        """chosen [B, H, R, C] for sorted rows."""
        table, column = self.geometry.table, self.geometry.column
        self._batch = chosen.shape[0]
        video = table.frames[rows]
        low, high = max(int(video.min()), 0), int(video.max()) + 1  # -1: not video, chooses nothing
        # as a product with "which row is of which frame": ten times as fast on a CPU as adding row by row
        tensors = table.tensors(chosen.device)
        of_frame = (tensors.row_frame[rows] == torch.arange(low, high, device=chosen.device)[:, None]).float()
        with without_autocast(chosen.device):  # which would round the counts
            counted = of_frame @ chosen.flatten(0, 1).float()
        pairs = counted.unflatten(0, chosen.shape[:2]).sum(0) * tensors.lengths
        if column is None:
            self._pairs[:, low:high] += pairs
        else:
            self._pairs[:, low:high].index_add_(-1, column, pairs)

    def measure(self, q: Tensor, k: Tensor, scale: float | None) -> None:
        """Where full attention would look, on a few query tokens of every frame. q, k [B, H, N, D], model's order."""
        table, column = self.geometry.table, self.geometry.column
        layout = table.layout
        inside = torch.linspace(0, layout.frame_tokens - 1, min(MASS_ROWS, layout.frame_tokens)).round().long()
        rows = layout.video_start + torch.arange(layout.grid[0])[:, None] * layout.frame_tokens + inside
        rows = rows.flatten().to(q.device, non_blocking=True)
        keys = k if table.identity else k.index_select(-2, table.tensors(k.device).order)
        mass = chunk_mass(q.index_select(-2, rows), keys, table, scale=scale)
        mass = mass.float().unflatten(-2, (layout.grid[0], -1)).mean((0, 3))
        if column is not None:
            mass = mass.new_zeros(self._pairs.shape).index_add_(-1, column, mass)
        self._mass = mass

    def result(self) -> tuple[Tensor, Tensor]:
        """(chosen and, where measured, mass [1 or 2, H, F, K], routed part of all pairs []), still on the device.

        Parts and not counts: the trace keeps half precision, which ends at 65,504 pairs.
        """
        table, tokens = self.geometry.table, self.geometry.tokens
        routed = self._pairs.sum() / (self._batch * self._pairs.shape[0] * table.length**2)
        chosen = self._pairs / (tokens * (table.layout.frame_tokens * self._batch))
        return torch.stack([chosen, *([] if self._mass is None else [self._mass])]), routed
