"""What a probed run was asked for and what it saw: one object per MoC Probe node, filled while sampling."""

from __future__ import annotations

import re
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import by_head
from ..chunks.build import build_chunks
from ..chunks.layout import TokenLayout
from ..chunks.table import ChunkTable
from ..config import DESCRIPTORS, RULES, MoCSettings, RoutingConfig
from ..errors import MoCError
from ..routing.descriptors import wide
from ..shots.typed import DIGITS, shown
from .sampled_error import SampledError, sample_rows, sampled_error

TOP_K = tuple(sorted({round(m * 2**e) for e in range(9) for m in (1, 1.5)}))  # 1, 2, 3, 4, 6, 8, 12, ... 384
DENSE_ENOUGH = 0.9  # settings that keep more pairs than this are not worth a look
MOST_LAYOUTS = 16


@dataclass(eq=False)
class Call:
    """Looks at one block in one step, added up.

    look        by option, on the sampled rows; asked: the block's own routing alone, on the same rows
    error, size [H]: of the block's own routing, over all video queries
    routing, chunk_share   the block's own routing, and its chunks per token
    """

    look: SampledError
    asked: SampledError
    error: Tensor
    size: Tensor
    routing: RoutingConfig
    chunk_share: float
    density: list[float] = field(default_factory=list)
    dense_seconds: list[float] = field(default_factory=list)
    routed_seconds: list[float] = field(default_factory=list)


@dataclass(eq=False)
class ProbeLog:
    """steps_asked  how many steps, evenly spread, or exactly which (a tuple of numbers from 0)
    chunkings    tiles that the advice may choose besides the asked chunks; None means whole frames
    rows_asked   query tokens of every call that the settings are compared on
    all_rules    compare all descriptors and rules, and not only those that choose fastest (`probed` in routing/)

    After a run: steps (how many), chosen, percent (where in the sampling step i begins, [steps + 1]), blocks, tokens,
    options (options[0] is the asked routing), chunk_share (chunks per token) and density of every option, calls by
    (step, block).
    """

    settings: MoCSettings
    steps_asked: int | tuple[int, ...] = 3
    chunkings: tuple[tuple[int, int, int] | None, ...] = ()
    rows_asked: int = 128
    all_rules: bool = False
    steps: int = 0
    chosen: tuple[int, ...] = ()
    percent: tuple[float, ...] = ()
    blocks: int = 0
    tokens: int = 0
    options: tuple[RoutingConfig, ...] = ()
    chunk_share: tuple[float, ...] = ()
    density: tuple[float, ...] = ()
    calls: dict[tuple[int, int], Call] = field(default_factory=dict)
    _all: tuple[tuple[int, ...], ...] = ()  # for every chunking the options that it brought
    _tables: dict[TokenLayout, tuple[ChunkTable, ...]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self, sigmas: Sequence[float] = (), percent_to_sigma: Callable[[float], float] | None = None) -> None:
        """Forget the last run. sigmas [steps + 1]: noise levels of the next one."""
        with self._lock:
            self.calls.clear()
            self._tables.clear()
            self.options, self.chunk_share, self._all, self.blocks, self.tokens = (), (), (), 0, 0
            self.steps = max(len(sigmas) - 1, 0)
            self.chosen = spread(self.steps_asked, self.steps)
            self.percent = borders(sigmas, percent_to_sigma) if percent_to_sigma else ()

    def finish(self) -> None:
        """End of a run: let go of the geometry (and of its tensors on the device)."""
        self._tables.clear()

    def wants(self, step: int) -> bool:
        return step in self.chosen

    def add(
        self,
        step: int,
        block: int,
        layout: TokenLayout,
        starts: tuple[int, ...],
        qkv: tuple[Tensor, Tensor, Tensor],
        *,
        dense: Tensor,
        routed: Tensor,
        density: float,
        seconds: tuple[float, float],
        scale: float | None,
    ) -> None:
        """One attention call. q, k, v, dense, routed [B, H, N, D] in the model's own order; seconds (dense, routed)."""
        with self._lock:
            seen = self._look(self._tables_of(layout, starts), *qkv, scale)
            mine, own = seen.at(0), self.settings.routing_of(block)
            table = self._tables[layout][0]
            if own != self.settings.routing:
                table = build_chunks(layout, starts, own)
                mine = self._look_with(table, [own], layout, *qkv, scale)
            video = slice(layout.video_start, layout.video_stop)
            heads = zip(dense[:, :, video].unbind(1), routed[:, :, video].unbind(1), strict=True)
            sums = [_squares(full, other) for full, other in heads]  # a head at a time: nothing wide of full size
            error, size = (torch.stack(part).cpu().double() for part in zip(*sums, strict=True))
            if (step, block) in self.calls:
                call = self.calls[step, block]
                call.look, call.asked = call.look + seen, call.asked + mine
                call.error, call.size = call.error + error, call.size + size
            else:
                share = len(table.chunks) / table.length
                call = self.calls[step, block] = Call(seen, mine, error, size, own, share)
            call.density.append(density)
            call.dense_seconds.append(seconds[0])
            call.routed_seconds.append(seconds[1])

    def _look(
        self, tables: tuple[ChunkTable, ...], q: Tensor, k: Tensor, v: Tensor, scale: float | None
    ) -> SampledError:
        parts = [
            self._look_with(table, [self.options[o] for o in family], tables[0].layout, q, k, v, scale)
            for table, family in zip(tables, filter(None, self._all), strict=True)
        ]
        return SampledError.joined(parts)

    def _look_with(
        self, table: ChunkTable, routings: list[RoutingConfig], layout: TokenLayout,
        q: Tensor, k: Tensor, v: Tensor, scale: float | None,
    ) -> SampledError:  # fmt: skip
        """The same tokens whatever the chunks: those that the first table of the layout samples."""
        first = self._tables[layout][0]
        rows = sample_rows(first, self.rows_asked)
        if table is not first:
            rows = table.tensors("cpu").inverse[first.tensors("cpu").order[rows]]
        order = table.tensors(q.device).order
        if routings[0].partition.by_head:
            tokens = order[rows.to(q.device)]
            return SampledError.joined([by_head.sampled(q, k, v, table, r, tokens, scale) for r in routings]).cpu()
        q, k, v = (q, k, v) if table.identity else (x.index_select(-2, order) for x in (q, k, v))
        return sampled_error(q, k, v, table, routings, rows, scale=scale).cpu()

    def _tables_of(self, layout: TokenLayout, starts: tuple[int, ...]) -> tuple[ChunkTable, ...]:
        if layout in self._tables:
            return self._tables[layout]
        if len(self._tables) >= MOST_LAYOUTS:
            self._tables.clear()
        asked = self.settings.routing.on(layout.grid)
        shapes = [asked, *(asked.changed(tile=tile, chunk_tokens=None, order="tiles") for tile in self.chunkings)]
        tables = tuple(build_chunks(layout, starts, routing) for routing in shapes)
        if not self.options:
            self._make_options(shapes, tables)
        self._tables[layout] = tuple(t for t, family in zip(tables, self._all, strict=True) if family)
        return self._tables[layout]

    def _make_options(self, shapes: list[RoutingConfig], tables: tuple[ChunkTable, ...]) -> None:
        """Every chunking with every descriptor and top-k that is worth it; the asked routing first."""
        options: list[RoutingConfig] = []
        share: list[float] = []
        density: list[float] = []
        families: list[tuple[int, ...]] = []
        known: set[tuple] = set()  # two ways to say the same chunks
        for shape, table in zip(shapes, tables, strict=True):
            geometry = tuple((c.start, c.stop) for c in table.chunks), table.order.tobytes()
            first = len(options)
            if geometry not in known:
                known.add(geometry)
                options += _options(shape, table, asked=not families, all_rules=self.all_rules)
                share += [len(table.chunks) / table.length] * (len(options) - first)
                density += [table.density(o.budget.top_k, o.candidates.causal) for o in options[first:]]
            families.append(tuple(range(first, len(options))))
        self.options, self.chunk_share, self.tokens = tuple(options), tuple(share), tables[0].length
        self.density, self._all = tuple(density), tuple(families)

    @property
    def dense_seconds(self) -> float:
        """Of one call, the median."""
        return statistics.median(s for c in self.calls.values() for s in c.dense_seconds)

    @property
    def routed_seconds(self) -> float:
        return statistics.median(s for c in self.calls.values() for s in c.routed_seconds)


def _options(shape: RoutingConfig, table: ChunkTable, asked: bool, all_rules: bool) -> list[RoutingConfig]:
    mine = shape.changed(top_k=table.top_k(shape), density=None)
    plain = mine.changed(rule="top-k", head_density=())
    found = [mine] if asked else []
    usual = {name: kind for name, kind in DESCRIPTORS.items() if kind.several is None}
    for descriptor in (name for name, kind in usual.items() if kind.probed or all_rules):
        for k in sorted({*TOP_K, mine.budget.top_k}):
            option = plain.changed(top_k=k, descriptor=descriptor)
            if option not in found and table.density(k, shape.candidates.causal) <= DENSE_ENOUGH:
                found.append(option)
        if all_rules:
            found += [
                plain.changed(rule=name, descriptor=descriptor, **setting)
                for name, rule in RULES.items()
                for setting in rule.probed
            ]
    return list(dict.fromkeys(found))


def _squares(full: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """(squared distance, squared length of the first), in float32 at least."""
    full, other = wide(full), wide(other)
    return (other - full).square().sum(), full.square().sum()


def spread(asked: int | tuple[int, ...], steps: int) -> tuple[int, ...]:
    """The middles of so many equal parts of a run, or the steps asked for that the run has."""
    if isinstance(asked, tuple):
        return tuple(sorted({s for s in asked if s < steps}))
    count = min(asked, steps)
    return tuple((2 * i + 1) * steps // (2 * count) for i in range(count))


def borders(sigmas: Sequence[float], percent_to_sigma: Callable[[float], float]) -> tuple[float, ...]:
    """[steps + 1]: for every step the start_percent that turns it on and none before it; 0 and 1 at the ends.

    Steps lie anywhere on the scale of percents, so the middle between two noise levels is searched for.
    """
    found = [0.0]
    for before, after in zip(sigmas[:-2], sigmas[1:-1], strict=True):
        low, high, wanted = 0.0, 1.0, (before + after) / 2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if percent_to_sigma(middle) > wanted else (low, middle)
        found.append(round((low + high) / 2, 5))
    return (*found, 1.0)


def read_steps(count: int, text: str) -> int | tuple[int, ...]:
    """ "" -> count; "0, 5" -> (0, 5)."""
    words = [word for word in re.split(r"[,;\s]+", text.strip()) if word]
    if not all(re.fullmatch(f"[{DIGITS}]{{1,6}}", word) for word in words):
        raise MoCError(f"steps is {shown(text)!r}: write step numbers from 0 on, like 0, 4, 9, or leave it empty.")
    if not words and count < 1:
        raise MoCError(f"steps_probed is {count}: probe at least 1 step.")
    return tuple(sorted(set(map(int, words)))) or count
