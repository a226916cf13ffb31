"""Time and memory of a training step's attention, forward and backward: MoC, and dense cuDNN, in one run on a GPU.

python -m benchmarks.training [--cases paper,720p] [--out benchmarks/results/NAME.json]

`forward` is what inference takes, `step` a forward pass that keeps what backward wants and the backward pass itself.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks import host
from benchmarks.attention import Attention, cost, dense, stages
from benchmarks.cases import CASES, Case
from moc.attention import moc_attention

NAMES = (
    "multi-shot, paper", "single-shot 720p", "fine tiles 720p", "medium tiles, 720p", "small tiles, trained-like",
    "recommended, 720p", "d=64",
)  # fmt: skip


def step_of(attend: Attention, weight: Tensor) -> Attention:
    """Attention and its gradients; returns that by q, for its size."""

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        return torch.autograd.grad(attend(*inputs), inputs, weight)[0]

    return step


def run(case: Case) -> dict[str, Any]:
    table = case.table()
    q, k, v = case.inputs()
    weight = torch.randn_like(q)
    kept = table.density(table.top_k(case.routing), case.routing.causal)
    row: dict[str, Any] = {"case": case.name, "tokens": table.length, "heads": case.heads, "kept": round(kept, 4)}

    def moc(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return moc_attention(q, k, v, table, case.routing, backend="triton")

    for name, attend in (("moc", moc), ("dense", dense)):
        with torch.no_grad():
            row[f"{name}_forward_ms"] = cost(attend, q, k, v)["ms"]
        row |= {f"{name}_step_{what}": x for what, x in cost(step_of(attend, weight), q, k, v).items()}
    row["forward_ratio"] = round(row["dense_forward_ms"] / row["moc_forward_ms"], 2)
    row["step_ratio"] = round(row["dense_step_ms"] / row["moc_step_ms"], 2)
    row["stages_ms"] = stages(lambda: step_of(moc, weight)(q, k, v))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="parts of case names, separated by commas")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    wanted = [w for w in args.cases.split(",") if w] or [""]
    facts = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(), "dtype": "bfloat16", "date": time.strftime("%Y-%m-%d"),
        "command": host.command("training"),
    }  # fmt: skip
    rows: list[dict] = []
    for case in CASES:
        if case.name not in NAMES or not any(w in case.name for w in wanted):
            continue
        try:
            rows.append(run(case))
        except Exception as failure:  # one case that fails should not lose the others
            rows.append({"case": case.name, "failed": f"{type(failure).__name__}: {failure}"[:500]})
        print(json.dumps(rows[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps({**facts, "results": rows}, indent=1) + "\n")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
