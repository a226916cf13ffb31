"""Geometry of one table as the kernels read it: int32 tensors on the device, made once, nothing from q, k or v."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...chunks.table import ChunkTable, QueryGroup
from ...config import RoutingConfig
from .dataflow import Geometry
from .tiles import Blocks, Tiles, cut_up, make_tiles

if TYPE_CHECKING:
    from .attend.own_calls import Alike
    from .select.topk_filter_sm90 import Sample


@dataclass(frozen=True)
class Pieces:
    """Chunks that may be listed, cut into pieces of at most `size` (a power of two) tokens."""

    start: Tensor  # [P]
    length: Tensor  # [P]
    chunk: Tensor  # [P]
    of_chunk: Tensor | None  # [C] the piece that a chunk is, -1: none; None where some chunk is more than one
    size: int
    count: int


@dataclass(frozen=True)
class Run:
    """`groups` consecutive query groups of `length` rows from row `first`. A group sees its own tokens: group g those
    from start + g * length on; `tokens` of them."""

    first: int
    length: int
    groups: int
    start: int
    tokens: int


@dataclass(frozen=True)
class FrameParts:
    """Video rows by frame, in parts of at most FRAME_PART rows of one frame.

    part  [3, P]: first, stop, frame. Rows where those of a frame stand in a row, else places in `rows`
    """

    part: Tensor
    rows: Tensor
    in_a_row: bool
    count: int


FRAME_PART = 2048
STEP = 128  # summaries that `tail` takes at a time, at most


@dataclass(eq=False)
class DeviceTable:
    """What the kernels need of a table and a routing on one device."""

    table: ChunkTable
    device: torch.device
    top_k: int
    chunks: int
    words: int  # 32 chunks a word
    chunk: Tensor  # [4, C]: start, length, shot, may be chosen
    row: Tensor  # [3, N]: own chunks [first, last), shot
    weight: Tensor  # [C and up to a whole step more] log2 of the length, -inf where the chunk may not be chosen
    linked: list[tuple[int, int]]
    geometry: Geometry
    _tiles: dict[tuple[int, str], Tiles] = field(default_factory=dict)
    _pieces: dict[tuple[int, bool], Pieces] = field(default_factory=dict)
    _blocks: dict[tuple[int, str, int], Blocks] = field(default_factory=dict)
    _max_shots: dict[int, Tensor] = field(default_factory=dict)
    _runs: list[Run] | None = None
    alike: list[Alike] | None = None  # of `own_calls`
    _joined: dict[Run, Tensor] = field(default_factory=dict)
    _frame_parts: FrameParts | None = None
    _row_frames: tuple[Tensor, int, int] | None = None
    sample: Sample | None = None
    items: dict[tuple[int, int, bool], Tensor] = field(default_factory=dict)  # of `autograd.seen_items`

    @property
    def length(self) -> int:
        return self.table.length

    @property
    def longest(self) -> int:
        return self.geometry.longest

    @property
    def typical(self) -> float:
        return self.geometry.typical

    @property
    def group_rows(self) -> float:
        return self.geometry.group_rows

    def own_tokens(self, group: QueryGroup) -> tuple[int, int]:
        chunks = self.table.chunks
        if group.own[0] == group.own[1]:
            return group.start, group.start
        return chunks[group.own[0]].start, chunks[group.own[1] - 1].stop

    def ranges(self, group: QueryGroup, own: bool = True) -> list[tuple[int, int]]:
        """Token ranges that every row of the group sees, none twice. Without `own`: those that are not its own."""
        a, b = self.own_tokens(group)
        return sorted([(a, b)] * (own and a < b) + self.linked_beside(a, b))

    def linked_beside(self, a: int, b: int) -> list[tuple[int, int]]:
        """Linked token ranges without what lies in [a, b)."""
        parts = [part for low, high in self.linked for part in ((low, min(high, a)), (max(low, b), high))]
        return [(low, high) for low, high in parts if low < high]

    def tiles(self, rows: int, which: str) -> Tiles:
        """Tiles of at most `rows` rows.

        "all"                        all rows, across borders, without ranges
        "routed", "unrouted"         tiles of those groups, never across a border of groups, with their ranges
        "small"                      routed rows across borders, with the linked ranges only
        "shared"                     the table's query tiles, whose rows share a list
        "LOW:HIGH"                   the groups between those rows, with the ranges that are not their own
        """
        key = rows, which
        if key not in self._tiles:
            self._tiles[key] = make_tiles(self, rows, which)
        return self._tiles[key]

    def blocks(self, rows: int, which: str, size: int) -> Blocks:
        """The ranges of `tiles(rows, which)`, cut up."""
        key = rows, which, size
        if key not in self._blocks:
            self._blocks[key] = cut_up(self, self.tiles(rows, which), size)
        return self._blocks[key]

    def pieces(self, size: int, own: bool) -> Pieces:
        """Pieces of the chunks that can be chosen and, with `own`, of those that are only ever seen as a row's own."""
        key = size, own
        if key not in self._pieces:
            start, length, chunk = [], [], []
            for index, c in enumerate(self.table.chunks):
                if not c.linked and (c.routable or own):
                    low = np.arange(c.start, c.stop, size)
                    start.append(low)
                    length.append(np.minimum(c.stop - low, size))
                    chunk.append(np.full(len(low), index))
            count = sum(map(len, start))
            flat = [np.concatenate(x) if count else np.zeros(1, int) for x in (start, length, chunk)]
            starts, lengths, chunks = map(self.on_device, flat)
            of_chunk = np.full(self.chunks, -1)
            of_chunk[flat[2][:count]] = np.arange(count)
            whole = all(len(x) == 1 for x in start)
            self._pieces[key] = Pieces(
                starts, lengths, chunks, self.on_device(of_chunk) if whole else None, size, count
            )
        return self._pieces[key]

    def max_shot_per_block(self, size: int) -> Tensor:
        """Of every block of `size` chunks, where all may be chosen by somebody, else 2**31 - 1."""
        if size not in self._max_shots:
            chunks = self.table.chunks
            out = []
            for low in range(0, len(chunks), size):
                some = chunks[low : low + size]
                free = len(some) == size and all(c.routable and not c.linked for c in some)
                out.append(max(c.shot for c in some) if free else 2**31 - 1)
            self._max_shots[size] = self.on_device(np.array(out))
        return self._max_shots[size]

    def runs(self) -> list[Run]:
        """Routed rows as few dense attention calls: equal neighbouring groups that own just their rows go together."""
        if self._runs is None:
            runs: list[Run] = []  # another thread may look while it grows
            for g in self.table.groups:
                if not g.routed:
                    continue
                length, (a, b) = g.stop - g.start, self.own_tokens(g)
                last = runs[-1] if runs else None
                alike = last is not None and length == last.length == last.tokens == b - a and last.first == last.start
                if last is not None and alike and a == g.start == last.first + last.groups * length:
                    runs[-1] = Run(last.first, length, last.groups + 1, last.first, length)
                else:
                    runs.append(Run(g.start, length, 1, a, b - a))
            self._runs = runs
        return self._runs

    def joined(self, run: Run, linked: list[tuple[int, int]]) -> Tensor:
        """Tokens [groups * J] that the groups of a run see: what is linked beside it, then what each owns."""
        if run not in self._joined:
            beside = [np.arange(low, high) for low, high in linked]
            first = [run.start + g * run.length for g in range(run.groups)]
            self._joined[run] = self.on_device(
                np.concatenate([part for low in first for part in (*beside, np.arange(low, low + run.tokens))])
            )
        return self._joined[run]

    def row_frames(self) -> tuple[Tensor, int, int]:
        """(grid frame of every row [N], the number of frames where it is no video; frames + 1, most rows of one)."""
        if self._row_frames is None:
            frames = self.table.layout.grid[0]
            frame = np.where(self.table.frames < 0, frames, self.table.frames)
            self._row_frames = self.on_device(frame), frames + 1, int(np.bincount(frame).max())
        return self._row_frames

    def frame_parts(self) -> FrameParts:
        if self._frame_parts is None:
            frames = self.table.frames
            rows = np.argsort(frames, kind="stable")
            edge = np.searchsorted(frames[rows], np.arange(self.table.layout.grid[0] + 1))
            first, last = rows[edge[:-1]], rows[edge[1:] - 1]
            in_a_row = bool((last - first == np.diff(edge) - 1).all())
            cut = [
                (low, min(low + FRAME_PART, stop), frame)
                for frame, (start, stop) in enumerate(zip(edge[:-1], edge[1:], strict=True))
                for low in range(start, stop, FRAME_PART)
            ]
            part = np.array(cut).T
            if in_a_row:
                part[:2] += (first - edge[:-1])[part[2]]
            self._frame_parts = FrameParts(self.on_device(part), self.on_device(rows), in_a_row, part.shape[1])
        return self._frame_parts

    def on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)).to(self.device)


_lock = threading.Lock()


def device_table_of(table: ChunkTable, routing: RoutingConfig, device: torch.device) -> DeviceTable:
    """The plan of a table with places for as many choices as the k best make."""
    return device_table_for(table, table.top_k(routing), device)


def device_table_for(table: ChunkTable, top_k: int, device: torch.device) -> DeviceTable:
    """The same for a number of choices; made once per device and number, and kept with the table."""
    key = top_k, str(device)
    with _lock, torch.inference_mode(False):
        if key not in table.plans:
            table.plans[key] = _make(table, top_k, device)
        return table.plans[key]


def _make(table: ChunkTable, top_k: int, device: torch.device) -> DeviceTable:
    chunks = table.chunks
    free = [c.routable and not c.linked for c in chunks]
    size = np.array([g.stop - g.start for g in table.groups])
    # rows that see everything own every chunk, so that nothing is left to choose
    group = np.array([(*g.own, g.shot) if g.routed else (0, len(chunks), -1) for g in table.groups])
    linked: list[tuple[int, int]] = []
    for c in chunks:
        if c.linked and linked and linked[-1][1] == c.start:
            linked[-1] = (linked[-1][0], c.stop)
        elif c.linked:
            linked.append((c.start, c.stop))
    routed_rows = [g.stop - g.start for g in table.groups if g.routed]
    top_k = min(top_k, sum(free))
    longest = max((c.length for c, f in zip(chunks, free, strict=True) if f), default=0)
    # 0 where some own nothing: there is nothing that an attention library or whole blocks of rows could take for them
    group_rows = float(np.mean(routed_rows)) if routed_rows and not table.owns_nothing else 0.0
    plan = DeviceTable(
        table=table,
        device=device,
        top_k=top_k,
        chunks=len(chunks),
        words=-(-len(chunks) // 32),
        chunk=torch.empty(0),
        row=torch.empty(0),
        weight=torch.empty(0),
        linked=linked,
        geometry=Geometry(len(chunks), sum(free), top_k, longest, table.mean_chunk, group_rows),
    )
    columns = [(c.start, c.length, c.shot, f) for c, f in zip(chunks, free, strict=True)]
    plan.chunk = plan.on_device(np.array(columns).T)
    weight = np.full(-(-len(chunks) // STEP) * STEP, -np.inf, dtype=np.float32)
    weight[: len(chunks)] = [np.log2(c.length) if f else -np.inf for c, f in zip(chunks, free, strict=True)]
    plan.weight = torch.from_numpy(weight).to(device)
    plan.row = plan.on_device(np.repeat(group, size, axis=0).T)
    return plan
