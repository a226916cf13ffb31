"""From a trace to the numbers of a picture: the chosen records, laid onto the film's own shots, frames and chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..errors import MoCError
from .axes import MOST_COLUMNS
from .bank_map import BankSums
from .bank_reads import BankRecord
from .cells import Line, Plan, Sums, join, line_group, with_other_rows
from .trace import Record, Trace

VIEWS = ("frames", "chunks", "shots")  # of the routing
BANK = "bank"
Records = Iterable[Record | BankRecord]


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

    Of the view "bank", rows are shots and columns the shots and memories in the bank. chosen_of_open is the part of a
    row's attention that falls on the column, `met` where it was read, and density the mean part of a row's attention
    that lies in the bank.
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
    if view not in (*VIEWS, BANK):
        raise MoCError(f"view is {view!r}; choose one of: {', '.join((*VIEWS, BANK))}.")
    collected = Collected(head)
    collected.add(pick(trace, first_step, last_step, block, view))
    return collected.heatmap(view)


class Collected:
    """Records added up, so that a picture of a whole run costs no more than one of its last step."""

    def __init__(self, head: int = -1) -> None:
        self.head, self.heads_together = head, False
        self._sums: dict[int, Sums] = {}
        self._steps: set[int] = set()
        self._blocks: set[int] = set()
        self._density, self._calls = 0.0, 0
        self.bank = BankSums(lambda values: _of_head(values, head))

    def add(self, records: Records) -> None:
        for r in records:
            if isinstance(r, BankRecord):
                self.bank.add([r])
                continue
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
        if view == BANK:
            return self._of_bank(most)
        plan = Plan(tuple(sums.axes for sums in self._sums.values()))
        rows, columns, cells = plan.rows, plan.columns, plan.add_up(self._sums.values())
        key = line_group(rows, most or len(rows), by_shot=view == "shots")
        rows, cells = join(rows, cells, 0, key)
        if view != "chunks" or (most and len(columns) > MOST_COLUMNS):
            columns, cells = join(columns, cells, 1, key)
        rows, cells = with_other_rows(rows, columns, cells)
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

    def _of_bank(self, most: int | None) -> Heatmap:
        rows, columns, part = self.bank.by_shot(most)
        met, nothing = ~np.isnan(part), np.zeros_like(part)
        return Heatmap(
            BANK,
            rows,
            columns,
            part,
            nothing,
            met.astype(float),
            None,
            met,
            float(np.nansum(part, axis=1).mean()),
            (min(self.bank.steps), max(self.bank.steps)),
            tuple(sorted(self.bank.blocks)),
            self.head,
            self.head >= 0 and self.bank.together,
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


def bank_links(heat: Heatmap) -> list[tuple[int, int | str, float]]:
    """(reading shot, read shot or name of the memory, part of its attention), strongest first; of the view "bank"."""
    found = [
        (row.shot, column.name or column.shot, float(heat.chosen_of_open[r, c]))
        for r, row in enumerate(heat.rows)
        for c, column in enumerate(heat.columns)
        if heat.met[r, c] and heat.chosen_of_open[r, c] > 0
    ]
    return sorted(found, key=lambda link: -link[2])


def flow(trace: Trace, most: int = 3) -> list[str]:
    """One sentence per shot that reads others, and one per shot that reads the bank: how much of which, over the whole
    run."""
    return [*_flow_of_routing(trace, most), *_flow_of_bank(trace, most)]


def _flow_of_bank(trace: Trace, most: int) -> list[str]:
    if not trace.reads:
        return []
    sentences, found = [], bank_links(heatmap(trace, BANK))
    for shot in sorted({reader for reader, *_ in found}):
        mine = [link for link in found if link[0] == shot][:most]
        parts = [f"{share:.1%} to {read if isinstance(read, str) else f'shot {read + 1}'}" for _, read, share in mine]
        sentences.append(f"Of its attention, shot {shot + 1} gives {', '.join(parts)}, through the bank.")
    return sentences


def _flow_of_routing(trace: Trace, most: int) -> list[str]:
    if not trace.records:
        return []
    heat, sentences = heatmap(trace, "shots"), []
    found = links(heat)
    for shot in sorted({line.shot for line in heat.rows if line.kind == "video"}):
        parts = [f"{share:.1%} of shot {read + 1}" for reader, read, share in found if reader == shot][:most]
        if parts:
            sentences.append(f"Shot {shot + 1} reads {', '.join(parts)}.")
    return sentences


def pick(trace: Trace, first_step: int = 0, last_step: int = -1, block: int = -1, view: str = VIEWS[0]) -> Records:
    """The records of these steps and this block, for a view; an error says what there is instead."""
    records: list[Record | BankRecord] = [*(trace.reads if view == BANK else trace.records)]
    what = "read nothing of a bank" if view == BANK else "routed nothing"
    if not records and view == BANK:
        raise MoCError("no bank was read: MoC Windows, MoC Recall and MoC Remake have one.")
    if not records:
        raise MoCError("no routing was recorded: sample with the MODEL from MoC Apply first.")
    blocks = sorted({r.block for r in records})
    if block >= 0 and block not in blocks:
        raise MoCError(f"block {block} {what}: choose one of {ranges(blocks)}, or -1 for the mean of all.")
    steps = sorted({r.step for r in records})
    last = steps[-1] if last_step < 0 else last_step
    chosen = [r for r in records if first_step <= r.step <= last and (block < 0 or r.block == block)]
    if not chosen:
        end = last_step if last_step >= 0 else "the end"
        done = "read of a bank" if view == BANK else "routed"
        raise MoCError(f"nothing was {done} in steps {first_step} to {end}: choose from steps {ranges(steps)}.")
    return chosen


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


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
