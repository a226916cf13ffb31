"""Stage 1, selection: which chunks every row chooses, as a mask (bits) or as indices."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from ....chunks.table import ChunkTable
from ....config import RoutingConfig
from ....routing.rules import k_of_heads
from ..dataflow import Arch, topk_by
from ..device_table import DeviceTable, device_table_for, device_table_of
from ..lib.head_ranges import offset_in
from .topk_registers import route
from .topk_stream import stream
from .topp_threshold import rule_bits

ROUND = 8  # places of a row, above 32 of them powers of two: few kernels have to be made


def first_plan(table: ChunkTable, routing: RoutingConfig, q: Tensor) -> DeviceTable:
    """Places for as many choices as a row of q [B, H, N, D] makes, where that is known beforehand."""
    if routing.budget.rule != "top-k" or not routing.budget.head_density:
        return device_table_of(table, routing, q.device)
    return device_table_for(table, max(k_of_heads(table, routing, q.shape[1])), q.device)


def choose(
    q: Tensor, desc: Tensor, shots: Tensor | None, sel: Tensor, plan: DeviceTable, routing: RoutingConfig, heads: range,
    *, by: str, arch: Arch, scale: float, **how,
) -> DeviceTable:  # fmt: skip
    """Write the choice of some heads of the flattened batch into sel [heads, W, N]. q [B, H, N, D].

    by: the file that finds the k best of this plan. how: as `route` takes it.
    Returns a plan with places for the longest list: the same plan after "top-k", else one of whose size the device is
    asked.
    """
    if routing.budget.rule.startswith("top-k"):
        for some, its in _by_k(heads, plan, routing, q):
            part = sel[offset_in(some, heads)]
            if its.top_k:
                file = by if its is plan else topk_by(its.geometry, arch)
                if file == "topk_registers":
                    route(queries(q, some), desc, shots, part, its, some, **how)
                else:
                    stream(queries(q, some), desc, shots, part, its, some, by=file, **how)
            else:
                part.zero_()
    if routing.budget.rule == "top-k":
        return plan
    return longest(rule_bits(queries(q, heads), desc, shots, sel, plan, heads, routing, scale=scale, **how), plan)


def longest(count: Tensor, plan: DeviceTable) -> DeviceTable:
    """A plan with places for the most of all counts; waits for the device."""
    places = -(-max(int(count.max()), 1) // ROUND) * ROUND
    places = places if places <= 4 * ROUND else 1 << (places - 1).bit_length()
    return device_table_for(plan.table, places, plan.device)


def queries(q: Tensor, heads: range) -> Tensor:
    """Some heads of q [B, H, N, D] as [heads, N, D]."""
    h = q.shape[1]
    parts = []
    for b in range(heads.start // h, (heads.stop - 1) // h + 1):
        parts.append(q[b, max(heads.start - b * h, 0) : min(heads.stop - b * h, h)])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_k(heads: range, plan: DeviceTable, routing: RoutingConfig, q: Tensor) -> Iterator[tuple[range, DeviceTable]]:
    """Neighbouring heads that choose alike many."""
    if not routing.budget.head_density:
        yield heads, plan
        return
    counts = k_of_heads(plan.table, routing, q.shape[1])
    for k, some in groupby(heads, lambda head: counts[head % len(counts)]):
        run = list(some)
        yield range(run[0], run[-1] + 1), device_table_for(plan.table, k, plan.device)
