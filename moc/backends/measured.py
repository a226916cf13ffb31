"""Whether routing pays, measured where a film is made: a few calls are computed both ways and the device notes when.

`cost_model.py` knows one card and 16-bit dense attention. On another card, or with dense attention in 8 bits, the
break-even is another.

**The same seed gives the same film**, whatever has been measured before: in every run the first CALLS calls of a kind,
and all others at their noise level, go by the estimate; from the next noise level on the faster way is taken, until the
run ends. A kind is measured beside the first of these calls that the process sees, and never again. Two times nearer
than CLOSE count as equal, and the estimate stays. Films differ only between processes whose measurements fall on
different sides of that, and where a device has not told its times by the next noise level: the estimate then holds for
that one as well.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..config import RoutingConfig
from .cost_model import Work

T = TypeVar("T")
WAYS = DENSE, ROUTED = "dense", "routed"
CALLS = 3  # of a kind that are computed both ways: the first, which builds kernels, is not timed
CLOSE = 1.03
MOST = 1024  # kinds that a process remembers: every layout of context windows is one


class Clock(Protocol):
    """Notes when a device reaches a place in its work. Nobody waits for the device."""

    def runs_on(self, device: torch.device) -> bool: ...

    def mark(self, device: torch.device) -> Any: ...

    def between(self, begin: Any, end: Any) -> float | None:
        """Milliseconds; None as long as the device is not there."""


class DeviceClock:
    """CUDA's events (and ROCm's)."""

    def runs_on(self, device: torch.device) -> bool:
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def mark(self, device: torch.device) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    def between(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float | None:
        return begin.elapsed_time(end) if begin.query() and end.query() else None


@dataclass(frozen=True)
class Kind:
    """Calls that take the same time. (Versions of drivers and libraries are those of the process.)

    by       who computes dense attention, in a user's words
    dense    `identity` of that
    shape    of q [B, H, N, D]
    work     what the table of chunks makes of that
    backend  that routes
    """

    by: str
    dense: Hashable
    card: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    work: Work
    routing: RoutingConfig
    backend: str


@dataclass(eq=False)
class Times:
    """Of one kind. begun: calls that were computed both ways; best: the shortest time of each way, in ms."""

    begun: int = 0
    best: dict[str, float] = field(default_factory=dict)
    marks: list[tuple[str, Any, Any]] = field(default_factory=list)  # that have not been read


class Stopwatch:
    """The times that a process has measured, by kind of call. Several threads may ask at once."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._times: OrderedDict[Kind, Times] = OrderedDict()
        self._lock = threading.Lock()

    def begins(self, kind: Kind, device: torch.device) -> Lap | None:
        """For a call that should be computed both ways; None where enough were."""
        with self._lock:
            times = self._times.setdefault(kind, Times())
            if len(self._times) > MOST:
                self._times.popitem(last=False)
            if times.begun == CALLS:
                return None
            times.begun += 1
            return Lap(self, times, device, timed=times.begun > 1)

    def keep(self, times: Times, way: str, begin: Any, end: Any) -> None:
        with self._lock:
            times.marks.append((way, begin, end))

    def times(self, kind: Kind) -> tuple[float, float] | None:
        """Milliseconds (dense, routed) of a call; None where they are not known, or not yet."""
        with self._lock:
            times = self._times.get(kind, Times())
            found = [(way, begin, end, self.clock.between(begin, end)) for way, begin, end in times.marks]
            for way, _, _, ms in found:
                if ms is not None:
                    times.best[way] = min(ms, times.best.get(way, ms))
            times.marks = [(way, begin, end) for way, begin, end, ms in found if ms is None]
            if times.marks or times.begun < CALLS or len(times.best) < len(WAYS):
                return None
            return times.best[DENSE], times.best[ROUTED]


@dataclass(frozen=True, eq=False)
class Lap:
    """One call that is computed both ways."""

    stopwatch: Stopwatch
    times: Times
    device: torch.device
    timed: bool

    def way(self, name: str, compute: Callable[[], T]) -> T:
        """What `compute` returns, one of WAYS. What returns no tensor, but a reason why not, has no time."""
        mark = self.stopwatch.clock.mark
        begin = mark(self.device)
        out = compute()
        if self.timed and isinstance(out, Tensor):
            self.stopwatch.keep(self.times, name, begin, mark(self.device))
        return out


STOPWATCH = Stopwatch(DeviceClock())


class Taken(NamedTuple):
    """measured: by what was measured, else by the estimate."""

    routed: bool
    measured: bool = False


@dataclass(eq=False)
class BreakEven:
    """What one run takes for every kind of call, by the rule above.

    told  called once for every kind that is decided by measurement, with its times and whether it is routed
    """

    stopwatch: Stopwatch
    told: Callable[[Kind, float, float, bool], None]
    _calls: dict[Kind, int] = field(default_factory=dict)
    _since: dict[Kind, float] = field(default_factory=dict)  # noise level at which the estimate still holds
    _taken: dict[Kind, Taken] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, kind: Kind, sigma: float, estimate: bool) -> Taken:
        """For a call at noise level `sigma`; estimate: whether it is routed by the cost model."""
        with self._lock:
            if kind in self._taken:
                return self._taken[kind]
            seen = self._calls[kind] = self._calls.get(kind, 0) + 1
            times = None if seen <= CALLS or self._since[kind] == sigma else self.stopwatch.times(kind)
            if times is None:
                self._since[kind] = sigma
                return Taken(estimate)
            dense, routed = times
            near = max(times) < CLOSE * min(times)
            self._taken[kind] = taken = Taken(estimate if near else routed < dense, measured=not near)
        self.told(kind, dense, routed, taken.routed)
        return taken


def identity(function: object, depth: int = 4) -> Hashable:
    """What tells one way to compute from another: code and settings of a callable, not the object, which other packs
    make anew for every run."""
    if isinstance(function, (str, int, float, bool, type(None))):
        return function
    if isinstance(function, partial):
        settings = (*function.args, *function.keywords.values())
        return identity(function.func, depth), *(identity(x, depth - 1) for x in settings)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None or not depth:
        return type(function).__qualname__, getattr(function, "__qualname__", "")
    return code.co_filename, code.co_firstlineno, *(identity(x, depth - 1) for x in _enclosed(function))


def _enclosed(function: Any) -> Iterator[object]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # still empty
            yield cell.cell_contents
