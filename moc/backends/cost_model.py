"""Whether routing an attention call is worth it on a GPU: below some length dense attention is faster.

A cost model, not a measurement at run time: the same film is always routed or always dense. Its constants were
measured on an H100 by `benchmarks/break_even.py`, whose `--fit` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from statistics import fmean

import torch
from torch import Tensor

from ..chunks.table import ChunkTable
from ..config import DESCRIPTORS, RoutingConfig
from . import triton
from .triton.attend.own_calls import CALL, calls, heads_at_once
from .triton.dataflow import HOT_KEYS, QUERY_MAJOR, library_fits, usual_kind
from .triton.device_table import device_table_of

MARGIN = 1.1  # routing has to be faster by so much: about as far as estimates are off
MEASURED_ON = 132  # multiprocessors


@dataclass(frozen=True)
class Work:
    """How much there is to do in one call, over its heads and channels.

    dense    pairs of all tokens with all
    own      pairs that are always seen
    chosen   pairs that are chosen
    choices  chunks that rows choose
    scores   descriptors that rows are compared with
    tail     summaries of chunks that rows read
    rows     rows
    """

    dense: float
    own: float
    chosen: float
    choices: float
    scores: float
    tail: float
    rows: float


@dataclass(frozen=True)
class Costs:
    """What a unit of `Work` takes, in femtoseconds; call: what a routed call takes at least, in ms (its launches)."""

    call: float
    dense: float
    own: float
    chosen: float
    choices: float
    scores: float
    tail: float
    rows: float


# From `benchmarks/break_even.py --fit` on an H100; scores, tail and own parts from the stages of a long call
# (`benchmarks/attention.py`), choices of medium chunks from 8x8 tiles at 720p, 43.6 ms. How far off they are by now:
# docs/performance.md
COSTS = {
    "large chunks": Costs(0.87, 6.7, 6.2, 5.9, 3_300, 4.8, 7.5, 10_000),
    "medium chunks": Costs(0.87, 6.7, 6.2, 5.9, 1_500, 4.8, 7.5, 10_000),
    "small chunks": Costs(0.75, 6.6, 11, 11, 700, 4.0, 8.5, 40_000),
    "plain torch": Costs(4.05, 6.9, 7, 7, 137_000, 1_470, 9.6, 304_000),
}


def work_of(table: ChunkTable, routing: RoutingConfig, heads: int, dim: int) -> Work:
    """heads: over the batch."""
    each, n, chunks, top_k = heads * dim, table.length, len(table.chunks), table.top_k(routing)
    own, chosen = table.pairs(top_k, routing.candidates.causal)
    return Work(
        dense=each * n * n,
        own=each * own,
        chosen=each * chosen,
        choices=each * n * min(top_k, chunks),
        scores=each * n * chunks * DESCRIPTORS[routing.score.descriptor].products,
        tail=each * n * chunks * (routing.tail == "pooled"),
        rows=each * n,
    )


def kind_of(table: ChunkTable, routing: RoutingConfig, kernels: bool) -> str:
    """Key of COSTS."""
    if not kernels:
        return "plain torch"
    if usual_kind(routing.lists, table.mean_chunk) == QUERY_MAJOR:
        return "small chunks"
    return "medium chunks" if table.mean_chunk <= HOT_KEYS else "large chunks"


def library(q: Tensor, table: ChunkTable, routing: RoutingConfig) -> tuple[int, bool]:
    """(calls of an attention library for own parts of large chunks, whether our kernel stands in because they would be
    too many). q [B, H, N, D]."""
    plan = device_table_of(table, routing, torch.device("cpu"))
    heads = heads_at_once(q.shape[1], q.shape[2], q.shape[3], q.element_size())
    each = calls(plan, heads, q.shape[3])
    return -(-q.shape[1] // heads) * q.shape[0] * each, not each and library_fits(plan.geometry)


def estimate(work: Work, costs: Costs, speed: float = 1.0, processor: float = 0.0) -> tuple[float, float]:
    """Milliseconds (dense, routed) on a GPU `speed` times as fast as the measured one. processor: its work beside
    costs.call, while the GPU does its own."""
    spent = {f.name: getattr(work, f.name) * getattr(costs, f.name) * 1e-12 / speed for f in fields(work)}
    dense = spent.pop("dense")
    return dense, max(costs.call + processor, sum(spent.values()))


def applies(device: torch.device) -> bool:
    """Whether anything is known about a device."""
    return device.type == "cuda"


def pays(q: Tensor, table: ChunkTable, routing: RoutingConfig, kernels: bool) -> bool:
    """Whether routing is faster than dense attention. q [B, H, N, D]; kernels: whether the GPU's compute it.

    Where nobody knows beforehand how much will be chosen, or what choosing costs, it is taken to be: who asks for such
    a rule wants to see it.
    """
    if routing.budget.head_density:
        routing = routing.changed(density=fmean(routing.budget.head_density), head_density=())
    if not routing.same_k or triton.rule_of(routing) is None:
        return True
    kind, processor = kind_of(table, routing, kernels), 0.0
    costs = COSTS[kind]
    if kind in ("large chunks", "medium chunks"):
        number, ours = library(q, table, routing)
        processor = number * CALL
        costs = replace(costs, own=COSTS["small chunks"].own) if ours else costs
    work = work_of(table, routing, q.shape[0] * q.shape[1], q.shape[-1])
    dense, routed = estimate(work, costs, _speed(q.device), processor)
    return routed * MARGIN < dense


def _speed(device: torch.device) -> float:
    """By the number of multiprocessors. Older ones are slower each, so this errs on the side of dense."""
    if device.type != "cuda":
        return 1.0
    return torch.cuda.get_device_properties(device).multi_processor_count / MEASURED_ON
