"""The eager backend against dense attention on the CPU: the whole call, both in one run, in turn.

    python benchmarks/eager_cpu.py [--threads 2] [--runs 7] [--out benchmarks/results/eager_cpu.json]

Ratios are medians over pairs (dense, MoC, dense, MoC, ...), so that a machine whose speed drifts is fair to both.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import interpolate, scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import host  # noqa: E402
from moc.attention import moc_attention  # noqa: E402
from moc.chunks.build import build_chunks  # noqa: E402
from moc.chunks.layout import TokenLayout  # noqa: E402
from moc.config import RoutingConfig  # noqa: E402

# name, grid (T, H, W), shots, settings
CASES = [
    ("12 chunks of 1365, own + k=2", (12, 35, 39), 1, RoutingConfig.of(top_k=2, own="chunk")),
    ("6 shots x 3 frames of 256, own shot + k=3 frames", (18, 16, 16), 6, RoutingConfig.of(top_k=3, own="shot")),
    (
        "6 shots x 3 frames of 256, own frame + 20 of 4x4, tail",
        (18, 16, 16),
        6,
        RoutingConfig.of(top_k=20, tile=(1, 4, 4), own="frame", descriptor="minmax", tail="pooled"),
    ),
    (
        "6 shots x 4 frames of 600, own frame + 20 of 4x4, tail",
        (24, 20, 30),
        6,
        RoutingConfig.of(top_k=20, tile=(1, 4, 4), own="frame", descriptor="minmax", tail="pooled"),
    ),
]
HEADS, DIM = 2, 128


def smooth(grid: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """[1, H, N, D] features that neighbours share, as in a video: coarse noise plus fine noise."""
    t, h, w = grid
    coarse = torch.randn(HEADS * DIM, 1, t, h // 4 + 1, w // 4 + 1, generator=generator)
    fine = interpolate(coarse, size=grid, mode="trilinear").view(1, HEADS, DIM, t * h * w).transpose(-1, -2)
    return (1.5 * fine + 0.5 * torch.randn(fine.shape, generator=generator)).contiguous()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(name: str, grid: tuple[int, int, int], shots: int, routing: RoutingConfig, runs: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    q, k, v = smooth(grid, generator), smooth(grid, generator), smooth(grid, generator)
    starts = tuple(i * grid[0] // shots for i in range(shots))
    table = build_chunks(TokenLayout(q.shape[2], grid), starts, routing)

    def dense() -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v)

    def moc() -> torch.Tensor:
        return moc_attention(q, k, v, table, routing, backend="eager")

    with torch.inference_mode():
        error = (moc() - dense()).norm() / dense().norm()
        pairs = [(seconds(dense), seconds(moc)) for _ in range(runs)]
    return {
        "case": name,
        "tokens": q.shape[2],
        "chunks": len(table.chunks),
        "density": round(table.density(routing.budget.top_k, routing.candidates.causal), 4),
        "dense_s": round(statistics.median(d for d, _ in pairs), 4),
        "moc_s": round(statistics.median(m for _, m in pairs), 4),
        "speedup": round(statistics.median(d / m for d, m in pairs), 2),
        "error_to_dense": round(float(error), 3),
        "pairs_s": [[round(d, 4), round(m, 4)] for d, m in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for case in CASES:
        rows.append(measure(*case, args.runs))
        row = rows[-1]
        times = f"{row['dense_s']:.3f} s -> {row['moc_s']:.3f} s"
        print(f"{row['speedup']:5.2f}x  {times}  {row['density']:.1%} kept  {row['case']}")
    if args.out:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "threads": args.threads,
            "torch": torch.__version__,
        }
        machine |= {"python": platform.python_version(), "capability": torch.backends.cpu.get_cpu_capability()}
        result = {
            "command": host.command("eager_cpu"),
            "machine": machine,
            "dtype": "float32",
            "heads": HEADS,
            "head_dim": DIM,
        }
        args.out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
