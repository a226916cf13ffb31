"""From a trace to the numbers of a picture: the chosen records, laid onto the film's own shots, frames and chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..errors import MoCError
from .axes import MOST_COLUMNS, Axes
from .trace import Record, Trace

VIEWS = ("frames", "chunks", "shots")
Cells = dict[str, np.ndarray]
BEFORE, VIDEO, AFTER = range(3)  # where a column's tokens stand in the sequence


@dataclass(frozen=True)
class Line:
    """A row or a column. shot and frame (the first absolute latent frame of it) are -1 outside the video; last_shot is
    the last one where a film has more shots than a picture has room for, else -1."""

    kind: str
    shot: int
    frame: int
    last_shot: int = -1


@dataclass(frozen=True)
class Heatmap:
    """Who reads whom: query rows x key columns.

    always          [R, C] part of the (query, key) pairs that the row sees without choosing them
    open            [R, C] part of the pairs that it may choose; the rest causality forbids
    chosen_of_open  [R, C] part of the open pairs that routing chose (`Record.chosen` is of all pairs); NaN where there
                    was nothing to choose
    mass            [R, C] part of the row's attention that the column got, None where it was not recorded
    met             [R, C] False where both ends never stood in one pass (context windows)
    density         kept share of all pairs in the records that were used
    heads_together  one head was asked for, but memory was short and some records hold only the mean of all
    """

    view: str
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    chosen_of_open: np.ndarray
    always: np.ndarray
    open: np.ndarray
    mass: np.ndarray | None
    met: np.ndarray
    density: float
    steps: tuple[int, int]
    blocks: tuple[int, ...]
    head: int
    heads_together: bool


def heatmap(
    trace: Trace, view: str = "frames", *, first_step: int = 0, last_step: int = -1, block: int = -1, head: int = -1
) -> Heatmap:
    """Mean over the steps (last_step -1: to the end), the block and the head asked for (-1: all of them)."""
    if view not in VIEWS:
        raise MoCError(f"view is {view!r}; choose one of: {', '.join(VIEWS)}.")
    collected = Collected(head)
    collected.add(pick(trace, first_step, last_step, block))
    return collected.heatmap(view)


class Collected:
    """Records added up, so that a picture of a whole run costs no more than one of its last step."""

    def __init__(self, head: int = -1) -> None:
        self.head, self.heads_together = head, False
        self._sums: dict[int, Sums] = {}
        self._steps: set[int] = set()
        self._blocks: set[int] = set()
        self._density, self._calls = 0.0, 0

    def add(self, records: Iterable[Record]) -> None:
        for r in records:
            mass = None if r.mass is None else _of_head(r.mass, self.head)
            self._sums.setdefault(id(r.axes), Sums(r.axes)).add(_of_head(r.chosen, self.head), mass)
            self._steps.add(r.step)
            self._blocks.add(r.block)
            self._density, self._calls = self._density + r.density, self._calls + 1
            self.heads_together |= self.head >= 0 and r.chosen.shape[0] == 1

    def __bool__(self) -> bool:
        return self._calls > 0

    def heatmap(self, view: str, most: int | None = None) -> Heatmap:
        """most: rows of the film, and columns of a view by frames or shots. Neighbouring frames of a shot are joined
        where it has more, neighbouring shots where there are more of these; of chunks, those of the same frames."""
        plan = Plan(tuple(sums.axes for sums in self._sums.values()))
        rows, columns, cells = plan.rows, plan.columns, plan.add_up(self._sums.values())
        key = _line_group(rows, most or len(rows), by_shot=view == "shots")
        rows, cells = _join(rows, cells, 0, key)
        if view != "chunks" or (most and len(columns) > MOST_COLUMNS):
            columns, cells = _join(columns, cells, 1, key)
        rows, cells = _with_other_rows(rows, columns, cells)
        pairs = np.maximum(cells["pairs"], 1e-9)
        return Heatmap(
            view,
            rows,
            columns,
            ratio(cells["chosen"], cells["open"]),
            cells["always"] / pairs,
            cells["open"] / pairs,
            ratio(cells["mass"], cells["calls"]) if "mass" in cells else None,
            cells["pairs"] > 0,
            self._density / self._calls,
            (min(self._steps), max(self._steps)),
            tuple(sorted(self._blocks)),
            self.head,
            self.heads_together,
        )


def links(heat: Heatmap) -> list[tuple[int, int, float]]:
    """(reading shot, read shot, share of its open pairs), strongest first; of a heatmap by shots."""
    found = [
        (row.shot, column.shot, float(heat.chosen_of_open[r, c]))
        for r, row in enumerate(heat.rows)
        for c, column in enumerate(heat.columns)
        if row.kind == column.kind == "video" and row.shot != column.shot and heat.chosen_of_open[r, c] > 0
    ]
    return sorted(found, key=lambda link: -link[2])


def flow(trace: Trace, most: int = 3) -> list[str]:
    """One sentence per shot that reads others: how much of which, over the whole run."""
    if not trace.records:
        return []
    heat, sentences = heatmap(trace, "shots"), []
    found = links(heat)
    for shot in sorted({line.shot for line in heat.rows if line.kind == "video"}):
        parts = [f"{share:.1%} of shot {read + 1}" for reader, read, share in found if reader == shot][:most]
        if parts:
            sentences.append(f"Shot {shot + 1} reads {', '.join(parts)}.")
    return sentences


def pick(trace: Trace, first_step: int = 0, last_step: int = -1, block: int = -1) -> list[Record]:
    """The records of these steps and this block; an error says what there is instead."""
    records = list(trace.records)
    if not records:
        raise MoCError("no routing was recorded: sample with the MODEL from MoC Apply first.")
    blocks = sorted({r.block for r in records})
    if block >= 0 and block not in blocks:
        raise MoCError(f"block {block} routed nothing: choose one of {ranges(blocks)}, or -1 for the mean of all.")
    steps = sorted({r.step for r in records})
    last = steps[-1] if last_step < 0 else last_step
    chosen = [r for r in records if first_step <= r.step <= last and (block < 0 or r.block == block)]
    if not chosen:
        end = last_step if last_step >= 0 else "the end"
        raise MoCError(f"nothing was routed in steps {first_step} to {end}: choose from steps {ranges(steps)}.")
    return chosen


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


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where there is nothing."""
    out = np.full_like(part, np.nan)
    return np.minimum(np.divide(part, whole, out=out, where=whole > 1e-9), 1.0, out=out, where=whole > 1e-9)


def _of_head(values: Tensor, head: int) -> np.ndarray:
    heads = values.shape[0]
    if head >= heads > 1:
        raise MoCError(f"head {head} does not exist: this model has heads 0 to {heads - 1}; -1 is the mean of all.")
    array = values.float().numpy()
    return array[head] if 0 <= head < heads else array.mean(0)


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


def _line_group(rows: tuple[Line, ...], most: int, *, by_shot: bool) -> Callable[[Line], Hashable]:
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


def _join(
    lines: tuple[Line, ...], cells: Cells, axis: int, key: Callable[[Line], Hashable]
) -> tuple[tuple[Line, ...], Cells]:
    """Add up neighbouring video lines of one key; every other line stays alone."""
    firsts = [
        i
        for i, line in enumerate(lines)
        if not i or line.kind != "video" or lines[i - 1].kind != "video" or key(line) != key(lines[i - 1])
    ]
    joined = {name: np.add.reduceat(part, firsts, axis=axis) for name, part in cells.items()}
    if axis and "calls" in cells:
        joined["calls"] = cells["calls"][:, firsts]  # counts rows
    lasts = [*(i - 1 for i in firsts[1:]), len(lines) - 1]
    ends = [lines[i].shot if lines[i].shot > lines[first].shot else -1 for first, i in zip(firsts, lasts, strict=True)]
    return tuple(replace(lines[i], last_shot=end) for i, end in zip(firsts, ends, strict=True)), joined


def _with_other_rows(rows: tuple[Line, ...], columns: tuple[Line, ...], cells: Cells) -> tuple[tuple[Line, ...], Cells]:
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


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
