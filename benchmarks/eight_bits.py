"""What 8 bits change of attention over the same choice: error to 16 bits, beside that of the routing itself.

python -m benchmarks.eight_bits [FOLDER] [--out benchmarks/results/eight_bits.json]

FOLDER holds what `benchmarks/capture.py` kept of the demo model; without it, inputs of the same size are made like
those captures (`cases.py`). Computed by plain torch in float32, so that nothing but 8 bits differs: what a GPU's
kernels round comes on top. `error` is ||8 bits - 16 bits|| / ||16 bits|| of a call, `to_dense` what the routing loses
in 16 bits and in 8. `plain` is the error without taking the mean off the keys, `e4m3` that of float8 numbers in place
of whole ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import host
from benchmarks.capture import Call, load
from benchmarks.cases import MEDIUM, SMALL, Case
from moc.attention import moc_attention
from moc.backends import eager, eight_bits
from moc.config import EIGHT_BITS, PRESETS, RoutingConfig
from moc.trace.pair_counts import Counts

GRID, HEADS, STARTS = (18, 16, 16), 2, (0, 6, 12)  # as the demo model's
BLOCKS = (1, 4, 7)  # of the captures
ROUTINGS = {
    "recommended": PRESETS["recommended"].routing,
    "fast": PRESETS["fast"].routing,
    "8x8 tiles": SMALL.changed(top_k=8),
    "pieces of 250": MEDIUM.changed(top_k=4),
    "frames": RoutingConfig.of(top_k=3, own="chunk"),
    "paper, own shot": RoutingConfig.of(top_k=3, own="shot", causal=True, chunk_tokens=256),
}
E4M3_MOST = 448.0


def inputs(folder: Path | None) -> Iterator[tuple[str, Call]]:
    """(what it is, one attention call)."""
    if folder is None:
        for dim in (64, 128):
            case = Case("", GRID, HEADS, ROUTINGS["frames"], 0, 0, shots=len(STARTS), dim=dim, coherent="trained")
            facts = {"grid": GRID, "starts": STARTS}
            yield f"made, head dim {dim}", Call(facts, 0, *case.inputs("cpu", torch.float32))
        return
    for path in sorted(folder.glob("trained_*.safetensors")):
        for block in BLOCKS:
            call = load(path, block)
            yield f"seed {call.facts['seed']} step {call.facts['step']} block {block}", call


def as_e4m3(q: Tensor, k: Tensor) -> eight_bits.EightBits:
    """A scale for every query and for every 64 keys, as for whole numbers."""

    def rounded(x: Tensor, most: Tensor) -> Tensor:
        scale = most.clamp(min=1e-12) / E4M3_MOST
        return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale

    whole, eight_bits._rounded = eight_bits._rounded, rounded
    try:
        return eight_bits.in_eight_bits(q, k)
    finally:
        eight_bits._rounded = whole


def without_mean(q: Tensor, k: Tensor) -> eight_bits.EightBits:
    usual, eight_bits.smoothed = eight_bits.smoothed, torch.zeros_like
    try:
        return eight_bits.in_eight_bits(q, k)
    finally:
        eight_bits.smoothed = usual


WAYS = {"error": eight_bits.in_eight_bits, "plain": without_mean, "e4m3": as_e4m3}


def away(out: Tensor, exact: Tensor) -> float:
    return float((out - exact).norm() / exact.norm())


def measure(call: Call, routing: RoutingConfig) -> dict[str, float]:
    routing = routing.on(tuple(call.facts["grid"]))
    table = call.table(routing)
    seen = [Counts(table, call.q.shape[1], call.q.device) for _ in range(2)]

    def run(routing: RoutingConfig, record: Counts | None = None) -> Tensor:
        return moc_attention(call.q, call.k, call.v, table, routing, backend="eager", record=record)

    exact, outs = run(routing, seen[0]), {}
    for name, way in WAYS.items():
        eager.in_eight_bits = way
        outs[name] = run(routing.changed(precision=EIGHT_BITS), seen[1] if name == "error" else None)
    eager.in_eight_bits = eight_bits.in_eight_bits
    if not torch.equal(seen[0].result()[0], seen[1].result()[0]):
        raise AssertionError("8 bits chose something else")
    dense = scaled_dot_product_attention(call.q, call.k, call.v)
    to_dense = {"to_dense": away(exact, dense), "to_dense_8": away(outs["error"], dense)}
    return {name: away(out, exact) for name, out in outs.items()} | to_dense


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for what, call in inputs(args.folder):
        for name, routing in ROUTINGS.items():
            found = {key: round(value, 6) for key, value in measure(call, routing).items()}
            rows.append({"inputs": what, "routing": name} | found)
            print(json.dumps(rows[-1]), flush=True)
    means = {
        name: {
            key: round(statistics.fmean(row[key] for row in rows if row["routing"] == name), 5)
            for key in (*WAYS, "to_dense", "to_dense_8")
        }
        | {"worst": max(row["error"] for row in rows if row["routing"] == name)}
        for name in ROUTINGS
    }
    for name, mean in means.items():
        print(f"{name:>16s} " + ", ".join(f"{key} {value:.4f}" for key, value in mean.items()))
    if args.out:
        typed = host.command("eight_bits").replace(str(args.folder), "FOLDER")
        facts = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "command": typed}
        args.out.write_text(json.dumps({**facts, "means": means, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
