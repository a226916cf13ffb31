"""Reads of a bank added up: which shot gives how much of its attention to which shot or memory in the bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

from .bank_reads import BankAxes, BankRecord
from .cells import Cells, Line, join, line_group


class BankSums:
    """Records added up, calls that do not read a frame left out of its mean."""

    def __init__(self, of_head: Callable[[Tensor], np.ndarray]) -> None:
        """of_head: values [H or 1, ...] -> those of one head, or the mean of all."""
        self._of_head = of_head
        self.steps: set[int] = set()
        self.blocks: set[int] = set()
        self.together = False  # some records hold only the mean of all heads
        self._sums: dict[BankAxes, tuple[np.ndarray, np.ndarray]] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, records: Iterable[BankRecord]) -> None:
        for r in records:
            mass = self._of_head(r.mass)
            there = ~np.isnan(mass)
            old = self._sums.get(r.axes, (0.0, 0.0))
            self._sums[r.axes] = old[0] + np.where(there, mass, 0.0), old[1] + there
            self.steps.add(r.step)
            self.blocks.add(r.block)
            self.together |= r.mass.shape[0] == 1

    def by_shot(self, most: int | None = None) -> tuple[tuple[Line, ...], tuple[Line, ...], np.ndarray]:
        """(shots that read, shots and memories that are read, mean part of the attention [R, C], NaN where the bank was
        not read). most: lines; neighbouring shots are joined where there are more."""
        rows = {line.frame: line for axes in self._sums for line in axes.rows}
        columns = {line.frame: line for axes in self._sums for line in axes.columns}
        row_at, column_at = ({frame: i for i, frame in enumerate(sorted(lines))} for lines in (rows, columns))
        cells: Cells = {name: np.zeros((len(rows), len(columns))) for name in ("mass", "times")}
        for axes, (mass, times) in self._sums.items():
            at = np.ix_([row_at[line.frame] for line in axes.rows], [column_at[line.frame] for line in axes.columns])
            cells["mass"][at] += mass
            cells["times"][at] += times
        read = tuple(rows[frame] for frame in row_at)
        kept = tuple(columns[frame] for frame in column_at)
        read, cells = join(read, cells, 0, line_group(read, most or len(read), by_shot=True))
        there = cells["times"] > 0
        mean = cells["mass"] / np.maximum(cells["times"], 1)
        group = line_group(tuple(line for line in kept if not line.name), most or len(kept), by_shot=True)
        parts: Cells = {"mean": mean, "there": there.astype(float)}
        kept, parts = join(kept, parts, 1, lambda line: line.name or group(line))
        return read, kept, np.where(parts["there"] > 0, parts["mean"], np.nan)
