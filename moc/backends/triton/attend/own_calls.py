"""In how many calls of an attention library rows attend to what they see without choosing it, and when our own kernel,
which takes all of them in one launch, is the faster one. No kernels here: `cost_model.py` asks as well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ....chunks.table import QueryGroup
from ..dataflow import FEWEST_ROWS
from ..device_table import DeviceTable

ROW_PARTIALS = 3 * 2**27  # bytes that partials of whole rows may take, own parts among them
# So many stretches of rows are a call each, without a copy: eight shots are (docs/performance.md), and the processor is
# done with them long before the GPU
FEW = 8
# Milliseconds of the processor. 180,000 tokens, 24 heads, 80 uneven shots and text on an H200: 108 ms for 64 calls with
# each of 6 runs of heads, against 8 ms for 60 even shots, which are one call with each; the GPU worked for 58 ms
CALL = 0.26
# Femtoseconds a (query, key) pair and channel that our kernel takes beyond the library: `cost_model.COSTS`, own parts
# of small chunks, which are our kernel's, beside those of large ones
SLOWER = 4.8


@dataclass(frozen=True)
class Alike:
    """`groups` query groups of `length` rows that see `keys` tokens each, linked ones among them, wherever they stand.

    rows [groups * length], seen [groups * keys]: their tokens
    """

    length: int
    keys: int
    groups: int
    rows: Tensor
    seen: Tensor


def alike(plan: DeviceTable) -> list[Alike]:
    """Routed rows as few dense attention calls, when their rows and keys are gathered: keys for twice the sequence at
    a time, since each group has a copy of what is linked."""
    if plan.alike is None:
        found: dict[tuple[int, int], list[QueryGroup]] = {}
        ranges = {g: plan.ranges(g) for g in plan.table.groups if g.routed}
        for g, seen in ranges.items():
            found.setdefault((g.stop - g.start, sum(b - a for a, b in seen)), []).append(g)
        calls = [
            (length, keys, groups[low : low + most])
            for (length, keys), groups in found.items()
            for most in [max(1, 2 * plan.length // keys)]
            for low in range(0, len(groups), most)
        ]
        plan.alike = [
            Alike(
                length,
                keys,
                len(some),
                plan.on_device(np.concatenate([np.arange(g.start, g.stop) for g in some])),
                plan.on_device(np.concatenate([np.arange(a, b) for g in some for a, b in ranges[g]])),
            )
            for length, keys, some in calls
        ]
    return plan.alike


def heads_at_once(heads: int, length: int, dim: int, bytes_: int = 2) -> int:
    """Heads of a sample whose own parts are made together."""
    return max(1, min(heads, ROW_PARTIALS // (2 * length * dim * bytes_)))


def grouped(plan: DeviceTable) -> bool:
    """Whether groups that see alike many keys are gathered into one call, wherever they stand."""
    return len(plan.runs()) > FEW and len(plan.runs()) > len(alike(plan))


def calls(plan: DeviceTable, heads: int, dim: int) -> int:
    """Of the library, for some heads of one sample; 0 where our own kernel is to attend."""
    if plan.group_rows < FEWEST_ROWS:
        return 0
    if len(plan.runs()) <= FEW:
        return len(plan.runs())
    found = min(len(plan.runs()), len(alike(plan)))
    saved = SLOWER * 1e-12 * heads * dim * sum(some.groups * some.length * some.keys for some in alike(plan))
    return found if found * CALL <= saved else 0
