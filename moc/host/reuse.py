"""Choices of earlier steps in one sampling run: which calls take them, and how long they stay.

A sampler is looked at before anything is taken: only one that has called the model at two noise levels, each once and
each a step's, is known to go step by step. Those that look between their steps, correct a step or go back choose in
every call, since which step a choice came from would mean nothing there. (heunpp2 looks two steps ahead before it first
goes back: it takes choices once.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ..backends.kept import KeptChoice
from ..config.schedule import Choosing
from ..trace.reasons import Anew
from ..trace.trace import Trace

WATCHED = 2  # noise levels
CLOSE = 1e-4  # of noise levels, as a share


@dataclass(eq=False)
class Reuse:
    """how: the schedule's; sigmas: noise level of every step; marks: those from which on all is chosen anew once more;
    room: whether so many bytes may be kept."""

    how: Choosing
    sigmas: list[float]
    marks: tuple[float, ...]
    trace: Trace
    room: Callable[[int], bool]
    _kept: dict[Hashable, KeptChoice] = field(default_factory=dict)
    _seen: set[Hashable] = field(default_factory=set)  # calls at this noise level
    _sigma: float | None = None
    _share: float = 1.0
    _levels: int = 0
    _age: int | None = None  # noise levels since the last that chose
    _chooses: bool = True
    _stopped: Anew | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def on(self) -> bool:
        return self.how.every != 1

    def begin(self, sigma: float, share: float) -> None:
        """A pass at a noise level, with a share of the budget. Several passes may be at one."""
        with self._lock:
            before = self._sigma
            if not self.on or self._stopped or sigma == before:
                return
            if not any(abs(sigma - s) <= CLOSE * s for s in self.sigmas) or (before is not None and sigma > before):
                self.stop(Anew.SAMPLER)
                return
            self._levels += 1
            self._age = None if self._age is None else self._age + 1
            marked = before is not None and any(sigma <= mark * (1 + CLOSE) < before for mark in self.marks)
            old = self._age is None or self._age >= (self.how.every or len(self.sigmas))
            self._chooses = self._levels <= WATCHED or old or marked or share != self._share
            if self._chooses:
                self.end()
            self._sigma, self._share = sigma, share
            self._seen.clear()

    def of(self, call: Hashable) -> KeptChoice | None:
        """For one attention call of a pass: what it takes or fills. None: it chooses, and nothing is kept."""
        with self._lock:
            if not self._stopped and call in self._seen:
                self.stop(Anew.SAMPLER)
            if not self.on or self._stopped or self._sigma is None:
                return None
            self._seen.add(call)
            if self._chooses:
                self._age = 0
            if self._levels < WATCHED or self._sigma <= self.sigmas[-1]:
                return self._kept.get(call)  # the next one chooses, or there is none
            return self._kept.setdefault(call, KeptChoice(self.room, self.short))

    def ended(self, kept: KeptChoice | None, reason: Anew | None = None) -> None:
        """That call; reason: why it could not take anything."""
        with self._lock:
            if not self.on:
                return
            if kept is not None and kept.bytes:
                self.trace.keeps(kept.bytes, sum(one.bytes for one in self._kept.values()))
            if kept is not None and kept.taken:
                self.trace.chose(None)
            elif reason or self._stopped:
                self.trace.chose(reason or self._stopped)
            elif not self._chooses:
                self.trace.chose(Anew.MEMORY if kept is not None and kept.refused else Anew.CHANGED)

    def short(self) -> None:
        """A call ran out of memory."""
        self.stop(Anew.MEMORY)

    def stop(self, reason: Anew) -> None:
        """For the rest of the run."""
        with self._lock:
            self._stopped = self._stopped or reason
            self.end()

    def end(self) -> None:
        with self._lock:
            for one in self._kept.values():
                one.clear()
            self._kept.clear()
