"""Content-aligned variable-length chunks, and the token order that makes every chunk one contiguous run."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .config import RoutingConfig
from .layout import TokenLayout
from .shots import shot_of

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
class Group:
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


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """Chunks and query groups of one layout. Sorted order: what stands before the video, the video by
    (shot, frames, tile), what stands after it. Build with `build_table`."""

    layout: TokenLayout
    starts: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    groups: tuple[Group, ...]
    order: np.ndarray
    frames: np.ndarray  # [N] grid frame of every sorted token
    identity: bool  # sorted order is the sequence's own order: nothing has to be moved
    _cache: dict[str, TableTensors] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def length(self) -> int:
        return self.layout.length

    @property
    def mean_chunk(self) -> float:
        """Mean length of the chunks that can be chosen, in tokens."""
        lengths = [c.length for c in self.chunks if c.routable]
        return sum(lengths) / len(lengths) if lengths else 0.0

    def mandatory(self, group: Group) -> list[tuple[int, int]]:
        """Token ranges (sorted order) that every row of the group sees, merged and rising."""
        ranges: list[tuple[int, int]] = []
        for index, chunk in enumerate(self.chunks):
            if chunk.linked or group.own[0] <= index < group.own[1]:
                if ranges and ranges[-1][1] == chunk.start:
                    ranges[-1] = (ranges[-1][0], chunk.stop)
                else:
                    ranges.append((chunk.start, chunk.stop))
        return ranges

    def candidates(self, group: Group, causal: bool) -> list[int]:
        """Chunks that rows of the group may choose from (before any outer loop)."""
        if not group.routed:
            return []
        return [
            i
            for i, c in enumerate(self.chunks)
            if c.routable
            and not (c.linked or group.own[0] <= i < group.own[1])
            and not (causal and c.shot > group.shot)
        ]

    def density(self, top_k: int, causal: bool) -> float:
        """Kept share of all (query, key) pairs when every row takes top_k chunks of mean length."""
        rows, mandatory, choices, tokens = self._totals(causal)
        chosen = np.minimum(choices, top_k) * tokens / np.maximum(choices, 1)
        return float((rows * (mandatory + chosen)).sum()) / self.length**2

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
        """routing.top_k, or the k whose density comes nearest to routing.density."""
        if routing.density is None:
            return routing.top_k
        low, high = 0, len(self.chunks)
        while low < high:  # density rises with k
            middle = (low + high) // 2
            if self.density(middle, routing.causal) < routing.density:
                low = middle + 1
            else:
                high = middle
        below = max(low - 1, 0)
        gap = [abs(self.density(k, routing.causal) - routing.density) for k in (below, low)]
        return below if gap[0] <= gap[1] else low

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
        )


def tile_shape(grid: tuple[int, int, int], routing: RoutingConfig) -> tuple[int, int, int]:
    """Chunk size (frames, rows, columns) in tokens.

    A wanted size of a frame or more becomes whole frames; a smaller one becomes tiles of one frame, as square and as
    near to the wanted size as whole rows and columns allow.
    """
    _, height, width = grid
    if routing.tile is not None:
        t, h, w = routing.tile
        return t, min(h, height), min(w, width)
    frame = height * width
    if routing.chunk_tokens is None or routing.chunk_tokens >= frame:
        return max(1, round((routing.chunk_tokens or frame) / frame)), height, width
    pieces = max(1, round(frame / routing.chunk_tokens))

    def cost(rows: int, columns: int) -> tuple[float, float]:
        h, w = height / rows, width / columns
        return abs(rows * columns - pieces) / pieces + 0.25 * abs(np.log2(h / w)), rows * columns

    options = [(r, c) for r in range(1, min(height, 2 * pieces) + 1) for c in range(1, min(width, 2 * pieces) + 1)]
    options = [(r, c) for r, c in options if pieces / 2 <= r * c <= 2 * pieces] or options
    rows, columns = min(options, key=lambda rc: cost(*rc))
    return 1, -(-height // rows), -(-width // columns)


def _edges(length: int, size: int) -> np.ndarray:
    """Index of the piece that each of `length` positions falls into, pieces as equal as they can be."""
    pieces = -(-length // size)
    return np.arange(length) * pieces // length if pieces else np.zeros(0, int)


def build_table(layout: TokenLayout, starts: tuple[int, ...], routing: RoutingConfig) -> ChunkTable:
    """Cut a sequence into chunks.

    starts   first absolute latent frame of every shot, starting with 0 (`Shots.starts`)
    Chunks never cross a border between shots or kinds of token (section 3.2).
    """
    frames_t, height, width = layout.grid
    shots = np.array([shot_of(f, starts) for f in layout.frames])
    by_shot = np.lexsort((np.array(layout.frames), shots))  # context windows may wrap around: bring shots together
    tile_t, tile_h, tile_w = tile_shape(layout.grid, routing)

    slab = np.empty(frames_t, int)  # time slab of each grid frame, numbered in sorted order
    slab_frames: list[list[int]] = []
    for shot in dict.fromkeys(shots[by_shot]):
        members = [int(f) for f in by_shot if shots[f] == shot]
        runs = [members[:1], members[1:]] if routing.static == "first frame" and tile_t > 1 else [members]
        for run in runs:
            pieces = _edges(len(run), tile_t)
            for piece in range(int(pieces[-1]) + 1 if len(run) else 0):
                slab_frames.append([f for f, p in zip(run, pieces, strict=True) if p == piece])
                slab[slab_frames[-1]] = len(slab_frames) - 1

    rows, columns = _edges(height, tile_h), _edges(width, tile_w)
    if routing.tile is not None:  # a named tile keeps its size; only the last one in a row is cut short
        rows, columns = np.arange(height) // tile_h, np.arange(width) // tile_w
    tiles = (int(rows[-1]) + 1) * (int(columns[-1]) + 1)
    # +1: place 0 of every slab is for the shot's first tokens, when these are a memory of their own
    cell = slab[:, None, None] * (tiles + 1) + 1 + rows[None, :, None] * (int(columns[-1]) + 1) + columns[None, None, :]
    cell = np.broadcast_to(cell, layout.grid).reshape(frames_t, -1).copy()
    first_slabs = {int(slab[by_shot[np.flatnonzero(shots[by_shot] == s)[0]]]) for s in set(shots)}
    if routing.static == "first tokens":
        for index in first_slabs:
            frame = slab_frames[index][0]
            cell[frame, : routing.static_tokens] = index * (tiles + 1)

    flat = cell.reshape(-1)
    video = np.argsort(flat, kind="stable")
    cells, counts = np.unique(flat, return_counts=True)

    before = [s for s in layout.spans if s.start < layout.video_start]
    after = [s for s in layout.spans if s.start >= layout.video_start]
    chunks: list[Chunk] = []
    position = 0

    def add(kind: str, length: int, **facts: object) -> None:
        nonlocal position
        chunks.append(Chunk(kind, position, position + length, **facts))  # type: ignore[arg-type]
        position += length

    def add_span(span) -> None:
        routed = span.kind not in ("text", "audio") and routing.references == "routed"
        if span.stop > span.start:
            add(span.kind, span.stop - span.start, linked=not routed, routable=routed)

    for span in sorted(before, key=lambda s: s.start):
        add_span(span)
    first_video = len(chunks)
    chunk_slab = []
    for index, count in zip(cells, counts, strict=True):
        number, place = divmod(int(index), tiles + 1)
        frame = slab_frames[number][0]
        static = place == 0 or (routing.static == "first frame" and number in first_slabs)
        chunk_slab.append(number)
        add("video", int(count), shot=int(shots[frame]), frame=frame, linked=static, routable=not static)
    last_video = len(chunks)
    for span in sorted(after, key=lambda s: s.start):
        add_span(span)

    order = np.concatenate(
        [np.arange(0, layout.video_start), layout.video_start + video, np.arange(layout.video_stop, layout.length)]
    )
    frames = np.full(layout.length, -1)
    inside = (order >= layout.video_start) & (order < layout.video_stop)
    frames[inside] = (order[inside] - layout.video_start) // layout.frame_tokens
    groups = _groups(tuple(chunks), first_video, last_video, np.array(chunk_slab), tile_t, routing)
    identity = bool((order[1:] > order[:-1]).all())  # a plain bool, so that a compiler need not trace numpy
    return ChunkTable(layout, starts, tuple(chunks), groups, order, frames, identity)


def _groups(
    chunks: tuple[Chunk, ...], first: int, last: int, slab: np.ndarray, tile_frames: int, routing: RoutingConfig
) -> tuple[Group, ...]:
    """Query groups. Rows that are not video (text, references) see everything."""
    everything = (0, len(chunks))
    groups = [Group(c.start, c.stop, everything, routed=False) for c in chunks[:first]]
    shot = np.array([c.shot for c in chunks[first:last]])
    unit = {"shot": shot, "frame": slab, "chunk": np.arange(last - first)}[routing.own]
    for value in dict.fromkeys(unit.tolist()):
        members = np.flatnonzero(unit == value)
        own = members
        if routing.own == "frame" and routing.window:
            near = (abs(slab - value) <= -(-routing.window // tile_frames)) & (shot == shot[members[0]])
            own = np.flatnonzero(near)
        own_range = (first + int(own[0]), first + int(own[-1]) + 1)
        start, stop = chunks[first + members[0]].start, chunks[first + members[-1]].stop
        groups.append(Group(start, stop, own_range, int(shot[members[0]])))
    groups += [Group(c.start, c.stop, everything, routed=False) for c in chunks[last:]]
    return tuple(groups)
