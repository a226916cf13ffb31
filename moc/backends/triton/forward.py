"""From q, k, v to the output: pool, select, list, attend, combine; a few heads at a time to bound memory.

Which kernels do it is a `Dataflow`, chosen before any of them runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...chunks.table import ChunkTable
from ...config import DESCRIPTORS, EIGHT_BITS, RoutingConfig
from ...routing.bits import unpack
from ..kept import KeptChoice, nothing_kept
from . import chunk_major, query_major, rule_of
from .arch import arch_of
from .attend.block import LOG2E
from .block_sizes import block_sizes_of
from .dataflow import CHUNK_MAJOR, QUERY_MAJOR, USUAL, Dataflow, Wants, as_query_major, choose_dataflow
from .device_table import DeviceTable
from .job import Job
from .lib.head_ranges import WORKSPACE, split_heads
from .lib.launch import on_its_device
from .lib.pair_counts import count_choices, count_frames
from .lib.pool import pool
from .lib.quantise import quantised
from .lists.csr import SelectionIndices, histogram, new_indices
from .lists.csr_from_bits import SelectionMask
from .lists.hot_chunks import HotChunks, count_hot_chunks, hot_chunks_of
from .lists.kept import KeptBits, KeptIndices, bytes_of_bits, bytes_of_indices, indices_from
from .select import choose, first_plan, queries
from .select.by_torch import chosen, disturbed
from .select.topk_stream import stream
from .select.union_mask import union_masks


@dataclass
class SavedForBackward:
    """What a backward pass wants. lse [B*H, N]: log2-sum-exp2 of all that a row sees; choices of runs of heads, None
    where nobody wants them."""

    lse: Tensor
    choices: list[tuple[range, SelectionIndices | SelectionMask]] | None

    @staticmethod
    def of(q: Tensor, choices: bool) -> SavedForBackward:
        """For q [B, H, N, D]."""
        lse = torch.empty(q.shape[0] * q.shape[1], q.shape[2], dtype=torch.float32, device=q.device)
        return SavedForBackward(lse, [] if choices else None)

    def add(self, heads: range, choice: SelectionIndices | SelectionMask) -> None:
        if self.choices is not None:
            self.choices.append((heads, choice))

    def hand_over(self, lse: Tensor | None) -> None:
        """Into lse [B, H, N], as natural logarithms."""
        if lse is not None:
            torch.mul(self.lse.view(lse.shape), math.log(2), out=lse)


@on_its_device
def run(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, record=None,
    *, wants: Wants = USUAL, dataflow: Dataflow | None = None, keep: SavedForBackward | None = None,
    training: bool = False, kept: KeptChoice | None = None,
) -> Tensor:  # fmt: skip
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D].

    training: with drop-off and drop-in. kept: chosen by an earlier call, or for later ones. wants: a kind or a
    selection other than the usual one; dataflow: all of it.
    """
    out = empty_output(q)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    plan = first_plan(table, routing, q)
    seen = _SelectionRecorder(record, plan, q.shape[:2])
    noise = training and bool(routing.noise)
    arch = arch_of(q, k, v)
    wants = wants._replace(gradients=keep is not None, noise=noise, rows=seen.row_by_row)
    flow = dataflow or choose_dataflow(plan.geometry, routing, arch, wants)

    rule, pooled = rule_of(routing), routing.tail == "pooled"
    kept = nothing_kept() if kept is None else kept
    kept.begin("triton", q, table, routing)
    desc = None if kept.taken or rule is None else routing.score.descriptor
    means = pool(k, plan, desc=desc) if pooled or desc else {}
    summary = (means["mean"], pool(v, plan)["mean"]) if pooled else None
    shots = None if kept.taken else _kept_shots(q, k, plan, routing)
    precision, union = precision_of(q), routing.lists == "union"
    eight = quantised(q, k, scale * LOG2E) if routing.precision == EIGHT_BITS else None
    job = Job(
        q, k, v, out, plan, flow, routing.candidates.causal, union, scale, precision, block_sizes_of(q), summary,
        None if keep is None else keep.lse, eight,
    )  # fmt: skip
    how: dict[str, Any] = dict(
        signs=DESCRIPTORS[routing.score.descriptor].signed, causal=routing.candidates.causal,
        precision=_careful(precision), config=job.configs.router,
    )  # fmt: skip
    every = range(q.shape[0] * q.shape[1])
    job.full_rows(every)
    whole = noise or rule != "top-k"  # what heads choose is asked of all of them at once
    for heads in [every] if whole else split_heads(every, chunk_major.bytes_of_choice(plan, flow.direct)):
        if flow.direct:
            if kept.taken:
                choice = indices_from(kept.next(), heads, plan)
            else:
                choice = new_indices(len(heads), plan)
                stream(queries(q, heads), means["desc"], shots, choice, plan, heads, by=flow.selection, **how)
                kept.add(bytes_of_indices(heads, plan), partial(KeptIndices.of, choice.indices, choice.number))
            hot = hot_chunks_of(choice, plan) if flow.hot else None
            if hot is None:
                histogram(choice)
            seen.choice(choice, heads, hot)
            if keep is not None:
                keep.add(heads, choice)
            chunk_major.attend(job, None, chunk_major.lists_of(job, choice), heads, hot)
            continue
        if kept.taken:
            sel, plan = kept.next().bits(plan)
        else:
            sel = torch.empty(len(heads), plan.words, plan.length, dtype=torch.int32, device=q.device)
            if rule is not None:
                by: dict[str, Any] = dict(by=flow.selection, arch=arch)
                plan = choose(q, means["desc"], shots, sel, plan, routing, heads, **by, scale=scale, **how)
            else:
                plan = chosen(q, k, v, shots, sel, plan, routing, scale=scale)
            if noise:
                plan = disturbed(sel, shots, plan, routing, q.shape[:2])
            if union:
                union_masks(sel, shots, plan, heads, causal=routing.candidates.causal)
            kept.add(bytes_of_bits(heads, plan, union), partial(KeptBits.of, sel, plan, union))
        job.plan = seen.plan = plan
        uneven = rule != "top-k" or not routing.same_k
        if uneven and flow.kind == CHUNK_MAJOR and chunk_major.bytes_a_head(q, plan) > WORKSPACE:
            # partials of one head, some of whose rows choose very many, find no room
            job.flow = flow = as_query_major(flow)
        seen.bits(sel, heads)
        if keep is not None and plan.top_k:
            keep.add(heads, SelectionMask.of_plan(sel, plan))
        (query_major.attend if flow.kind == QUERY_MAJOR else chunk_major.attend_bits)(job, sel, heads)
    kept.end()
    seen.done()
    return out


class _SelectionRecorder:
    """Hands what was chosen to who wants to know: counted by frame and chunk, or row by row."""

    def __init__(self, record, plan: DeviceTable, heads: tuple[int, ...]) -> None:
        self.record, self.plan, self.heads = record, plan, heads
        self.pairs = record.frame_pairs(heads[1]) if hasattr(record, "frame_pairs") else None
        self.row_by_row = record is not None and self.pairs is None
        self.kept: list[Tensor] = []

    def choice(self, choice: SelectionIndices, heads: range, popular: HotChunks | None) -> None:
        if self.pairs is not None:
            count_choices(choice.count, self.plan, heads, *self.pairs)
            if popular is not None:
                count_hot_chunks(popular, choice, self.plan, heads, *self.pairs)
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


def _kept_shots(q: Tensor, k: Tensor, plan: DeviceTable, routing: RoutingConfig) -> Tensor | None:
    """`routing.kept_shots` from pooled chunks: [B*H, S, S] bytes."""
    if routing.candidates.shots_kept is None:
        return None
    t = plan.table.tensors(q.device)
    shots = max(c.shot for c in plan.table.chunks) + 1
    index = torch.arange(shots, device=q.device)
    weight = (t.chunk_shot == index[:, None]) * t.lengths.float()  # [S, C]
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
    reader, seen = (weight @ pool(x, plan, exact=True)["exact"] for x in (q, k))
    own = index[:, None] == index
    allowed = ~own & (index[:, None] >= index if routing.candidates.causal else torch.ones_like(own))
    # not `routing.select`: it may ask the host whether there are ties
    order = (reader @ seen.mT).masked_fill(~allowed, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return ((order.argsort(dim=-1) < routing.candidates.shots_kept) & allowed | own).to(torch.uint8).contiguous()


def _record(record, sel: Tensor, plan: DeviceTable, heads: tuple[int, ...]) -> None:
    """Hand the choice over in blocks of rows."""
    step = max(64, 2**28 // (plan.words * 32 * len(sel)))
    for low in range(0, plan.length, step):
        rows = slice(low, min(low + step, plan.length))
        record.add(rows, unpack(sel, plan.chunks, rows).unflatten(0, heads))
