"""From q, k, v to the output: pool, route, and one of two engines, a few heads at a time to bound memory.

chunk-major  few large chunks: every chunk meets the rows that chose it (`routed`), partials add up per row (`tile`)
tile-major   many small chunks: a tile of rows meets the union of what its rows chose, rows masked (`union`, `tile`)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...chunks.table import ChunkTable
from ...config import DESCRIPTORS, RoutingConfig
from . import RULES
from .device_table import Plan
from .job import Job, bytes_a_head
from .lib.head_ranges import WORKSPACE, parts, split
from .lib.launch import on_its_device
from .lib.pair_counts import count_choices, count_frames
from .lib.pool import pool
from .lists.csr import Choice, choice_of, counters, new_choice, ranked
from .lists.csr_from_bits import Bits
from .lists.hot_chunks import Popular, count_popular, popular_of
from .select import choose, first_plan, queries, streamed
from .select.by_torch import chosen, disturbed, unpack
from .select.topk_stream import few, stream
from .select.union_mask import share_lists

SMALL_CHUNK = 32  # tokens: up to here tile-major (benchmarks/results: at 54 tokens chunk-major is faster)
DIRECT = True  # chunk-major, many chunks: `stream` writes down the chunks of a row (else bits)


@dataclass
class Kept:
    """What a backward pass wants. lse [B*H, N]: log2-sum-exp2 of all that a row sees; choices of runs of heads."""

    lse: Tensor
    choices: list[tuple[range, Choice | Bits]] = field(default_factory=list)


@on_its_device
def run(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, record=None,
    *, engine: str | None = None, keep: Kept | None = None, training: bool = False,
) -> Tensor:  # fmt: skip
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]. training: with drop-off and drop-in."""
    out = empty_output(q)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    plan = first_plan(table, routing, q)
    precision = precision_of(q)
    by_range = DESCRIPTORS[routing.descriptor].signed
    means = pool(k, plan, pair=routing.descriptor)
    summary = (means["mean"], pool(v, plan)["mean"]) if routing.tail == "pooled" else None
    shots = _kept_shots(q, k, plan, routing)
    ruled = routing.rule != "top-k"
    union = routing.lists == "union"
    engine = "tiles" if union else engine or ("tiles" if plan.typical <= SMALL_CHUNK else "chunks")
    job = Job(q, k, v, out, plan, routing.causal, scale, precision, summary, union, keep and keep.lse)
    seen = _Seen(record, plan, q.shape[:2])
    job.see_all(range(q.shape[0] * q.shape[1]))
    noisy = training and bool(routing.drop_off or routing.drop_in)
    even = routing.same_k and not ruled and not noisy and plan.top_k > 0
    off_tail = engine == "chunks" and even and (job.take_off or summary is None)
    direct = off_tail and DIRECT and streamed(q, plan) and not few(q, plan)
    popular = off_tail and job.by_popularity and keep is None
    every = range(q.shape[0] * q.shape[1])
    for heads in [every] if noisy or ruled else split(every, bytes_of_choice(plan, direct)):
        how: dict[str, Any] = dict(
            split=by_range, causal=routing.causal, precision=_careful(precision), config=job.configs.router
        )
        if direct:
            choice = new_choice(len(heads), plan)
            stream(queries(q, heads), means["pair"], shots, choice, plan, heads, **how)
            liked = popular_of(choice, plan) if popular and not seen.row_by_row else None
            if liked is None:
                ranked(choice)
            seen.choice(choice, heads, liked)
            if keep is not None:
                keep.choices.append((heads, choice))
            job.chunks(None, job.listed(choice), heads, liked)
            continue
        sel = torch.empty(len(heads), plan.words, plan.length, dtype=torch.int32, device=q.device)
        if routing.rule in RULES:
            plan = choose(q, means["pair"], shots, sel, plan, routing, heads, scale=scale, **how)
        else:
            plan = chosen(q, k, shots, sel, plan, routing, scale=scale)
        if noisy:
            plan = disturbed(sel, shots, plan, routing, q.shape[:2])
        job.plan = seen.plan = plan
        if (ruled or not routing.same_k) and bytes_a_head(q, plan, "chunks", False) > WORKSPACE:
            engine = "tiles"  # partials of one head, some of whose rows choose very many, find no room
        if union:
            share_lists(sel, shots, plan, heads, causal=routing.causal)
        seen.bits(sel, heads)
        if keep is not None and plan.top_k:
            keep.choices.append((heads, Bits.of_plan(sel, plan)))
        if engine == "tiles":
            for some, part in parts(heads, bytes_a_head(q, plan, engine, union)):
                job.tiles(sel[part], some)
            continue
        for some, part in parts(heads, bytes_of_choice(plan)):
            bits = Bits.of_plan(sel[part], plan)
            if popular:
                choice = choice_of(bits, plan)
                liked = popular_of(choice, plan)
                job.chunks(None, job.listed(choice), some, liked)
            else:
                job.chunks(bits.sel, job.listed(bits) if plan.top_k else None, some)
    seen.done()
    return out


def bytes_of_choice(plan: Plan, slots: bool = False) -> int:
    """What the choice of one head takes up as bits or slots, and so many entries of lists at most; or, where that is
    more, what counters of a long film's many chunks do, and where they stand."""
    if not slots:
        return plan.length * 4 * max(plan.top_k, plan.words)
    return 4 * max(plan.length * plan.top_k, 2 * plan.chunks * math.prod(counters(plan)))


class _Seen:
    """Hands what was chosen to who wants to know: counted by frame and chunk, or row by row."""

    def __init__(self, record, plan: Plan, heads: tuple[int, ...]) -> None:
        self.record, self.plan, self.heads = record, plan, heads
        self.pairs = record.frame_pairs(heads[1]) if hasattr(record, "frame_pairs") else None
        self.row_by_row = record is not None and self.pairs is None
        self.kept: list[Tensor] = []

    def choice(self, choice: Choice, heads: range, popular: Popular | None) -> None:
        if self.pairs is not None:
            count_choices(choice.count, self.plan, heads, *self.pairs)
            if popular is not None:
                count_popular(popular, choice, self.plan, heads, *self.pairs)
        elif self.row_by_row:
            self.kept.append(choice.bits(self.plan))

    def bits(self, sel: Tensor, heads: range) -> None:
        if self.pairs is not None:
            count_frames(sel, self.plan, heads, *self.pairs)
        elif self.row_by_row:
            self.kept.append(sel)

    def done(self) -> None:
        if self.kept:
            _record(self.record, torch.cat(self.kept), self.plan, self.heads)


def empty_output(q: Tensor) -> Tensor:
    """Laid out like q in memory, where its rows are whole."""
    return torch.empty_like(q) if q.stride(-1) == 1 else torch.empty(q.shape, dtype=q.dtype, device=q.device)


def precision_of(q: Tensor) -> str:
    if q.device.type != "cuda":
        return "ieee"
    return "tf32"


def _careful(precision: str) -> str:
    """Which chunk wins should not hang on tf32: three products give float32's digits. Half precision ignores it."""
    return "tf32x3" if precision == "tf32" else precision


def _kept_shots(q: Tensor, k: Tensor, plan: Plan, routing: RoutingConfig) -> Tensor | None:
    """`routing.kept_shots` from pooled chunks: [B*H, S, S] bytes."""
    if routing.shots_kept is None:
        return None
    t = plan.table.tensors(q.device)
    shots = max(c.shot for c in plan.table.chunks) + 1
    index = torch.arange(shots, device=q.device)
    weight = (t.chunk_shot == index[:, None]) * t.lengths.float()  # [S, C]
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
    reader, seen = (weight @ pool(x, plan, exact=True)["exact"] for x in (q, k))
    own = index[:, None] == index
    allowed = ~own & (index[:, None] >= index if routing.causal else torch.ones_like(own))
    # not `routing.select`: it may ask the host whether there are ties
    order = (reader @ seen.mT).masked_fill(~allowed, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return ((order.argsort(dim=-1) < routing.shots_kept) & allowed | own).to(torch.uint8).contiguous()


def _record(record, sel: Tensor, plan: Plan, heads: tuple[int, ...]) -> None:
    """Hand the choice over in blocks of rows."""
    step = max(64, 2**28 // (plan.words * 32 * len(sel)))
    for low in range(0, plan.length, step):
        rows = slice(low, min(low + step, plan.length))
        record.add(rows, unpack(sel, plan.chunks, rows).unflatten(0, heads))
