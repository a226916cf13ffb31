"""Query rows in blocks, as programs take them, and the tokens that every row of a block sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from .device_table import DeviceTable


@dataclass(frozen=True)
class Tiles:
    """Tiles of query rows [first, stop), and the token ranges that every row of a tile sees (CSR: span -> ranges)."""

    first: Tensor  # [T]
    stop: Tensor  # [T]
    span: Tensor  # [T, 2] of ranges
    ranges: Tensor  # [P, 2] tokens
    count: int


@dataclass(frozen=True)
class Blocks:
    """The ranges of `Tiles` in steps of at most `size` tokens (CSR: span -> steps)."""

    span: Tensor  # [T, 2] of steps
    block: Tensor  # [P, 2] first token, tokens


def make_tiles(plan: DeviceTable, rows: int, which: str) -> Tiles:
    """As `DeviceTable.tiles`."""
    first: list[np.ndarray] = []
    stop: list[np.ndarray] = []
    span: list[tuple[int, int]] = []
    ranges: list[tuple[int, int]] = []

    def add(low: int, high: int, seen: list[tuple[int, int]]) -> None:
        starts = np.arange(low, high, rows)
        first.append(starts)
        stop.append(np.minimum(starts + rows, high))
        span.extend([(len(ranges), len(ranges) + len(seen))] * len(starts))
        ranges.extend(seen)

    groups = plan.table.groups
    if ":" in which:
        low, high = map(int, which.split(":"))
        for g in groups:
            if low <= g.start and g.stop <= high:
                add(g.start, g.stop, plan.ranges(g, own=False))
    elif which == "all":
        add(0, plan.length, [])
    elif which == "shared":
        for low, high in plan.table.query_tiles():
            add(low, high, [])
    elif which == "small":
        routed = [g for g in groups if g.routed]
        low = 0
        while low < len(routed):  # runs of neighbouring routed groups
            high = low
            while high + 1 < len(routed) and routed[high + 1].start == routed[high].stop:
                high += 1
            add(routed[low].start, routed[high].stop, plan.linked)
            low = high + 1
    else:
        for g in groups:
            if g.routed == (which == "routed"):
                add(g.start, g.stop, plan.ranges(g))
    firsts, stops = (np.concatenate(x) if x else np.zeros(0, int) for x in (first, stop))
    spans, seen = np.array(span).reshape(-1, 2), np.array(ranges or [(0, 0)])
    there = plan.on_device
    return Tiles(there(firsts), there(stops), there(spans), there(seen), len(firsts))


def cut_up(plan: DeviceTable, tiles: Tiles, size: int) -> Blocks:
    """The ranges of tiles in steps of at most `size` tokens."""
    span: list[tuple[int, int]] = []
    block: list[tuple[int, int]] = []
    known: dict[tuple[int, int], tuple[int, int]] = {}
    ranges = tiles.ranges.tolist()
    for a, b in tiles.span.tolist():
        if (a, b) not in known:
            low = len(block)
            block += [(s, min(size, stop - s)) for first, stop in ranges[a:b] for s in range(first, stop, size)]
            known[a, b] = low, len(block)
        span.append(known[a, b])
    return Blocks(plan.on_device(np.array(span).reshape(-1, 2)), plan.on_device(np.array(block or [(0, 0)])))
