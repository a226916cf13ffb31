"""Cuts a sequence into content-aligned chunks of variable length."""

from __future__ import annotations

import numpy as np

from ..config import Links, Partition, RoutingConfig
from ..shots.cuts import shot_of
from .layout import TokenLayout
from .table import Chunk, ChunkTable, QueryGroup


def tile_shape(grid: tuple[int, int, int], partition: Partition) -> tuple[int, int, int]:
    """Chunk size (frames, rows, columns) in tokens.

    A wanted size of a frame or more becomes whole frames; a smaller one becomes tiles of one frame, as square and as
    near to the wanted size as whole rows and columns allow.
    """
    _, height, width = grid
    if isinstance(partition.tile, tuple):
        t, h, w = partition.tile
        return t, min(h, height), min(w, width)
    frame = height * width
    if partition.chunk_tokens is None or partition.chunk_tokens >= frame:
        return max(1, round((partition.chunk_tokens or frame) / frame)), height, width
    pieces = max(1, round(frame / partition.chunk_tokens))

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


def build_chunks(layout: TokenLayout, starts: tuple[int, ...], routing: RoutingConfig) -> ChunkTable:
    """Cut a sequence into chunks.

    starts   first absolute latent frame of every shot, starting with 0 (`Shots.starts`)
    Chunks never cross a border between shots or kinds of token (section 3.2).
    """
    frames_t, height, width = layout.grid
    shots = np.array([shot_of(f, starts) for f in layout.frames])
    by_shot = np.lexsort((np.array(layout.frames), shots))  # context windows may wrap around: bring shots together
    partition, links = routing.on(layout.grid).geometry
    tile_t, tile_h, tile_w = tile_shape(layout.grid, partition)

    slab = np.empty(frames_t, int)  # time slab of each grid frame, numbered in sorted order
    slab_frames: list[list[int]] = []
    for shot in dict.fromkeys(shots[by_shot]):
        members = [int(f) for f in by_shot if shots[f] == shot]
        runs = [members[:1], members[1:]] if links.static == "first frame" and tile_t > 1 else [members]
        for run in runs:
            pieces = _edges(len(run), tile_t)
            for piece in range(int(pieces[-1]) + 1 if len(run) else 0):
                slab_frames.append([f for f, p in zip(run, pieces, strict=True) if p == piece])
                slab[slab_frames[-1]] = len(slab_frames) - 1

    rows, columns = _edges(height, tile_h), _edges(width, tile_w)
    if partition.tile is not None:  # a named tile keeps its size; only the last one in a row is cut short
        rows, columns = np.arange(height) // tile_h, np.arange(width) // tile_w
    tiles = (int(rows[-1]) + 1) * (int(columns[-1]) + 1)
    # +1: place 0 of every slab is for the shot's first tokens, when these are a memory of their own
    cell = slab[:, None, None] * (tiles + 1) + 1 + rows[None, :, None] * (int(columns[-1]) + 1) + columns[None, None, :]
    cell = np.broadcast_to(cell, layout.grid).reshape(frames_t, -1).copy()
    first_slabs = {int(slab[by_shot[np.flatnonzero(shots[by_shot] == s)[0]]]) for s in set(shots)}
    if links.static == "first tokens":
        for index in first_slabs:
            frame = slab_frames[index][0]
            cell[frame, : links.static_tokens] = index * (tiles + 1)

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
        routed = span.kind not in ("text", "audio") and links.references == "routed"
        if span.stop > span.start:
            add(span.kind, span.stop - span.start, linked=not routed, routable=routed)

    for span in sorted(before, key=lambda s: s.start):
        add_span(span)
    first_video = len(chunks)
    chunk_slab = []
    for index, count in zip(cells, counts, strict=True):
        number, place = divmod(int(index), tiles + 1)
        frame = slab_frames[number][0]
        static = place == 0 or (links.static == "first frame" and number in first_slabs)
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
    groups = _groups(tuple(chunks), first_video, last_video, np.array(chunk_slab), tile_t, links)
    identity = bool((order[1:] > order[:-1]).all())  # a plain bool, so that a compiler need not trace numpy
    return ChunkTable(layout, starts, tuple(chunks), groups, order, frames, identity)


def _groups(
    chunks: tuple[Chunk, ...], first: int, last: int, slab: np.ndarray, tile_frames: int, links: Links
) -> tuple[QueryGroup, ...]:
    """Query groups. Rows that are not video (text, references) see everything."""
    everything = (0, len(chunks))
    groups = [QueryGroup(c.start, c.stop, everything, routed=False) for c in chunks[:first]]
    shot = np.array([c.shot for c in chunks[first:last]])
    unit = {"shot": shot, "frame": slab, "chunk": np.arange(last - first)}[links.own]
    for value in dict.fromkeys(unit.tolist()):
        members = np.flatnonzero(unit == value)
        own = members
        if links.own == "frame" and links.window:
            near = (abs(slab - value) <= -(-links.window // tile_frames)) & (shot == shot[members[0]])
            own = np.flatnonzero(near)
        own_range = (first + int(own[0]), first + int(own[-1]) + 1)
        start, stop = chunks[first + members[0]].start, chunks[first + members[-1]].stop
        groups.append(QueryGroup(start, stop, own_range, int(shot[members[0]])))
    groups += [QueryGroup(c.start, c.stop, everything, routed=False) for c in chunks[last:]]
    return tuple(groups)
