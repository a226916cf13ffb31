"""What one sampling run routed where, and what ran dense and why. Small, on the CPU, bounded."""

from __future__ import annotations

import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..chunks.table import ChunkTable
from ..config import RoutingConfig
from ..errors import MoCError
from .axes import Axes
from .bank_reads import BankAxes, BankCounts, BankRecord
from .device_queue import Counted, DeviceQueue
from .pair_counts import Counts, Geometry
from .reasons import SHORTLY, Anew, Reason

AHEAD = 3  # routed calls of a pass that keep a device busy while what the pass before has counted is told
MOST_BYTES = 256 * 2**20  # of one run's records, in main memory; as much again with the heads together
MOST_TABLES = 512  # whose geometry a run holds on to: context windows bring many
KEEP = ("routing", "routing and attention", "off")  # what a trace may be asked to keep


@dataclass(frozen=True)
class Record:
    """One attention call.

    chosen [H or 1, F, K]: part of all (query, key) pairs of a frame and a column that were chosen, mean over the batch
    mass   [H or 1, F, K]: part of the frame's full attention that falls on the column, from a few of its query tokens;
           None where it was not asked for
    """

    step: int
    block: int
    axes: Axes
    chosen: Tensor
    density: float
    mass: Tensor | None = None


@dataclass
class Trace:
    """Filled while sampling, read by the heatmap. One object per MoC Apply node; every run starts it anew.

    reads          what windows read of a bank, call by call, routed or dense
    steps, blocks  how many the run has, as far as it is known
    keep           one of KEEP
    first          latent frame that the film begins with, behind reference frames
    node           id of the MoC Apply node in the graph, where there is one
    share          how many processes trace a part of the run each, and so use a part of the memory
    fetch          fills it, where the run happened in other processes: called before it is shown
    id             a name that nobody guesses: with it a browser asks for this trace
    again          routed calls that took the choices of an earlier step; anew: those that were to, and chose instead
    kept           most bytes of choices kept at a time
    """

    records: list[Record] = field(default_factory=list)
    reads: list[BankRecord] = field(default_factory=list)
    dense: Counter[Reason] = field(default_factory=Counter)
    routed: int = 0
    notes: list[str] = field(default_factory=list)
    steps: int = 0
    blocks: int = 0
    first: int = 0
    keep: str = KEEP[0]
    node: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    again: int = 0
    anew: Counter[Anew] = field(default_factory=Counter)
    kept: int = 0
    share: int = 1
    fetch: Callable[[], None] | None = field(default=None, repr=False)
    routed_blocks: set[int] = field(default_factory=set, repr=False)
    _queue: DeviceQueue = field(default_factory=DeviceQueue, repr=False)
    _geometry: OrderedDict[tuple[int, bool, torch.device], Geometry] = field(default_factory=OrderedDict, repr=False)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if self.keep not in KEEP:
            raise MoCError(f"trace is {self.keep!r}; choose one of: {', '.join(KEEP)}.")

    def start(self, steps: int = 0) -> None:
        """Forget the last run; the next one has so many steps."""
        with self._lock:
            cleared = (self.records, self.reads, self.dense, self.anew, self.notes, self.routed_blocks, self._geometry)
            for part in cleared:
                part.clear()
            self._queue.clear()
            self.again = self.kept = 0
            self.steps, self.routed, self.blocks, self.first, self._bytes = steps, 0, 0, 0, 0

    def note(self, text: str) -> None:
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    def ran_dense(self, reason: Reason) -> None:
        with self._lock:
            self.dense[reason] += 1

    def chose(self, anew: Anew | None) -> None:
        """A call took what was chosen before (None), or had to choose."""
        with self._lock:
            self.again += anew is None
            self.anew.update(() if anew is None else (anew,))

    def keeps(self, call: int, together: int) -> None:
        """Bytes of the choices of one call, and of all."""
        if not self.kept and self.blocks > 1:
            self.note(
                f"choices take {_size(call)} a call to keep, {_size(call * self.blocks)} for {self.blocks} blocks"
            )
        self.kept = max(self.kept, together)

    def counts(
        self, table: ChunkTable, routing: RoutingConfig, q: Tensor, k: Tensor, scale: float | None = None
    ) -> Counts | None:
        """For one attention call with q, k [B, H, N, D]; None where nothing is to be kept."""
        if self.keep == "off":
            return None
        with self._lock:
            geometry = self._geometry_of(table, routing.candidates.causal, q.device)
        counts = Counts(table, q.shape[1], q.device, q.shape[0], geometry=geometry)
        if self.keep == "routing and attention":
            counts.measure(q, k, scale)
        return counts

    def ran_routed(self, step: int, block: int, counts: Counts | None) -> None:
        """Keep a call's counts. Nothing is moved to the CPU before `move`."""
        with self._lock:
            self.routed += 1
            self.steps, self.blocks = max(self.steps, step + 1), max(self.blocks, block + 1)
            self.routed_blocks.add(block)
            if counts is not None and self._has_room(step):
                values, routed = counts.result()
                self._add(Counted(step, block, counts.geometry, values, routed))

    def read_bank(self, step: int, block: int, counts: BankCounts) -> None:
        """Keep what a call read of a bank; moved as what calls have routed."""
        with self._lock:
            if self._has_room(step):
                mass = counts.result()
                self._add(Counted(step, block, counts.axes, mass[None], torch.zeros((), device=mass.device)))

    def _has_room(self, step: int) -> bool:
        if self._bytes <= 2 * MOST_BYTES // self.share:
            return True
        note = "the trace is full: the heatmap shows only the calls up to step {step}"
        self.notes += [] if any(n.startswith(note[:17]) for n in self.notes) else [note.format(step=step)]
        return False

    def _add(self, call: Counted) -> None:
        values = call.values
        if self._bytes + values.numel() * 2 > MOST_BYTES // self.share:
            values = values.mean(1, keepdim=True)  # heads together once the budget is used up
        self._bytes += values.numel() * 2
        self._queue.add(replace(call, values=values.half()))

    def move(self) -> bool:
        """Once per forward pass: see `DeviceQueue.move`."""
        with self._lock:
            return self._queue.move()

    def arrived(self) -> list[Record | BankRecord]:
        """What was moved, as records. Waits for what is still on its way."""
        with self._lock:
            new = [_record(call) for call in self._queue.arrived()]
            self.records += [record for record in new if isinstance(record, Record)]
            self.reads += [record for record in new if isinstance(record, BankRecord)]
            return new

    def flush(self) -> list[Record | BankRecord]:
        """`move` and `arrived` at once."""
        self.move()
        return self.arrived()

    def drop(self) -> None:
        """Forget what has not arrived yet."""
        with self._lock:
            self._queue.clear()

    def finish(self) -> None:
        """End of a run: keep the records, let go of the geometry (and of its tensors on the device)."""
        with self._lock:
            self._queue.clear()
            self._geometry.clear()

    @property
    def density(self) -> float:
        """Mean kept share of (query, key) pairs over the routed calls."""
        return sum(r.density for r in self.records) / len(self.records) if self.records else 1.0

    def line(self) -> str:
        """How it goes, in one sentence."""
        total = self.routed + sum(self.dense.values())
        kept = f", {self.density:.1%} of pairs kept" if self.records else ""
        return f"MoC on: {self.routed} of {total} self-attention calls routed{kept}."

    def status(self) -> str:
        """How it goes, short enough to stand on a node."""
        if not self.routed and not self.dense:
            return "MoC: nothing sampled yet."
        line = f"MoC on: {len(self.routed_blocks)} of {self.blocks} blocks routed"
        line += f", {self.density:.1%} of pairs kept." if self.records else "."
        if not self.routed:
            line = "MoC: everything ran dense."
        reasons = ", ".join(f"{SHORTLY[reason]}: {n}" for reason, n in self.dense.most_common())
        return line + (f" Dense calls ({reasons})." if reasons else "")

    def report(self) -> str:
        """What happened, for a person."""
        if not self.routed and not self.dense:
            return "MoC: nothing sampled yet. Connect the sampler's LATENT so that this node runs after it."
        lines = [self.line()]
        if self.routed and self.keep == "off":
            lines.append("What was chosen was not recorded: trace is off on MoC Apply.")
        lines += [f"{count} dense: {reason.value}." for reason, count in self.dense.most_common()]
        if self.again or self.anew:
            of = f"{self.again} of {self.routed} routed calls"
            lines.append(f"Choices of an earlier step were used again in {of}; at most {_size(self.kept)} were kept.")
        lines += [f"{count} chose anew: {reason.value}." for reason, count in self.anew.most_common()]
        return "\n".join(lines + [f"Note: {note}." for note in self.notes])

    def summary(self) -> dict[str, Any]:
        """The report as data, for a JSON file."""
        by_block: dict[int, list[float]] = {}
        by_step: dict[int, list[float]] = {}
        for record in self.records:
            by_block.setdefault(record.block, []).append(record.density)
            by_step.setdefault(record.step, []).append(record.density)
        return {
            "report": self.report(),
            "steps": self.steps,
            "blocks": self.blocks,
            "routed_blocks": sorted(self.routed_blocks),
            "routed_calls": self.routed,
            "dense_calls": {r.name.lower(): {"calls": n, "why": r.value} for r, n in self.dense.most_common()},
            "choices_used_again": self.again,
            "chosen_anew": {r.name.lower(): {"calls": n, "why": r.value} for r, n in self.anew.most_common()},
            "bytes_kept": self.kept,
            "notes": list(self.notes),
            "density": self.density if self.records else None,
            "density_of_block": {b: sum(d) / len(d) for b, d in sorted(by_block.items())},
            "density_of_step": {s: sum(d) / len(d) for s, d in sorted(by_step.items())},
        }

    def _geometry_of(self, table: ChunkTable, causal: bool, device: torch.device) -> Geometry:
        key = id(table), causal, device
        if key not in self._geometry:
            self._geometry[key] = Geometry.of(table, causal, device)
            if len(self._geometry) > MOST_TABLES:
                self._geometry.popitem(last=False)
        self._geometry.move_to_end(key)
        return self._geometry[key]


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def _record(call: Counted) -> Record | BankRecord:
    if isinstance(call.geometry, BankAxes):
        return BankRecord(call.step, call.block, call.geometry, call.values[0])
    (chosen, *mass), density = call.values, call.geometry.mandatory + float(call.routed)
    return Record(call.step, call.block, call.geometry.axes, chosen, density, *mass)
