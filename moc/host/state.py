"""State of one sampling run and of one forward pass. Both travel in `transformer_options`; nothing here is global."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import comfy.model_management

from ..backends import head_split
from ..backends.measured import STOPWATCH, BreakEven, Kind, Stopwatch
from ..chunks.layout import TokenLayout
from ..chunks.table import ChunkTable
from ..config import CHOOSING, MoCSettings, RoutingConfig
from ..probe.log import ProbeLog
from ..shots.cuts import Shots
from ..trace.reasons import Reason
from ..trace.trace import Trace
from .block_numbers import BlockNumbers
from .reuse import Reuse
from .session import VideoPass
from .tables import Tables
from .text_padding import Unpadded
from .web.push import Live

KEY = "mixture_of_contexts"  # of our wrappers
RUN = "moc_run"  # transformer_options -> Run
FORWARD = "moc_forward"  # transformer_options -> Forward
READER = "moc_windows_reader"  # transformer_options -> what reads the bank of MoC Windows in this pass

log = logging.getLogger("mixture_of_contexts")


@dataclass(frozen=True, eq=False)
class Patch:
    """What one MoC Apply node asked for, or one MoC Probe node: then everything runs dense, and is looked at."""

    shots: Shots | None
    settings: MoCSettings
    trace: Trace
    backend: str
    probe: ProbeLog | None = None
    stopwatch: Stopwatch = STOPWATCH

    def start(self, sigmas: list[float] | tuple[float, ...] = (), percent_to_sigma: Callable | None = None) -> None:
        """Forget the last run. sigmas [steps + 1] of the next one."""
        head_split.start()
        self.trace.start(max(len(sigmas) - 1, 0))
        if self.probe is not None:
            self.probe.start(sigmas, percent_to_sigma)

    def finish(self) -> None:
        self.trace.finish()
        if self.probe is not None:
            self.probe.finish()


@dataclass(eq=False)
class Run:
    """From the first step of a sampler to its last.

    sigmas  noise level of every step
    active  (lowest, highest) noise level that MoC is on for
    flow    a noise level is a share of noise, as models of flow matching have it; else a ratio of noise to signal
    starts  first latent frame of every shot
    marks   noise levels at which all is chosen once more, where steps take the choices of earlier ones
    room    whether so many bytes of choices may be kept
    live    tells a browser how it goes
    """

    patch: Patch
    sigmas: list[float]
    active: tuple[float, float]
    starts: tuple[int, ...]
    flow: bool = True
    marks: tuple[float, ...] = ()
    room: Callable[[int], bool] = lambda size: True
    live: Live = field(init=False)
    break_even: BreakEven = field(init=False)
    reuse: Reuse = field(init=False)
    blocks: BlockNumbers = field(default_factory=BlockNumbers)
    forwards: int = 0
    _ended: int | None = None  # step of the pass whose counts are on their way
    _tables: Tables = field(default_factory=Tables)
    _failures: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.live = Live(self.patch.trace)
        self.break_even = BreakEven(self.patch.stopwatch, self._told)
        how = CHOOSING[self.patch.settings.schedule.choosing]
        self.reuse = Reuse(how, self.sigmas, self.marks, self.patch.trace, self.room)

    def step(self, sigma: float) -> int:
        """Number of the step nearest to a noise level: some samplers also look between the steps."""
        return min(range(len(self.sigmas)), key=lambda i: abs(self.sigmas[i] - sigma), default=0)

    def pass_ended(self, step: int) -> None:
        """What a pass has counted leaves its device; a browser is told once it is there, while the next pass runs."""
        self.hand_over()
        try:
            under_way = self.patch.trace.move()
        except Exception as error:
            self.lost(error)
            return
        self._ended = step
        if not under_way:
            self.hand_over()

    def hand_over(self) -> None:
        with self._lock:
            step, self._ended = self._ended, None
        if step is None:
            return
        try:
            self.live.update(self.patch.trace.arrived(), step)
        except Exception as error:
            self.lost(error)

    def lost(self, error: Exception) -> None:
        """What a pass has counted is gone: a picture is no reason to end somebody's sampling."""
        self.patch.trace.drop()
        self.patch.trace.note(f"a step is missing from the heatmap ({type(error).__name__}: {error})"[:300])
        log.warning("MoC: what a step has routed could not be kept", exc_info=error)

    def share(self, sigma: float) -> float:
        """Of the budget, at a noise level."""
        return self.patch.settings.schedule.share(sigma if self.flow else sigma / (1 + sigma))

    def table(self, layout: TokenLayout, block: int, share: float) -> tuple[ChunkTable, RoutingConfig | None]:
        """The chunks of a layout, and the routing with a share of its top_k settled; None where there is nothing to
        choose.

        Several devices may ask at once; context windows bring many layouts, and blocks may have their own routing.
        """
        asked = self.patch.settings.routing_of(block)
        routing = asked.on(layout.grid)
        if routing != asked.on((1, 1, 1)):
            self.patch.trace.note(f"{layout.frame_tokens:,} tokens a frame: every token sees {routing.choice}")
        table = self._tables.get(layout, self.starts, routing)
        seen = table.density(0, routing.candidates.causal)
        if seen >= 1.0:
            return table, None
        return table, replace(routing, budget=routing.budget.settled(table.top_k(routing), share, seen))

    def warn(self, layout: TokenLayout | None) -> None:
        """Before the first step: a density that leaves nothing to choose means a film that remembers nothing.

        No error, since the same settings choose on a longer film, and a short one mostly runs dense anyway.
        """
        if layout is None:
            return
        settings = self.patch.settings
        for wanted in settings.routings:
            routing = wanted.on(layout.grid)
            asked = max(routing.budget.head_density, default=routing.budget.density)
            if asked is None or routing.budget.rule != "top-k":
                continue
            table = self._tables.get(layout, self.starts, routing)
            seen, one = table.density(0, routing.candidates.causal), table.density(1, routing.candidates.causal)
            if seen == one or table.top_k_at(asked, routing.candidates.causal):
                continue
            least = (int((seen + one) / 2 * 1e4) + 1) / 1e4  # on one chunk it settles from halfway on
            left = ["what it always sees"]
            left += ["the mean of what it skips"] * (routing.tail != "none")
            text = (
                f"a density of {asked:g} chooses nothing: {seen:.1%} of all pairs are always seen anyway, so "
                f"every token reads only {' and '.join(left)}. Use a density of {least:g} or more"
            )
            self.patch.trace.note(text)
            log.warning("MoC: %s.", text)

    def _told(self, kind: Kind, dense: float, routed: float, on: bool) -> None:
        text = f"a call of {kind.shape[2]:,} tokens: dense with {kind.by} {dense:.3g} ms, MoC {routed:.3g} ms: "
        self.patch.trace.note(text + ("on" if on else "off"))

    def failed(self, error: Exception) -> Reason:
        """Tell the person, and once the log with everything; returns the reason for running dense."""
        if isinstance(error, comfy.model_management.OOM_EXCEPTION):
            self.patch.trace.note("out of memory while routing; the rest of that step ran dense")
            return Reason.MEMORY
        text = f"{type(error).__name__}: {error}"
        with self._lock:
            known = text in self._failures
            self._failures.add(text)
        if not known:
            self.patch.trace.note(f"the routed attention failed and ran dense instead ({text})")
            log.error("MoC: the routed attention failed; running dense instead", exc_info=error)
        return Reason.FAILED


@dataclass(eq=False)
class Forward:
    """One forward pass of the diffusion model that is routed.

    previous   attention override that was there before ours
    reason     why this whole pass runs dense, if it does
    routed     calls so far
    calls      of every block module
    recording  False where the trace has seen this pass already: autograd may run parts of it a second time
    """

    run: Run
    video: VideoPass
    previous: Callable | None
    sigma: float
    step: int
    reason: Reason | None
    recording: bool
    routed: int = 0
    calls: Counter[tuple[int, int]] = field(default_factory=Counter)

    def ran_dense(self, reason: Reason) -> None:
        if self.recording:
            self.run.patch.trace.ran_dense(reason)


@dataclass(frozen=True, eq=False)
class Call:
    """One self-attention call that can be routed. place: which module of that block; unpadded: what its mask leaves of
    the sequence, if it has one."""

    block: int
    table: ChunkTable
    routing: RoutingConfig
    unpadded: Unpadded | None
    scale: float | None
    place: int = 0
