"""Error of small and of larger tiles on pictures of several sizes, on trained-like inputs. On a CPU, in minutes.

python -m benchmarks.tiles [--out benchmarks/results/tiles_cpu.json]

It is why the tiles of *recommended* and *fast* follow the picture, and how many more are chosen then
(`moc/config/partition.py`). Exact on ROWS query tokens, all keys.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import Case
from moc.config import PRESETS, RoutingConfig
from moc.probe.sampled_error import sample_rows, sampled_error

FRAMES = {"16x16": (16, 16), "24x24": (24, 24), "480p": (30, 52), "720p": (45, 80)}  # in tokens
COUNTS = {4: (10, 20), 8: (10, 16, 20, 32)}  # of tiles, by their size
ROWS = 192


def errors(frame: tuple[int, int], heads: int) -> dict[str, float]:
    """Relative error by rule: 21 latent frames in one shot, tail pooled."""
    found = {}
    case = Case("", (21, *frame), heads, PRESETS["recommended"].routing, 0, 0, coherent="trained")
    inputs = case.inputs("cpu", torch.float32)
    for size, counts in COUNTS.items():
        rules: dict[str, RoutingConfig] = {
            f"{k} of {size}x{size}, {descriptor}": case.routing.changed(
                tile=(1, size, size), top_k=k, descriptor=descriptor
            )
            for descriptor in ("minmax", "mean")
            for k in counts
        }
        table = replace(case, routing=next(iter(rules.values()))).table()
        q, k, v = (x.index_select(-2, table.tensors("cpu").order) for x in inputs)
        seen = sampled_error(q, k, v, table, list(rules.values()), sample_rows(table, ROWS))
        off = (seen.error.sum(1) / seen.size.sum()).sqrt()
        found |= {name: round(float(error), 4) for name, error in zip(rules, off, strict=True)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--heads", type=int, default=1)
    args = parser.parse_args()
    rows = {}
    for name, frame in FRAMES.items():
        rows[name] = errors(frame, args.heads)
        print(name, rows[name], flush=True)
    if args.out:
        args.out.write_text(json.dumps({"command": "python -m benchmarks.tiles", "errors": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
