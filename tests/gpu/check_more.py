"""What test_layouts.py asks beside its layouts: calls that find too little memory, plain torch, another GPU, and a GPU
that other processes use at the same time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from moc.attention import moc_attention
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.trace.pair_counts import Counts

R = RoutingConfig.of


def film(grid, text=0, reference_tokens=0, after=0) -> TokenLayout:
    tokens = grid[0] * grid[1] * grid[2]
    spans, place = [], 0
    for kind, size in (("text", text), ("reference", reference_tokens)):
        if size:
            spans.append(Span(kind, place, place + size))
            place += size
    if after:
        spans.append(Span("other", place + tokens, place + tokens + after))
    return TokenLayout(place + tokens + after, grid, place, tuple(spans))


def poison(q: Tensor) -> None:
    """Leave NaN in the memory that the next output is likely to get."""
    for _ in range(4):
        torch.full_like(q, torch.nan)


MEMORY = {
    "tiles, tail": (
        film((20, 24, 40), 64), (0, 6, 13), R(top_k=16, tile=(1, 12, 10), own="frame", tail="pooled"), 1,
    ),
    "frames, batch of 2": (film((20, 24, 40)), (0,), R(top_k=12, own="chunk"), 2),
    "pieces of frames": (film((20, 24, 40)), (0,), R(top_k=16, chunk_tokens=240, own="chunk"), 1),
}  # fmt: skip


def check_memory(name: str) -> dict[str, Any]:
    """A call for which there is memory for a part of its heads: the same bits and counts, and it says so."""
    (layout, starts, routing, batch), heads = MEMORY[name], 16
    table = build_chunks(layout, starts, routing)
    torch.cuda.empty_cache()  # else the inputs may lie in a large piece that counts as taken
    qkv = torch.randn(batch, layout.length, 3, heads, 128, device="cuda", dtype=torch.bfloat16)
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    counted, again = (Counts(table, heads, q.device, batch) for _ in "ab")
    notes: list[str] = []

    def call(counts: Counts) -> Tensor:
        return moc_attention(q, k, v, table, routing, record=counts, note=notes.append)

    call(Counts(table, heads, q.device, batch))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    taken, before = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
    out = call(counted)
    short = taken + (torch.cuda.max_memory_allocated() - before) * 3 // 4
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(short / torch.cuda.get_device_properties(0).total_memory)
    try:
        parts = call(again)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    same = torch.equal(out, parts) and torch.equal(counted.result()[0], again.result()[0])
    said = len(notes) == 1 and "heads at a time" in notes[0]
    return {"case": f"want of memory: {name}", "dtype": "bfloat16", "engine": "auto", "limit_mib": short >> 20,
            "notes": notes, "ok": bool(same and said)}  # fmt: skip


def check_eager(name: str, device: str = "cuda") -> dict[str, Any]:
    """What takes over where not even one head finds memory: plain torch against the kernels, with poisoned memory."""
    layout, starts, routing, batch = MEMORY[name]
    table = build_chunks(layout, starts, routing)
    q, k, v = torch.randn(3, batch, 2, layout.length, 128, device=device, dtype=torch.bfloat16)
    want = moc_attention(q, k, v, table, routing)
    poison(q)
    out = moc_attention(q, k, v, table, routing, backend="eager")
    far = float((out.float() - want.float()).norm() / want.float().norm())
    return {"case": f"plain torch: {name}", "dtype": "bfloat16", "engine": "eager", "error": far, "ok": far < 0.02}


BESIDE = MEMORY | {
    "thousands of tiles, tail": (
        film((20, 24, 40)), (0,),
        R(top_k=20, tile=(1, 2, 3), own="frame", descriptor="minmax", tail="pooled"), 1,
    ),
    "union lists": (film((20, 24, 40)), (0,), R(top_k=16, tile=(1, 8, 8), own="frame", lists="union"), 1),
    "own shot, causal": (film((20, 24, 40), 64), (0, 6, 13), R(top_k=3, own="shot", causal=True), 1),
}  # fmt: skip
SECONDS = 4.0  # for every layout


def _use_gpu(started) -> None:
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    while True:
        for _ in range(20):
            torch.mm(x, x)
        torch.cuda.synchronize()
        started.set()


@contextmanager
def beside_others(processes: int = 3) -> Iterator[dict[str, tuple[tuple, Tensor]]]:
    """The GPU turns from process to process in the middle of a kernel. Gives by name: a call, and its output from
    before."""
    calls: dict[str, tuple[tuple, Tensor]] = {}
    for name, (layout, starts, routing, batch) in BESIDE.items():
        q, k, v = torch.randn(3, batch, 8, layout.length, 128, device="cuda", dtype=torch.bfloat16)
        call = q, k, v, build_chunks(layout, starts, routing), routing
        calls[name] = call, moc_attention(*call, backend="triton")
    context = multiprocessing.get_context("spawn")
    started = [context.Event() for _ in range(processes)]
    others = [context.Process(target=_use_gpu, args=(event,), daemon=True) for event in started]
    for other in others:
        other.start()
    try:
        if not all(event.wait(60) for event in started):
            raise RuntimeError("the other processes never came to use the GPU")
        yield calls
    finally:
        for other in others:
            other.terminate()


def check_beside(name: str, calls: dict[str, tuple[tuple, Tensor]]) -> dict[str, Any]:
    """What comes out must be the bits from before."""
    call, alone = calls[name]
    times = wrong = 0
    begin = time.perf_counter()
    while time.perf_counter() < begin + SECONDS:
        times += 1
        wrong += not torch.equal(moc_attention(*call, backend="triton"), alone)
    return {"case": f"beside other processes: {name}", "dtype": "bfloat16", "engine": "auto",
            "calls": times, "wrong": wrong, "ok": not wrong}  # fmt: skip


def check_device() -> dict[str, Any]:
    """A model on the second GPU while the first is the current one: the same bits, forward and backward."""
    layout, routing = film((8, 24, 40), 64), R(top_k=3, own="frame", tail="pooled")
    table = build_chunks(layout, (0, 3), routing)
    torch.manual_seed(0)
    x = torch.randn(3, 1, 4, layout.length, 128, dtype=torch.bfloat16)
    found = []
    for device in ("cuda:0", "cuda:1"):
        q, k, v = x.to(device).requires_grad_().unbind(0)
        with torch.no_grad():
            plain = moc_attention(q, k, v, table, routing, backend="triton")
        out = moc_attention(q, k, v, table, routing, backend="triton")
        found.append(
            [y.cpu() for y in (plain, out.detach(), *torch.autograd.grad(out.float().square().sum(), (q, k, v)))]
        )
    same = all(torch.equal(a, b) for a, b in zip(*(f[:2] for f in found), strict=True))
    near = all(torch.allclose(a, b, rtol=0.02, atol=0.02) for a, b in zip(*(f[2:] for f in found), strict=True))
    return {"case": "another device", "dtype": "bfloat16", "engine": "auto", "ok": bool(same and near)}
