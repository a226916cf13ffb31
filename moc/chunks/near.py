"""Chunks that rows always read because of where they stand: fixed patterns of published methods, chunk by chunk.

A pattern is a function (places, links) -> [C, C] bool over the video's chunks: row chunk a, read chunk b. Rows read
their own chunk by each of them. A pattern takes a video as one stretch of frames, as its authors do: cuts mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..config import Links

DENSE_COLUMN, DENSE_COLUMNS = 1 / 3, 0.6  # of a block of Radial: what counts as full


@dataclass(frozen=True, eq=False)
class Places:
    """chunk [T, H, W]: number of the video chunk that a token is in, from 0; count: of them; place [T, H, W]: where a
    token stands in the whole video, in the order of the partition."""

    chunk: np.ndarray
    count: int
    place: np.ndarray

    def lowest(self, axis: int) -> np.ndarray:
        """[C]: where every chunk begins on an axis."""
        found = np.full(self.count, np.iinfo(int).max)
        along = np.broadcast_to(np.expand_dims(np.arange(self.chunk.shape[axis]), [a for a in range(3) if a != axis]),
                                self.chunk.shape)  # fmt: skip
        np.minimum.at(found, self.chunk.reshape(-1), along.reshape(-1))
        return found


def box(places: Places, links: Links) -> np.ndarray:
    """A window of tiles around the row's, moved inwards at the edges: STA (arXiv 2502.04507, section 3)."""
    near = np.ones((places.count, places.count), bool)
    for axis, size in enumerate(links.box):
        tile = np.unique(places.lowest(axis), return_inverse=True)[1]
        tiles = int(tile.max()) + 1
        low = np.clip(tile - size // 2, 0, max(tiles - size, 0))[:, None]
        near &= (tile >= low) & (tile < low + size)
    return near


def touching(places: Places, links: Links) -> np.ndarray:
    """Chunks with a token beside one of the row's chunk, in time, height or width: Jenga (arXiv 2505.16864)."""
    near = np.eye(places.count, dtype=bool)
    for step in product((-1, 0, 1), repeat=3):
        here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(step, places.chunk.shape, strict=True))
        there = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(step, places.chunk.shape, strict=True))
        near[places.chunk[here].reshape(-1), places.chunk[there].reshape(-1)] = True
    return near


def radial(places: Places, links: Links) -> np.ndarray:
    """Fewer the further away a frame is: Radial (arXiv 2506.19852, section 4.2), as its code does it for Wan.

    Tokens x and y of two frames of F tokens, D frames apart, see each other where |x - y| is at most max(B, 2**bits(F)
    / 2**bits(D) * decay), and F / 2 for D = 1; where 2**bits(F) / 2**bits(D) is below B, only in every (B / that)-th
    D. All see the first frame. B: tokens of a chunk. A chunk is read if of the tokens that any row sees more than 0.6
    are seen by more than a third of the rows.
    """
    frames = places.chunk.reshape(len(places.chunk), -1)
    tokens = frames.shape[1]
    column = np.arange(tokens)
    lengths = np.bincount(frames.reshape(-1), minlength=places.count)
    size = int(lengths.max())
    parts = [np.unique(f, return_index=True, return_counts=True) for f in frames]  # chunks, where each begins, rows
    near = np.eye(places.count, dtype=bool)  # a short last chunk is never full
    for i, j in product(range(len(frames)), repeat=2):
        width = _radial_width(abs(i - j), tokens, size, links.decay) if j else float(tokens)
        if width is None:
            continue
        mine, first, rows = parts[i]
        low, high = np.ceil(column - width), np.floor(column + width) + 1  # the rows that see a column
        seen = np.minimum(high, (first + rows)[:, None]) - np.maximum(low, first[:, None])
        where = frames[j]
        full = np.stack([np.bincount(where, row, places.count) for row in seen > DENSE_COLUMN * size])
        some = np.stack([np.bincount(where, row, places.count) for row in seen > 0])
        near[mine] |= full > DENSE_COLUMNS * np.maximum(some, 1e-9)
    return near


def band(places: Places, links: Links) -> np.ndarray:
    """Tokens that stand near the row's in the order of the partition, and the first as many as a frame has: SVG (arXiv
    2502.01776, section 4.1), in its code for Wan. Both sides have N(1 - sqrt(1 - share)) tokens, rounded up to whole
    chunks; a chunk is read if some row sees some token of it."""
    chunk, place = places.chunk.reshape(-1), places.place.reshape(-1)
    first, last = np.full(places.count, len(place)), np.full(places.count, -1)
    np.minimum.at(first, chunk, place)
    np.maximum.at(last, chunk, place)
    size = int(np.bincount(chunk).max())
    width = -(-len(place) * (1 - (1 - links.band) ** 0.5) // size) * size
    beside = (first <= last[:, None] + width) & (last >= first[:, None] - width)
    return beside | (first < places.chunk[0].size)


def _radial_width(apart: int, tokens: int, size: int, decay: float) -> float | None:
    """Of the band between two frames; None where they see nothing of each other."""
    reach = 2.0 ** tokens.bit_length() / 2.0 ** apart.bit_length()
    if reach < size and apart % int(size / reach):
        return None
    if apart < 2:
        return float(tokens if apart == 0 else tokens // 2)
    return max(float(size), reach * decay)


NEAR: dict[str, tuple[Callable[[Places, Links], np.ndarray] | None, str]] = {
    "none": (None, "nothing"),
    "box": (box, "a box of tiles around its own"),
    "touching": (touching, "the chunks that touch its own in space and time"),
    "radial": (radial, "less and less of frames further away"),
    "band": (band, "a band of neighbours in the order of its tokens, and the first of them"),
}
