"""What MoC gains on this machine, as a table to post: python -m benchmarks.mine [--model wan-14b] [--size 1280x720]

    python -m benchmarks.mine --size 832x480 --frames 161 --shots 4
    python -m benchmarks.mine --model wan-1.3b --presets recommended,fast

Times the attention call densely, by torch and by SageAttention where that is installed, and with MoC's presets; needs
neither ComfyUI nor the model's weights. *Step* puts the measured projections of one block of the model's size
beside it: an estimate of what a sampling step gains. Inputs are as coherent as the demo model's (benchmarks/cases.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from benchmarks.cases import Case
from benchmarks.timing import Attention, cost
from moc.attention import moc_attention
from moc.backends import cost_model, triton
from moc.config import PRESETS
from moc.errors import MoCError
from moc.shots.time_rules import rule_of

VERSION = re.search(r'^version = "(.+)"', (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"), re.M)
MOST_ROWS = 8192  # of the projections, whose time grows evenly with rows


@dataclass(frozen=True)
class Model:
    """Heads, their size, width of the feed-forward layer, pixels of a token's side."""

    heads: int
    dim: int
    feed_forward: int
    pixels: int


MODELS = {
    "wan-14b": Model(40, 128, 13824, 16),
    "wan-5b": Model(24, 128, 14336, 32),
    "wan-1.3b": Model(12, 128, 8960, 16),
    "tiny": Model(2, 32, 128, 64),
}
FAMILY = "Wan"


@dataclass(frozen=True)
class Row:
    """One way to compute attention: milliseconds of a call over all heads; kept: share of pairs."""

    name: str
    kept: float
    ms: float
    note: str = ""


def case_of(model: Model, size: tuple[int, int], frames: int, shots: int, preset: str) -> Case:
    width, height = size
    grid = rule_of(FAMILY).latents(frames), height // model.pixels, width // model.pixels
    routing = PRESETS[preset].routing
    return Case(preset, grid, model.heads, routing, 0, 0, shots, dim=model.dim, coherent="trained")


def dense_calls(cuda: bool) -> dict[str, Attention]:
    calls: dict[str, Attention] = {"dense, torch": scaled_dot_product_attention}
    if cuda and importlib.util.find_spec("sageattention"):
        from sageattention import sageattn

        calls["dense, SageAttention"] = sageattn
    return calls


def in_memory(call: Callable[[int], float], heads: int) -> tuple[float, str]:
    """Milliseconds over all heads, of as many at once as fit into memory; and a note where those are not all."""
    some = heads
    while True:
        try:
            return call(some) * heads / some, "" if some == heads else f"{some} of {heads} heads at a time"
        except torch.OutOfMemoryError:
            if some == 1:
                raise
        torch.cuda.empty_cache()
        some = -(-some // 2)


def measure(cases: list[Case], seconds: float, device: str) -> list[Row]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    rows = []

    def timed(case: Case, call: Attention, heads: int) -> float:
        return cost(call, *replace(case, heads=heads).inputs(device, dtype), seconds=seconds)["row_ms"]

    for name, call in dense_calls(device == "cuda").items():
        rows.append(Row(name, 1.0, *in_memory(partial(timed, cases[0], call), cases[0].heads)))
    for case in cases:
        table = case.table()
        kept = table.density(table.top_k(case.routing), case.routing.candidates.causal)
        ms, note = in_memory(partial(timed, case, routed(case)), case.heads)
        if device == "cuda" and not worth_it(case, dtype):
            note = "; ".join(filter(None, (note, "ComfyUI would run this dense")))
        rows.append(Row(case.name, kept, ms, note))
    return rows


def routed(case: Case) -> Attention:
    table = case.table()
    return lambda q, k, v: moc_attention(q, k, v, table, case.routing)


def worth_it(case: Case, dtype: torch.dtype) -> bool:
    table = case.table()
    q = torch.empty(1, 1, 1, case.dim, device="cuda", dtype=dtype).expand(1, case.heads, table.length, case.dim)
    return cost_model.pays(q, table, case.routing, kernels=triton.machine(q.device) is None)


def projections(model: Model, tokens: int, seconds: float, device: str) -> float:
    """Milliseconds of what a block does beside self-attention: its matrix products with weights, for so many rows."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    width, rows = model.heads * model.dim, min(tokens, MOST_ROWS)
    x = torch.randn(rows, width, device=device, dtype=dtype)
    square = torch.randn(width, width, device=device, dtype=dtype)
    wide = torch.randn(model.feed_forward, width, device=device, dtype=dtype)

    def block(x: Tensor, square: Tensor, wide: Tensor) -> Tensor:
        for _ in range(6):  # q, k, v and out; q and out of the attention to the text
            y = linear(x, square)
        return linear(linear(y, wide), wide.T)

    return cost(block, x, square, wide, seconds=seconds)["row_ms"] * tokens / rows


def written(rows: list[Row], rest: float) -> str:
    """A table in Markdown. Gains are over the fastest dense call."""
    best = min(row.ms for row in rows if row.kept == 1.0)
    lines = ["| attention | kept | a call | gain | step, estimated | |", "|---|---|---|---|---|---|"]
    for row in rows:
        step = (best + rest) / (row.ms + rest)
        lines.append(
            f"| {row.name} | {row.kept:.1%} | {row.ms:,.1f} ms | {best / row.ms:.2f}x | {step:.2f}x | {row.note} |"
        )
    return "\n".join(lines)


def machine(device: str) -> str:
    if device == "cpu":
        name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    else:
        facts = torch.cuda.get_device_properties(0)
        kernels = triton.machine(torch.device("cuda", 0)) or "MoC's GPU kernels"
        name = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {kernels}"
    return f"Mixture of Contexts {VERSION[1] if VERSION else '?'} on {name}, torch {torch.__version__}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mine", description="What MoC gains on this machine.")
    parser.add_argument("--model", choices=list(MODELS), default="wan-14b")
    parser.add_argument("--size", default="1280x720", help="width x height in pixels")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--presets", default="large pictures,recommended,fast,paper multi-shot")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    asked = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, size = MODELS[asked.model], read_size(asked.size)
    cases = [case_of(model, size, asked.frames, asked.shots, preset) for preset in asked.presets.split(",")]
    tokens = cases[0].table().length
    print(machine(device))
    print(f"{asked.model}, {asked.size}, {asked.frames} frames, {asked.shots} shots: {tokens:,} tokens\n", flush=True)
    with torch.inference_mode():
        rows = measure(cases, asked.seconds, device)
        rest = projections(model, tokens, asked.seconds, device)
    print(written(rows, rest))


def read_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise MoCError(f"size is {text!r}: write it like 1280x720.")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    main()
