"""Cuts a sequence into content-aligned chunks of variable length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import Links, Partition, RoutingConfig
from ..shots.cuts import shot_of
from .layout import TokenLayout
from .near import NEAR, Places
from .orders import ORDERS, raster
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


@dataclass(frozen=True)
class Pieces:
    """The video's chunks in sorted order. order [T*H*W]: its tokens; of every chunk: tokens, grid frame that it begins
    in, time slab (numbered in sorted order), whether it is static memory; frames of a slab."""

    order: np.ndarray
    tokens: np.ndarray
    frame: np.ndarray
    slab: np.ndarray
    static: np.ndarray
    slab_frames: int


def _tiles(layout: TokenLayout, shots: np.ndarray, by_shot: np.ndarray, partition: Partition, links: Links) -> Pieces:
    """shots [T]: of every grid frame; by_shot [T]: the grid frames, shot by shot."""
    frames_t, height, width = layout.grid
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
    first_slabs = [int(slab[by_shot[np.flatnonzero(shots[by_shot] == s)[0]]]) for s in set(shots)]
    if links.static == "first tokens":
        for index in first_slabs:
            cell[slab_frames[index][0], : links.static_tokens] = index * (tiles + 1)

    flat = cell.reshape(-1)
    cells, counts = np.unique(flat, return_counts=True)
    number, place = np.divmod(cells, tiles + 1)
    static = (place == 0) | (np.isin(number, first_slabs) & (links.static == "first frame"))
    frame = np.array([slab_frames[n][0] for n in number])
    return Pieces(np.argsort(flat, kind="stable"), counts, frame, number, static, tile_t)


def _runs(
    layout: TokenLayout, shots: np.ndarray, by_shot: np.ndarray, partition: Partition, links: Links,
    labels: np.ndarray | None,
) -> Pieces:  # fmt: skip
    """As `_tiles`, of a shot's tokens in another order or, with labels [T*H*W], of those of one label. A shot's first
    tokens are a chunk of their own."""
    size, along = partition.chunk_tokens, ORDERS[partition.order][0]
    assert size is not None and along is not None  # as a Partition has made sure
    order, tokens, static = [], [], []
    for shot in dict.fromkeys(shots[by_shot]):
        frames = by_shot[shots[by_shot] == shot]
        path = along((len(frames), *layout.grid[1:]))
        if labels is not None:
            its = labels.reshape(layout.grid)[frames].reshape(-1)
            path = its.argsort(kind="stable")
        first = links.static_tokens * (links.static == "first tokens")
        memory = path < min(first, layout.frame_tokens)
        for part, most, kept in ((np.sort(path[memory]), max(first, 1), True), (path[~memory], size, False)):
            sizes = [min(most, len(part) - low) for low in range(0, len(part), most)]
            if labels is not None and not kept:
                sizes = np.unique(its[part], return_counts=True)[1].tolist()
            tokens += sizes
            static += [kept] * len(sizes)
            order.append(frames[part // layout.frame_tokens] * layout.frame_tokens + part % layout.frame_tokens)
    joined = np.concatenate(order)
    frame = joined[np.cumsum([0, *tokens[:-1]])] // layout.frame_tokens
    return Pieces(joined, np.array(tokens), frame, np.arange(len(tokens)), np.array(static), 1)


def build_chunks(
    layout: TokenLayout, starts: tuple[int, ...], routing: RoutingConfig, labels: np.ndarray | None = None
) -> ChunkTable:
    """Cut a sequence into chunks.

    starts   first absolute latent frame of every shot, starting with 0 (`Shots.starts`)
    labels   of the video's tokens [T*H*W]: those of a shot that have the same are a chunk
    Chunks never cross a border between shots or kinds of token (section 3.2).
    """
    shots = np.array([shot_of(f, starts) for f in layout.frames])
    by_shot = np.lexsort((np.array(layout.frames), shots))  # context windows may wrap around: bring shots together
    partition, links = routing.on(layout.grid).geometry
    where = layout, shots, by_shot, partition, links
    pieces = _tiles(*where) if partition.order == "tiles" else _runs(*where, labels)

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
    for count, frame, static in zip(*(x.tolist() for x in (pieces.tokens, pieces.frame, pieces.static)), strict=True):
        add("video", count, shot=int(shots[frame]), frame=frame, linked=static, routable=not static)
    last_video = len(chunks)
    for span in sorted(after, key=lambda s: s.start):
        add_span(span)

    before_video, after_video = np.arange(layout.video_start), np.arange(layout.video_stop, layout.length)
    order = np.concatenate([before_video, layout.video_start + pieces.order, after_video])
    frames = np.full(layout.length, -1)
    inside = (order >= layout.video_start) & (order < layout.video_stop)
    frames[inside] = (order[inside] - layout.video_start) // layout.frame_tokens
    groups = _groups(tuple(chunks), first_video, last_video, pieces, links)
    identity = bool((order[1:] > order[:-1]).all())  # a plain bool, so that a compiler need not trace numpy
    near = _near(layout, pieces, partition, links, first_video, len(chunks))
    return ChunkTable(layout, starts, tuple(chunks), groups, order, frames, identity, near, labels is not None)


def _near(
    layout: TokenLayout, pieces: Pieces, partition: Partition, links: Links, first: int, chunks: int
) -> np.ndarray | None:
    """[C, C]: chunks that the rows of a chunk read because of where they stand; None where there are none such."""
    pattern = NEAR[links.near][0]
    if pattern is None:
        return None
    of_token = np.empty(len(pieces.order), int)
    of_token[pieces.order] = np.repeat(np.arange(len(pieces.tokens)), pieces.tokens)
    near = np.zeros((chunks, chunks), bool)
    video = slice(first, first + len(pieces.tokens))
    along = ORDERS[partition.order][0] or raster
    place = np.argsort(along(layout.grid)).reshape(layout.grid)
    near[video, video] = pattern(Places(of_token.reshape(layout.grid), len(pieces.tokens), place), links)
    return near


def _groups(chunks: tuple[Chunk, ...], first: int, last: int, pieces: Pieces, links: Links) -> tuple[QueryGroup, ...]:
    """Query groups. Rows that are not video (text, references) see everything."""
    everything = (0, len(chunks))
    groups = [QueryGroup(c.start, c.stop, everything, routed=False) for c in chunks[:first]]
    shot = np.array([c.shot for c in chunks[first:last]])
    slab = pieces.slab
    unit = {"shot": shot, "frame": slab, "chunk": np.arange(last - first), "none": shot, "video": 0 * shot}[links.own]
    for value in dict.fromkeys(unit.tolist()):
        members = np.flatnonzero(unit == value)
        own = members
        if links.own == "frame" and links.window:
            near = (abs(slab - value) <= -(-links.window // pieces.slab_frames)) & (shot == shot[members[0]])
            own = np.flatnonzero(near)
        own_range = (first + int(own[0]), first + int(own[-1]) + 1) if links.own != "none" else (0, 0)
        start, stop = chunks[first + members[0]].start, chunks[first + members[-1]].stop
        groups.append(QueryGroup(start, stop, own_range, int(shot[members[0]])))
    groups += [QueryGroup(c.start, c.stop, everything, routed=False) for c in chunks[last:]]
    return tuple(groups)
