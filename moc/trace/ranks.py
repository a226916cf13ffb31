"""One sampling run on several GPUs, each of which traced its own heads, as one trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .reasons import Anew, Reason
from .trace import Record, Trace


@dataclass(frozen=True)
class Part:
    """What a GPU traced: small, on the CPU, picklable.

    group        of GPUs that share the heads of a film; several work side by side on other prompts
    rank, ranks  of this GPU in its group: its heads follow those of the ranks before
    """

    group: int
    rank: int
    ranks: int
    records: list[Record]
    dense: Counter[Reason]
    routed: int
    notes: list[str]
    steps: int
    blocks: int
    first: int
    routed_blocks: set[int]
    again: int = 0
    anew: Counter[Anew] = field(default_factory=Counter)
    kept: int = 0


def part_of(trace: Trace, group: int, rank: int, ranks: int) -> Part:
    return Part(
        group, rank, ranks, list(trace.records), Counter(trace.dense), trace.routed, list(trace.notes), trace.steps,
        trace.blocks, trace.first, set(trace.routed_blocks), trace.again, Counter(trace.anew), trace.kept,
    )  # fmt: skip


def put_together(parts: Sequence[Part], trace: Trace) -> None:
    """Parts in any order into a trace that forgets what it held. A group of which a part is missing, since its GPU is
    gone, keeps its numbers of calls and notes, but no records: the mean of some heads is not that of all."""
    trace.start(max((part.steps for part in parts), default=0))
    for group in sorted({part.group for part in parts}):
        some = sorted((part for part in parts if part.group == group), key=lambda part: part.rank)
        first = some[0]
        trace.routed += first.routed
        trace.dense += first.dense
        trace.again += first.again
        trace.anew += first.anew
        trace.kept = max(trace.kept, *(part.kept for part in some))  # of one GPU
        trace.blocks, trace.first = max(trace.blocks, first.blocks), first.first
        trace.routed_blocks |= first.routed_blocks
        for note in dict.fromkeys(note for part in some for note in part.notes):
            trace.note(note)
        calls = {len(part.records) for part in some}
        if len(some) == first.ranks and len(calls) == 1:
            heads = max((len(record.chosen) for record in first.records), default=1)
            columns = zip(*(part.records for part in some), strict=True)
            trace.records += [_joined(records, apart=len(records[0].chosen) == heads) for records in columns]
        else:
            trace.note(f"the heatmap is missing: {len(some)} of {first.ranks} GPUs told what they had routed")
    trace.records.sort(key=lambda record: record.step)


def _joined(records: Sequence[Record], apart: bool) -> Record:
    """Records of one call, of every rank in order. apart: head by head, else each holds the mean of its heads. Ranks
    hold equally many, so that the density is a plain mean; their axes are alike, and those of the first stand for
    all."""

    def join(values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values)) if apart else torch.stack(list(values)).float().mean(0).half()

    masses = [record.mass for record in records if record.mass is not None]
    density = sum(record.density for record in records) / len(records)
    chosen = join([record.chosen for record in records])
    return replace(records[0], chosen=chosen, density=density, mass=join(masses) if masses else None)
