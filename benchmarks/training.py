"""Time and memory of a training step's attention, forward and backward: MoC, and dense cuDNN, in one run on a GPU.

python -m benchmarks.training [--cases paper,720p] [--out benchmarks/results/NAME.json]

`forward` is what inference takes, `step` a forward pass that keeps what backward wants and the backward pass itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.attention import arguments, collect
from benchmarks.cases import CASES, Case
from benchmarks.peers import dense
from benchmarks.timing import Attention, cost, stages
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
    kept = table.density(table.top_k(case.routing), case.routing.candidates.causal)
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


if __name__ == "__main__":
    collect(arguments(__doc__), "training", run, [case for case in CASES if case.name in NAMES])
