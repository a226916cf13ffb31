"""What it costs to trace a sampling step: all that the trace does, as a part of a step without it.

    python benchmarks/trace.py [--device cuda] [--steps 7] [--threads 2] [--out benchmarks/results/trace_cpu.json]

A step is what a video model spends most of its time on, in every block: projections, self-attention with MoC, and the
feed-forward layers; with a trace, what it counted is moved and a browser is told. Blocks share their weights. On a CPU,
steps with the trace off, on, and on with attention take turns, so that a machine whose speed drifts is fair to all.
`paired` is the median of (on / off - 1) over the turns. Calls wait for their work there: time is processor time, which
others on the machine do not lengthen, and `own` is what was spent inside the trace's own code, exact where `paired`
drowns in noise. What is done on a GPU is in `benchmarks/trace_gpu.py`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import host, trace_gpu  # noqa: E402
from moc.attention import moc_attention  # noqa: E402
from moc.chunks.build import build_chunks  # noqa: E402
from moc.chunks.layout import TokenLayout  # noqa: E402
from moc.config import RoutingConfig  # noqa: E402
from moc.trace.export import MOST_LINES, of_heatmap, of_trace  # noqa: E402
from moc.trace.heatmap import Collected  # noqa: E402
from moc.trace.trace import AHEAD, KEEP, Trace  # noqa: E402

TILES = {"tile": (1, 4, 4), "own": "frame", "descriptor": "minmax", "tail": "pooled"}
LARGE_TILES = {**TILES, "tile": (1, 8, 8)}


@dataclass(frozen=True)
class Case:
    name: str
    grid: tuple[int, int, int]
    shots: int
    heads: int
    routing: RoutingConfig
    blocks: int = 2
    dim: int = 128


CASES = {
    "cpu": [
        Case("6 shots, a frame a chunk, own shot", (12, 20, 26), 6, 4, RoutingConfig.of(top_k=3, own="shot")),
        Case("6 shots, 4x4 tiles, own frame", (12, 16, 24), 6, 4, RoutingConfig.of(top_k=20, **TILES)),
    ],
    "cuda": [  # as many blocks as models of that width have: what is done once a step must not weigh too much
        Case("480p, a frame a chunk, own chunk", (21, 30, 52), 1, 40, RoutingConfig.of(top_k=3, own="chunk"), 40),
        Case("8 shots of 480p, own shot", (40, 30, 52), 8, 24, RoutingConfig.of(top_k=5, own="shot", causal=True), 30),
        Case("8 shots of 480p, 8x8 tiles", (40, 30, 52), 8, 24, RoutingConfig.of(top_k=32, **LARGE_TILES), 30),
    ],
}


class Model:
    """Transformer blocks of one case with random weights, and the trace of a run."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        self.case, wide, frames = case, case.heads * case.dim, case.grid[0]
        layout = TokenLayout(frames * case.grid[1] * case.grid[2], case.grid)
        self.table = build_chunks(layout, tuple(s * frames // case.shots for s in range(case.shots)), case.routing)
        torch.manual_seed(0)
        weight = lambda *size: torch.randn(*size, device=device, dtype=dtype) * size[-1] ** -0.5  # noqa: E731
        self.x = torch.randn(1, layout.length, wide, device=device, dtype=dtype)
        self.qkv, self.out = weight(3 * wide, wide), weight(wide, wide)
        self.up, self.down = weight(4 * wide, wide), weight(wide, 4 * wide)
        self.collected = Collected()

    def qkv_of(self, x: Tensor) -> tuple[Tensor, ...]:
        heads = linear(x, self.qkv).unflatten(-1, (3, self.case.heads, self.case.dim))
        return heads.permute(2, 0, 3, 1, 4).unbind(0)

    def step(self, trace: Trace, number: int, timed: Callable) -> None:
        """timed(function, *arguments): how the trace's own functions are called. As in `moc/host/state.py`."""
        self.blocks(trace, number, timed)
        if not timed(trace.move):
            timed(self.message, trace)

    def blocks(self, trace: Trace, number: int, timed: Callable, most: int | None = None) -> None:
        x, case = self.x, self.case
        for block in range(most or case.blocks):
            q, k, v = self.qkv_of(x)
            counts = timed(trace.counts, self.table, case.routing, q, k)
            record = None if counts is None else Timed(counts, timed)
            attended = moc_attention(q, k, v, self.table, case.routing, record=record)
            timed(trace.ran_routed, number, block, counts)
            if block + 1 == AHEAD:
                timed(self.message, trace)
            x = x + linear(attended.transpose(1, 2).flatten(2), self.out)
            x = x + linear(gelu(linear(x, self.up)), self.down)
            x = x / x.std()

    def forget(self) -> None:
        self.collected = Collected()

    def message(self, trace: Trace) -> int:
        """What a browser is sent after a step."""
        new = trace.arrived()
        if not new:
            return 0
        self.collected.add(new)
        maps = [of_heatmap(self.collected.heatmap(view, MOST_LINES[view])) for view in ("frames", "shots")]
        return len(json.dumps([of_trace(trace), *maps]))


class Timed:
    """Counts whose time is measured."""

    def __init__(self, counts, timed: Callable) -> None:
        self.counts, self.timed = counts, timed

    def __getattr__(self, name: str):
        part = getattr(self.counts, name)
        return (lambda *args: self.timed(part, *args)) if name in ("add", "frame_pairs") else part


def measure(case: Case, device: str, steps: int) -> dict:
    model = Model(case, device, torch.float32 if device == "cpu" else torch.bfloat16)
    row = {"case": case.name, "tokens": model.table.length, "chunks": len(model.table.chunks), "heads": case.heads}
    row["blocks"] = case.blocks
    return row | (on_cpu(case, model, steps) if device == "cpu" else trace_gpu.measure(case, model, steps))


def on_cpu(case: Case, model: Model, steps: int) -> dict:
    traces = {keep: Trace(keep=keep) for keep in KEEP}
    for trace in traces.values():
        trace.start(steps + 1)
    spent: dict[str, list[float]] = {keep: [] for keep in KEEP}
    own: dict[str, list[float]] = {keep: [] for keep in KEEP}
    clock = time.process_time
    for number in range(steps + 1):
        for keep, trace in list(traces.items())[:: 1 if number % 2 else -1]:
            inside = 0.0

            def timed(call, *args):
                nonlocal inside
                start = clock()
                result = call(*args)
                inside += clock() - start
                return result

            start = clock()
            with torch.inference_mode():
                model.step(trace, number, timed)
            if number:  # the first one warms up
                spent[keep].append(clock() - start)
                own[keep].append(inside)
    off = spent["off"]
    row = {"step_s": round(statistics.median(off), 4)}
    for keep in KEEP:
        name = keep.replace(" and ", "_")
        row[f"{name}_paired"] = round(statistics.median(a / b for a, b in zip(spent[keep], off)) - 1, 4)
        row[f"{name}_own"] = round(statistics.median(a / b for a, b in zip(own[keep], off)), 6)
    kept = sum(r.chosen.numel() * 2 for r in traces["routing"].records)
    row["kilobytes_a_step"] = round(kept / (steps + 1) / 1000, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=CASES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for case in CASES[args.device]:
        rows.append(measure(case, args.device, args.steps))
        print(json.dumps(rows[-1]), flush=True)
    if args.out:
        cpu = args.device == "cpu"
        machine = {
            "device": platform.processor() or platform.machine() if cpu else torch.cuda.get_device_name(),
            "threads": args.threads,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        result = {"command": host.command("trace"), "machine": machine, "rows": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
