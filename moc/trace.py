"""What one sampling run routed where, and what ran dense and why. Small, on the CPU, bounded."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from .chunks import ChunkTable

MOST_COLUMNS = 512
MOST_BYTES = 256 * 2**20


class Reason(Enum):
    """Why a self-attention call ran dense, in the words the user reads."""

    SCHEDULE = "outside the part of the sampling that MoC is on for (start/end percent)"
    BLOCK = "block kept dense (dense first/last blocks)"
    SHORT = "shorter than min_tokens, where dense attention is as fast"
    ONE_FRAME = "a single latent frame: nothing to route"
    NO_CHOICE = "every chunk is always seen with these settings: nothing to route"
    MASK = "the model passed an attention mask"
    LENGTH = "the number of tokens does not fit the video's grid"
    MODEL = "MoC does not know this model's tokens"
    MEMORY = "out of memory while routing"
    FAILED = "the routed attention failed"


@dataclass(frozen=True)
class Column:
    """One column of a record: a chunk, or the chunks of one frame group where there are too many."""

    kind: str
    shot: int
    frame: int  # absolute latent frame it begins in, -1 outside the video
    linked: bool


@dataclass(frozen=True)
class Axes:
    """rows: absolute latent frame and shot of every query frame; columns; always [F, K]: seen without being chosen."""

    frames: tuple[int, ...]
    shots: tuple[int, ...]
    columns: tuple[Column, ...]
    always: Tensor


@dataclass(frozen=True)
class Record:
    """share [H or 1, F, K]: part of a frame's query tokens that chose a column, mean over its chunks and the batch."""

    step: int
    block: int
    axes: Axes
    share: Tensor
    density: float


class Counts:
    """Collects one attention call on its device: give it to `moc_attention(record=...)`."""

    def __init__(self, table: ChunkTable, heads: int, device: torch.device, batch: int = 1) -> None:
        self.table = table
        self._tensors = table.tensors(device)
        frames = table.layout.grid[0]
        self._count = torch.zeros(heads, frames + 1, len(table.chunks), device=device)  # last row: not video
        self._batch = batch

    def add_frames(self, count: Tensor) -> None:
        """count [H, F + 1, C]: how many query tokens of a frame, over the whole batch, chose a chunk. Last row: not
        video. For backends that count while they route; needs `batch` to have been told."""
        self._count += count

    def add(self, rows: slice, chosen: Tensor) -> None:
        """chosen [B, H, R, C] for sorted rows."""
        self._batch = chosen.shape[0]
        self._count.index_add_(1, self._tensors.row_frame[rows] % self._count.shape[1], chosen.sum(0).float())

    def result(self) -> tuple[Tensor, Tensor]:
        """(share [H, F, K], routed share of all pairs []), still on the device."""
        t = self._tensors
        heads, tokens = self._count.shape[0], self.table.layout.frame_tokens
        routed = (self._count.sum((0, 1)) * t.lengths).sum() / (self._batch * heads * self.table.length**2)
        share = self._count[:, :-1] / (tokens * self._batch)
        column = _column_of_chunk(self.table)
        width = column[-1] + 1
        if width < len(column):
            index = torch.tensor(column, device=share.device)
            size = torch.bincount(index, minlength=width)
            share = share.new_zeros(*share.shape[:-1], width).index_add_(-1, index, share) / size
        return share, routed


@dataclass
class Trace:
    """Filled while sampling, read by the heatmap. One object per MoC Apply node; every run starts it anew."""

    records: list[Record] = field(default_factory=list)
    dense: Counter[Reason] = field(default_factory=Counter)
    routed: int = 0
    notes: list[str] = field(default_factory=list)
    steps: int = 0
    blocks: int = 0
    _pending: list[tuple] = field(default_factory=list, repr=False)
    _axes: dict[int, tuple[ChunkTable, Axes, float]] = field(default_factory=dict, repr=False)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self) -> None:
        """Forget the last run."""
        with self._lock:
            for part in (self.records, self.dense, self.notes, self._pending, self._axes):
                part.clear()
            self.routed = self.steps = self.blocks = self._bytes = 0

    def note(self, text: str) -> None:
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    def ran_dense(self, reason: Reason) -> None:
        with self._lock:
            self.dense[reason] += 1

    def ran_routed(self, step: int, block: int, counts: Counts) -> None:
        """Keep a call's counts. Nothing is moved to the CPU before `flush`."""
        with self._lock:
            self.routed += 1
            self._pending.append((step, block, counts.table, *counts.result()))

    def flush(self) -> None:
        """Move what is pending to the CPU; once per forward pass, so that the device is waited for only once."""
        with self._lock:
            pending, self._pending = self._pending, []
            for step, block, table, share, routed in pending:
                if id(table) not in self._axes:
                    self._axes[id(table)] = (table, axes_of(table), table.density(0, False))
                _, axes, mandatory = self._axes[id(table)]
                if self._bytes + share.numel() * 2 > MOST_BYTES:
                    share = share.mean(0, keepdim=True)  # heads together once the budget is used up
                share = share.to("cpu", torch.float16)
                self._bytes += share.numel() * 2
                self.records.append(Record(step, block, axes, share, mandatory + float(routed)))
                self.steps, self.blocks = max(self.steps, step + 1), max(self.blocks, block + 1)

    def finish(self) -> None:
        """End of a run: keep the records, let go of the geometry (and of its tensors on the device)."""
        with self._lock:
            self._pending.clear()
            self._axes.clear()

    @property
    def density(self) -> float:
        """Mean kept share of (query, key) pairs over the routed calls."""
        return sum(r.density for r in self.records) / len(self.records) if self.records else 1.0

    def report(self) -> str:
        """What happened, for a person."""
        if not self.routed and not self.dense:
            return "MoC: nothing sampled yet. Connect the sampler's LATENT so that this node runs after it."
        total = self.routed + sum(self.dense.values())
        lines = [f"MoC on: {self.routed} of {total} self-attention calls routed, {self.density:.1%} of pairs kept."]
        lines += [f"{count} dense: {reason.value}." for reason, count in self.dense.most_common()]
        return "\n".join(lines + [f"Note: {note}." for note in self.notes])


def axes_of(table: ChunkTable) -> Axes:
    """Row and column labels of a table's records."""
    absolute = table.layout.frames
    column = _column_of_chunk(table)
    columns: list[Column] = []
    for index, chunk in zip(column, table.chunks, strict=True):
        if index == len(columns):
            frame = absolute[chunk.frame] if chunk.frame >= 0 else -1
            columns.append(Column(chunk.kind, chunk.shot, frame, chunk.linked))
    always = torch.zeros(len(absolute), len(columns), dtype=torch.bool)
    frame_shot = [0] * len(absolute)
    for group in table.groups:
        if not group.routed:
            continue
        seen = {column[i] for i in range(*group.own)} | {column[i] for i, c in enumerate(table.chunks) if c.linked}
        for frame in {int(f) for f in table.frames[group.start : group.stop]}:
            always[frame, sorted(seen)] = True
            frame_shot[frame] = group.shot
    return Axes(absolute, tuple(frame_shot), tuple(columns), always)


def _column_of_chunk(table: ChunkTable) -> list[int]:
    """Column of every chunk: itself, or with too many chunks the frame group (or span) it belongs to."""
    if len(table.chunks) <= MOST_COLUMNS:
        return list(range(len(table.chunks)))
    columns: list[int] = []
    last = None
    for chunk in table.chunks:
        key = (chunk.kind, chunk.start) if chunk.frame < 0 else (chunk.kind, chunk.frame)
        columns.append(columns[-1] + (key != last) if columns else 0)
        last = key
    return columns
