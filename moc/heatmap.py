"""From a trace to the numbers of a picture: the chosen records, laid onto the film's own shots, frames and chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import MoCError
from .trace import Axes, Record, Trace

VIEWS = ("frames", "chunks", "shots")
BEFORE, VIDEO, AFTER = range(3)  # where a column's tokens stand in the sequence


@dataclass(frozen=True)
class Line:
    """A row or a column. shot and frame (the first absolute latent frame of it) are -1 outside the video."""

    kind: str
    shot: int
    frame: int


@dataclass(frozen=True)
class Heatmap:
    """Who reads whom: query rows x key columns.

    share    [R, C] part of the (query, key) pairs that routing chose; NaN where there was nothing to choose
    always   [R, C] part of the chunks that the row sees without choosing them
    density  kept share of all pairs in the records that were used
    heads_together  one head was asked for, but memory was short and some records hold only the mean of all
    """

    view: str
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    share: np.ndarray
    always: np.ndarray
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
    records = _pick(list(trace.records), first_step, last_step, block)
    rows, columns, total, count, always = _lay_out(records, head)
    # chunks of a cell's pairs are counted alike: they are of nearly equal size
    choice = np.where((always < count) | (total > 0), count, 0)
    parts: tuple[np.ndarray, ...] = (total, choice, always, count)
    if view == "shots":
        rows, parts = _join(rows, parts, 0, lambda line: line.shot)
    if view != "chunks":
        columns, parts = _join(columns, parts, 1, lambda line: line.shot if view == "shots" else line.frame)
    total, choice, always, count = parts
    return Heatmap(
        view,
        rows,
        columns,
        np.divide(total, choice, out=np.full_like(total, np.nan), where=choice > 0),
        np.divide(always, count, out=np.zeros_like(total), where=count > 0),
        sum(r.density for r in records) / len(records),
        (min(r.step for r in records), max(r.step for r in records)),
        tuple(sorted({r.block for r in records})),
        head,
        head >= 0 and any(r.share.shape[0] == 1 for r in records),
    )


def flow(trace: Trace, most: int = 3) -> list[str]:
    """One sentence per shot that reads others: how much of which, over the whole run."""
    if not trace.records:
        return []
    shots = heatmap(trace, "shots")
    sentences = []
    for row, shares in zip(shots.rows, shots.share, strict=True):
        read = [
            (-share, column.shot)
            for share, column in zip(shares, shots.columns, strict=True)
            if column.kind == "video" and column.shot != row.shot and share > 0
        ]
        if read:
            parts = ", ".join(f"{-share:.1%} of shot {shot + 1}" for share, shot in sorted(read)[:most])
            sentences.append(f"Shot {row.shot + 1} reads {parts}.")
    return sentences


def _pick(records: list[Record], first_step: int, last_step: int, block: int) -> list[Record]:
    if not records:
        raise MoCError("no routing was recorded: sample with the MODEL from MoC Apply first.")
    blocks = sorted({r.block for r in records})
    if block >= 0 and block not in blocks:
        raise MoCError(f"block {block} routed nothing: choose one of {ranges(blocks)}, or -1 for the mean of all.")
    steps = sorted({r.step for r in records})
    last = steps[-1] if last_step < 0 else last_step
    chosen = [r for r in records if first_step <= r.step <= last and (block < 0 or r.block == block)]
    if not chosen:
        raise MoCError(f"nothing was routed in steps {first_step} to {last}: choose from steps {ranges(steps)}.")
    return chosen


def _lay_out(
    records: list[Record], head: int
) -> tuple[tuple[Line, ...], tuple[Line, ...], np.ndarray, np.ndarray, np.ndarray]:
    """(rows, columns, total, count, always): sums over the records, on the union of their axes.

    Context windows give each call its own frames; count says how many calls held both ends of a cell.
    """
    sums: dict[int, tuple[Axes, np.ndarray, int]] = {}
    for record in records:
        axes, total, calls = sums.get(id(record.axes), (record.axes, np.zeros(()), 0))
        sums[id(axes)] = axes, total + _of_head(record, head), calls + 1

    rows: dict[int, Line] = {}
    columns: dict[tuple[int, int, int], Line] = {}
    for axes, _, _ in sums.values():
        rows |= {f: Line("video", s, f) for f, s in zip(axes.frames, axes.shots, strict=True)}
        columns |= {k: Line(c.kind, c.shot, c.frame) for k, c in zip(_keys(axes), axes.columns, strict=True)}
    row_at = {frame: i for i, frame in enumerate(sorted(rows))}
    column_at = {key: i for i, key in enumerate(sorted(columns))}

    total, count, always = (np.zeros((len(rows), len(columns))) for _ in range(3))
    for axes, part, calls in sums.values():
        cells = np.ix_([row_at[f] for f in axes.frames], [column_at[k] for k in _keys(axes)])
        np.add.at(total, cells, part)
        np.add.at(count, cells, calls)
        np.add.at(always, cells, axes.always.numpy() * calls)
    return tuple(rows[f] for f in row_at), tuple(columns[k] for k in column_at), total, count, always


def _of_head(record: Record, head: int) -> np.ndarray:
    heads = record.share.shape[0]
    if head >= heads > 1:
        raise MoCError(f"head {head} does not exist: this model has heads 0 to {heads - 1}; -1 is the mean of all.")
    share = record.share.float().numpy()
    return share[head] if 0 <= head < heads else share.mean(0)


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


def _join(
    lines: tuple[Line, ...], parts: tuple[np.ndarray, ...], axis: int, key: Callable[[Line], int]
) -> tuple[tuple[Line, ...], tuple[np.ndarray, ...]]:
    """Add up neighbouring video lines of one key; every other line stays alone."""
    firsts = [
        i
        for i, line in enumerate(lines)
        if not i or line.kind != "video" or lines[i - 1].kind != "video" or key(line) != key(lines[i - 1])
    ]
    return tuple(lines[i] for i in firsts), tuple(np.add.reduceat(part, firsts, axis=axis) for part in parts)


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
