"""`benchmarks/trace.py` on a GPU: what tracing costs, measured twice.

paired  steps without and with the trace take turns, each with all its blocks; one with it also tells what the one
        before had counted, as in ComfyUI. It is set against the mean of those before and after it, so that a clock that
        drifts is fair to both. `device` ends where the last block does, `wall` when all is moved. `noise`: the same of
        every step without it.
own     the trace's parts by themselves: device time of its kernels (torch.profiler), and what moving and telling take
        the processor. Per block, per step, and all together as a part of a step, as if nothing ran side by side.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from moc.attention import moc_attention
from moc.trace.trace import Trace

if TYPE_CHECKING:
    from benchmarks.trace import Case, Model

REPEATS = 10


def measure(case: Case, model: Model, steps: int) -> dict:
    traces = {keep: Trace(keep=keep) for keep in ("off", "routing")}
    for trace in traces.values():
        trace.start(steps + 1)
    spent: dict[str, list[tuple[float, float]]] = {"off": [], "routing": []}
    for keep in ("off", "routing"):  # compiles and warms up
        one_step(model, traces[keep], 0, 2)
    for number in range(1, steps + 1):
        for keep in ("off", "routing"):
            spent[keep].append(one_step(model, traces[keep], number))
    spent["off"].append(one_step(model, traces["off"], steps))
    row: dict = {"paired": {}, "noise": {}}
    for which, name in enumerate(("wall", "device")):
        off, on = ([s[which] for s in spent[keep]] for keep in ("off", "routing"))
        row[f"step_{name}_s"] = round(statistics.median(off), 4)
        row["paired"][name] = spread([b / ((a + c) / 2) - 1 for a, b, c in zip(off, on, off[1:])])
        if steps > 1:
            row["noise"][name] = spread([b / ((a + c) / 2) - 1 for a, b, c in zip(off, off[1:], off[2:])])
    row["own"] = {keep: own(case, model, keep, row["step_wall_s"]) for keep in ("off", "routing")}
    return row


@torch.inference_mode()
def one_step(model: Model, trace: Trace, number: int, most: int | None = None) -> tuple[float, float]:
    """(wall clock of the whole step, device time of its blocks), in seconds."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start = time.perf_counter()
    first.record()
    model.blocks(trace, number, lambda call, *args: call(*args), most)
    last.record()
    trace.move()
    torch.cuda.synchronize()
    return time.perf_counter() - start, first.elapsed_time(last) / 1000


def spread(values: list[float]) -> dict[str, float | list[float]]:
    """Median, and between which values the true median lies (95 %, or as near to it as so few values come)."""
    ordered, n = sorted(values), len(values)
    cut = 0
    while 2 * sum(math.comb(n, i) for i in range(cut + 2)) / 2**n <= 0.05 and 2 * (cut + 1) < n:
        cut += 1
    low, high = ordered[cut], ordered[n - 1 - cut]
    return {"median": round(statistics.median(values), 5), "between": [round(low, 5), round(high, 5)], "of": n}


@torch.inference_mode()
def own(case: Case, model: Model, keep: str, step: float) -> dict:
    table, routing, trace = model.table, case.routing, Trace(keep=keep)
    trace.start(REPEATS)
    q, k, v = model.qkv_of(model.x)

    def a_block(number: int, block: int) -> None:
        trace.ran_routed(number, block, trace.counts(table, routing, q, k))

    a_block(0, 0)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for block in range(REPEATS):
        a_block(0, block)
    python_us = (time.perf_counter() - start) / REPEATS * 1e6
    trace.flush()
    around, kernels = kernel_times(lambda: a_block(0, 0))
    moc_attention(q, k, v, table, routing, record=trace.counts(table, routing, q, k))
    counting = trace.counts(table, routing, q, k)
    inside, _ = kernel_times(lambda: moc_attention(q, k, v, table, routing, record=counting), "_count")
    moves, messages = [], []
    model.forget()
    trace.start(3)
    for number in range(3):
        for block in range(case.blocks):
            a_block(number, block)
        torch.cuda.synchronize()
        times = [time.perf_counter()]
        trace.move()
        torch.cuda.synchronize()
        times.append(time.perf_counter())
        model.message(trace)
        times.append(time.perf_counter())
        moves.append(times[1] - times[0])
        messages.append(times[2] - times[1])
    a_step = statistics.median(moves) + statistics.median(messages)
    return {
        "a_block": {
            "counting_us": round(inside, 1), "other_kernels_us": round(around, 1), "kernels": kernels,
            "python_us": round(python_us, 1),
        },
        "a_step": {
            "move_ms": round(statistics.median(moves) * 1e3, 2),
            "message_ms": round(statistics.median(messages) * 1e3, 2),
        },
        "share": round((case.blocks * (inside + around) / 1e6 + a_step) / step, 6),
    }  # fmt: skip


def kernel_times(call: Callable[[], object], only: str = "") -> tuple[float, int]:
    """(microseconds on the device, number of kernels) of a call, of those kernels whose name has `only` in it."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(REPEATS):
            call()
        torch.cuda.synchronize()
    events = [e for e in seen.key_averages() if only in e.key and e.self_device_time_total]
    return sum(e.self_device_time_total for e in events) / REPEATS, round(sum(e.count for e in events) / REPEATS)
