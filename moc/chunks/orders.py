"""Orders of a shot's tokens whose runs are chunks, where chunks are no tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

Vector = tuple[int, int, int]
EITHER, ALIKE = "frames or columns", "alike"  # the heads of a call differ: `moc/by_head.py`; the table is a stand-in


def raster(grid: Vector) -> np.ndarray:
    """Frame by frame, row by row: the order of the sequence."""
    return np.arange(np.prod(grid))


def columns(grid: Vector) -> np.ndarray:
    """All frames of a place of the picture, then the next place."""
    return np.arange(np.prod(grid)).reshape(grid[0], -1).T.reshape(-1)


@lru_cache(8)
def gilbert(grid: Vector) -> np.ndarray:
    """Along a generalised Hilbert curve, which fills a box of any size in steps to a neighbour (J. Cerveny, 2018)."""
    longest = max(range(3), key=lambda axis: grid[axis])
    axes = [longest, *(axis for axis in range(3) if axis != longest)]
    a, b, c = (_along(axis, grid[axis]) for axis in axes)
    path = np.array(list(_walk((0, 0, 0), a, b, c)))
    return np.ravel_multi_index(tuple(path.T), grid)


def _along(axis: int, length: int) -> Vector:
    return length * (axis == 0), length * (axis == 1), length * (axis == 2)


def _plus(*vectors: Vector) -> Vector:
    return tuple(map(sum, zip(*vectors, strict=True)))  # type: ignore[return-value]


def _minus(v: Vector) -> Vector:
    return -v[0], -v[1], -v[2]


def _unit(v: Vector) -> Vector:
    return tuple((x > 0) - (x < 0) for x in v)  # type: ignore[return-value]


def _size(v: Vector) -> int:
    return abs(sum(v))


def _half(v: Vector) -> Vector:
    """Half of a side, an even number of steps where the side has more than two."""
    half: Vector = tuple(x // 2 for x in v)  # type: ignore[assignment]
    return _plus(half, _unit(v)) if _size(half) % 2 and _size(v) > 2 else half


def _walk(at: Vector, a: Vector, b: Vector, c: Vector) -> Iterator[Vector]:
    """The tokens of the box with the sides a, b and c, from its corner `at` to the far end of a."""
    w, h, d = map(_size, (a, b, c))
    if [w, h, d].count(1) >= 2:
        along = max((a, b, c), key=_size)
        for _ in range(_size(along)):
            yield at
            at = _plus(at, _unit(along))
        return
    a1, b1, c1 = map(_half, (a, b, c))
    a2, b2, c2 = (_plus(x, _minus(x1)) for x, x1 in ((a, a1), (b, b1), (c, c1)))
    end_a, end_b, end_c = (_plus(x, _minus(_unit(x))) for x in (a, b1, c1))
    last_c = _plus(c, _minus(_unit(c)))
    if 2 * w > 3 * h and 2 * w > 3 * d:  # long: in two, one after the other
        parts = [(at, a1, b, c), (_plus(at, a1), a2, b, c)]
    elif 3 * h > 4 * d:  # flat: up, along, down
        parts = [(at, b1, c, a1), (_plus(at, b1), a, b2, c), (_plus(at, end_a, end_b), _minus(b1), c, _minus(a2))]
    elif 3 * d > 4 * h:
        parts = [(at, c1, a1, b), (_plus(at, c1), a, b, c2), (_plus(at, end_a, end_c), _minus(c1), _minus(a2), b)]
    else:
        parts = [
            (at, b1, c1, a1),
            (_plus(at, b1), c, a1, b2),
            (_plus(at, end_b, last_c), a, _minus(b1), _minus(c2)),
            (_plus(at, end_a, b1, last_c), _minus(c), _minus(a2), b2),
            (_plus(at, end_a, end_b), _minus(b1), c1, _minus(a2)),
        ]
    for part in parts:
        if all(map(_size, part[1:])):
            yield from _walk(*part)


ORDERS: dict[str, tuple[Callable[[Vector], np.ndarray] | None, str]] = {
    "tiles": (None, "tiles"),
    "raster": (raster, "runs of tokens in reading order"),
    "gilbert": (gilbert, "runs along a curve that fills space and time"),
    "columns": (columns, "runs through all frames of a place, then of the next"),
    EITHER: (raster, "runs in reading order or through all frames of a place, whichever fits a head"),
    ALIKE: (raster, "clusters of alike keys, head by head"),
}
