"""Records added up and laid onto the film's own shots, frames and chunks: lines, and cells of (query, key) pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from .axes import Axes

Cells = dict[str, np.ndarray]
JOINED = ("video", "memory")  # kinds of lines
BEFORE, VIDEO, AFTER = range(3)  # where a column's tokens stand in the sequence


@dataclass(frozen=True)
class Line:
    """A row or a column. shot and frame (the first absolute latent frame of it) are -1 outside the video; last_shot is
    the last one where a film has more shots than a picture has room for, else -1. name: of a memory."""

    kind: str
    shot: int
    frame: int
    last_shot: int = -1
    name: str = ""


class Sums:
    """Records of the same axes, added up."""

    def __init__(self, axes: Axes) -> None:
        self.axes, self.calls = axes, 0
        self.chosen = np.zeros((len(axes.frames), len(axes.columns)))
        self.mass: np.ndarray | None = None

    def add(self, chosen: np.ndarray, mass: np.ndarray | None) -> None:
        self.calls += 1
        self.chosen += chosen
        if mass is not None:
            self.mass = mass + (0 if self.mass is None else self.mass)


class Plan:
    """Rows and columns of the film: the union of what single calls saw, each its own frames in context windows."""

    def __init__(self, seen: tuple[Axes, ...]) -> None:
        rows: dict[int, Line] = {}
        columns: dict[tuple[int, int, int], Line] = {}
        for axes in seen:
            rows |= {f: Line("video", s, f) for f, s in zip(axes.frames, axes.shots, strict=True)}
            columns |= {k: Line(c.kind, c.shot, c.frame) for k, c in zip(_keys(axes), axes.columns, strict=True)}
        row_at = {frame: i for i, frame in enumerate(sorted(rows))}
        column_at = {key: i for i, key in enumerate(sorted(columns))}
        self.rows, self.columns = tuple(rows[f] for f in row_at), tuple(columns[k] for k in column_at)
        self._cells = {
            id(axes): _places([row_at[f] for f in axes.frames], [column_at[k] for k in _keys(axes)]) for axes in seen
        }

    def add_up(self, sums: Iterable[Sums]) -> Cells:
        """Everything in (query, key) pairs, so that cells can be joined by adding; mass and calls per row."""
        cells = {name: np.zeros((len(self.rows), len(self.columns))) for name in ("pairs", "open", "always", "chosen")}
        for one in sums:
            at, tokens = self._cells[id(one.axes)], np.array([c.tokens for c in one.axes.columns], float)
            _add(cells["pairs"], at, tokens * one.calls)
            _add(cells["open"], at, one.axes.open.numpy() * (tokens * one.calls))
            _add(cells["always"], at, one.axes.always.numpy() * (tokens * one.calls))
            _add(cells["chosen"], at, one.chosen * tokens)
            if one.mass is not None:
                for name in ("mass", "calls"):
                    cells.setdefault(name, np.zeros_like(cells["pairs"]))
                _add(cells["mass"], at, one.mass)
                np.add.at(cells["calls"], at[0], one.calls)
        return cells


def _places(rows: list[int], columns: list[int]) -> tuple:
    """Where a call's cells lie in the film's: a plain part of it, unless context windows saw frames here and there."""
    if all(places == list(range(places[0], places[0] + len(places))) for places in (rows, columns)):
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.ix_(rows, columns)


def _add(cells: np.ndarray, at: tuple, values: np.ndarray) -> None:
    if isinstance(at[0], slice):
        cells[at] += values  # many times as fast
    else:
        np.add.at(cells, at, values)


def _keys(axes: Axes) -> list[tuple[int, int, int]]:
    """What makes a column the same one in every call: its place, absolute frame, and number within these."""
    place, keys = BEFORE, []
    numbers: Counter[tuple[int, int]] = Counter()
    for column in axes.columns:
        if column.kind == "video":
            place = VIDEO
        elif place == VIDEO:
            place = AFTER
        keys.append((place, column.frame, numbers[place, column.frame]))
        numbers[place, column.frame] += 1
    return keys


def line_group(rows: tuple[Line, ...], most: int, *, by_shot: bool) -> Callable[[Line], Hashable]:
    """Which lines of the video become one, so that there are at most `most`."""
    frames = Counter(line.shot for line in rows)
    shots = -(-len(frames) // most)  # that become one
    of_shot = {shot: i // shots for i, shot in enumerate(sorted(frames))}
    if by_shot or shots > 1:
        return lambda line: of_shot.get(line.shot)
    together = -(-len(rows) // most)
    while sum(-(-count // together) for count in frames.values()) > most:
        together += 1
    group, numbers = {}, Counter[int]()
    for line in rows:
        group[line.frame] = numbers[line.shot] // together
        numbers[line.shot] += 1
    return lambda line: (line.shot, group.get(line.frame))


def join(
    lines: tuple[Line, ...], cells: Cells, axis: int, key: Callable[[Line], Hashable]
) -> tuple[tuple[Line, ...], Cells]:
    """Add up neighbouring lines of one key, of the video or of memories; every other line stays alone."""
    firsts = [
        i
        for i, line in enumerate(lines)
        if not i or line.kind not in JOINED or lines[i - 1].kind != line.kind or key(line) != key(lines[i - 1])
    ]
    joined = {name: np.add.reduceat(part, firsts, axis=axis) for name, part in cells.items()}
    if axis and "calls" in cells:
        joined["calls"] = cells["calls"][:, firsts]  # counts rows
    lasts = [*(i - 1 for i in firsts[1:]), len(lines) - 1]
    ends = [lines[i].shot if lines[i].shot > lines[first].shot else -1 for first, i in zip(firsts, lasts, strict=True)]
    return tuple(replace(lines[i], last_shot=end) for i, end in zip(firsts, ends, strict=True)), joined


def with_other_rows(rows: tuple[Line, ...], columns: tuple[Line, ...], cells: Cells) -> tuple[tuple[Line, ...], Cells]:
    """Text, references and audio read everything; their rows stand where their columns do."""
    first = next((i for i, c in enumerate(columns) if c.kind == "video"), len(columns))
    before = tuple(c for c in columns[:first] if c.kind != "video")
    after = tuple(c for c in columns[first:] if c.kind != "video")
    if not before and not after:
        return rows, cells
    whole = cells["pairs"].max(0)
    filled = {name: whole if name in ("pairs", "always") else np.zeros_like(whole) for name in cells}
    parts = {
        name: np.vstack([np.tile(filled[name], (len(before), 1)), part, np.tile(filled[name], (len(after), 1))])
        for name, part in cells.items()
    }
    return (*before, *rows, *after), parts
