"""Output error against dense attention at equal density, and how real routing looks, on captured q, k and v.

python -m benchmarks.quality FOLDER [--out benchmarks/results/quality.json]

FOLDER holds what `benchmarks/capture.py` kept. Errors are taken on ROWS random query rows of every head. `sol_attn` is
comfy-kitchen's own reference implementation in float32; without a comfy-kitchen that has it (0.2.40), its rows are
left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.check_gpu import expected
from benchmarks.coherence import choose, measure
from moc.chunks import ChunkTable, build_table
from moc.config import RoutingConfig
from moc.layout import TokenLayout
from moc.routing import share

ROWS = 768
TARGETS = (0.09, 0.125, 0.222, 0.444)
FRAME, SHOT = {"own": "frame"}, {"own": "shot"}
MINMAX, TAIL, UNION = {"descriptor": "minmax"}, {"tail": "pooled"}, {"lists": "union"}


def tile(size: int) -> dict[str, tuple[int, int, int]]:
    return {"tile": (1, size, size)}


RULES: dict[str, RoutingConfig] = {
    "own shot + frames, mean (paper)": RoutingConfig(**SHOT),
    "own shot + frames, mean, tail": RoutingConfig(**SHOT, **TAIL),
    "own shot + 8x8, mean": RoutingConfig(**SHOT, **tile(8)),
    "own shot + 4x4, mean": RoutingConfig(**SHOT, **tile(4)),
    "own shot + 4x4, min-max, tail": RoutingConfig(**SHOT, **tile(4), **MINMAX, **TAIL),
    "own shot + 2x2, min-max, tail": RoutingConfig(**SHOT, **tile(2), **MINMAX, **TAIL),
    "own frame + frames, mean": RoutingConfig(**FRAME),
    "own frame + 8x8, min-max, tail": RoutingConfig(**FRAME, **tile(8), **MINMAX, **TAIL),
    "own frame + 4x4, mean": RoutingConfig(**FRAME, **tile(4)),
    "own frame + 4x4, mean, tail": RoutingConfig(**FRAME, **tile(4), **TAIL),
    "own frame + 4x4, min-max": RoutingConfig(**FRAME, **tile(4), **MINMAX),
    "own frame + 4x4, min-max, tail": RoutingConfig(**FRAME, **tile(4), **MINMAX, **TAIL),
    "own frame + 2x2, min-max, tail": RoutingConfig(**FRAME, **tile(2), **MINMAX, **TAIL),
    "own frame + 8x8, min-max, tail, union": RoutingConfig(**FRAME, **tile(8), **MINMAX, **TAIL, **UNION),
    "own frame + 4x4, min-max, tail, union": RoutingConfig(**FRAME, **tile(4), **MINMAX, **TAIL, **UNION),
    "own frame + 2x2, min-max, tail, union": RoutingConfig(**FRAME, **tile(2), **MINMAX, **TAIL, **UNION),
}
SOL = {  # blocks of 64 tokens: as the sequence has them, or brought into 8x8 tiles first
    "sol_attn, 64 tokens in a row": None,
    "sol_attn, 8x8 tiles": RoutingConfig(tile=(1, 8, 8)),
}
COHERENCE = {  # what routing is measured on
    "frames, top-5, own shot": RoutingConfig(top_k=5, **SHOT),
    "8x8, top-8, min-max": RoutingConfig(top_k=8, **FRAME, **tile(8), **MINMAX),
    "4x4, top-20, min-max": RoutingConfig(top_k=20, **FRAME, **tile(4), **MINMAX),
    "4x4, top-20, mean": RoutingConfig(top_k=20, **FRAME, **tile(4)),
    "2x2, top-20, min-max": RoutingConfig(top_k=20, **FRAME, **tile(2), **MINMAX),
}


@dataclass(frozen=True)
class Call:
    """One attention call: q, k, v [1, H, N, D] float32 in the model's order."""

    facts: dict
    block: int
    q: Tensor
    k: Tensor
    v: Tensor

    def table(self, routing: RoutingConfig) -> ChunkTable:
        t, h, w = self.facts["grid"]
        return build_table(TokenLayout(t * h * w, (t, h, w)), tuple(self.facts["starts"]), routing)


def calls(paths: list[Path], every: int = 1) -> Iterator[Call]:
    for path in paths:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            for block in range(0, len(file.keys()) // 3, every):
                yield Call(facts, block, *(file.get_tensor(f"{name}{block}").float()[None] for name in "qkv"))


def decide(call: Call, routing: RoutingConfig) -> tuple[Tensor, float]:
    """(chosen [1, H, N, C], kept share of all pairs) of every row, in sorted order."""
    table = call.table(routing)
    t, rows = table.tensors("cpu"), slice(0, table.length)
    q, k = (x.index_select(-2, t.order) for x in (call.q, call.k))
    chosen, candidate = choose(q, k, table, routing)
    if routing.lists == "union":
        chosen = share(chosen, candidate, table, rows)
    pairs = (chosen.sum((0, 1, 2)) * t.lengths).sum() / (q.shape[1] * table.length**2)
    return chosen, table.density(0, False) + float(pairs)


def sol_share(call: Call, routing: RoutingConfig | None, ratio: float) -> float:
    """Pairs that sol_attn computes exactly: `ratio` of its blocks, its own and the two beside it."""
    q, k = (x if routing is None else x.index_select(-2, call.table(routing).tensors("cpu").order)
            for x in (call.q, call.k))  # fmt: skip
    qm, km = (x.unflatten(2, (-1, 64)).mean(3) for x in (q, k))
    count = qm.shape[2]
    best = (qm @ km.mT).topk(max(1, min(count - 1, round(ratio * count))), -1).indices
    exact = torch.zeros(*qm.shape[:2], count, count, dtype=torch.bool).scatter_(-1, best, True)
    index = torch.arange(count)
    return float((exact | ((index[:, None] - index).abs() <= 1)).float().mean())


def settle(share_at: Callable[[float], float], target: float, low: float, high: float, whole: bool) -> float | None:
    """The setting whose kept share is nearest to the target, by bisection; None where even `low` keeps far more."""
    if share_at(low) > target * 1.1:
        return None
    for _ in range(10):
        middle = round((low + high) / 2) if whole else (low + high) / 2
        if whole and middle in (low, high):
            break
        low, high = (middle, high) if share_at(middle) < target else (low, middle)
    return min((low, high), key=lambda x: abs(share_at(x) - target))


Attention = Callable[[Call, Tensor], tuple[Tensor, float]]  # call, rows [R] -> out [1, H, R, D], kept share


def moc_rule(routing: RoutingConfig) -> Attention:
    def attend(call: Call, rows: Tensor) -> tuple[Tensor, float]:
        table = call.table(routing)
        t = table.tensors("cpu")
        chosen, kept = decide(call, routing)
        q, k, v = (x.index_select(-2, t.order) for x in (call.q, call.k, call.v))
        rows = t.inverse[rows]
        return expected(q, k, v, table, routing, q.shape[-1] ** -0.5, rows, chosen[:, :, rows]), kept

    return attend


def sol_rule(kitchen, routing: RoutingConfig | None, ratio: float) -> Attention:
    def attend(call: Call, rows: Tensor) -> tuple[Tensor, float]:
        t = None if routing is None else call.table(routing).tensors("cpu")
        q, k, v = (x if t is None else x.index_select(-2, t.order) for x in (call.q, call.k, call.v))
        out = kitchen.sol_attn(*(x.transpose(1, 2).contiguous() for x in (q, k, v)), topk_ratio=ratio).transpose(1, 2)
        return out[:, :, rows if t is None else t.inverse[rows]], sol_share(call, routing, ratio)

    return attend


def settled(paths: list[Path]) -> Iterator[tuple[float, str, float, Attention]]:
    """(target, rule, k or ratio, attention) for every rule that reaches the target."""
    sample = list(calls(paths[len(paths) // 2 :][:1], every=3))[:3]
    kitchen = importlib.import_module("comfy_kitchen") if importlib.util.find_spec("comfy_kitchen") else None
    for target in TARGETS:
        for name, routing in RULES.items():
            table = sample[0].table(routing)
            if routing.lists == "union":
                found = settle(
                    lambda k, r=routing: statistics.mean(decide(c, replace(r, top_k=int(k)))[1] for c in sample),
                    target, 1, table.top_k(replace(routing, density=target)), True,
                )  # fmt: skip
            else:
                reachable = table.density(1, False) <= target * 1.02
                found = table.top_k(replace(routing, density=target)) if reachable else None
            if found is not None:
                yield target, name, int(found), moc_rule(replace(routing, top_k=int(found)))
        for name, order in SOL.items() if hasattr(kitchen, "sol_attn") else ():
            ratio = settle(
                lambda x, o=order: statistics.mean(sol_share(c, o, x) for c in sample), target, 0.001, target, False
            )
            if ratio is not None:
                yield target, name, round(ratio, 4), sol_rule(kitchen, order, ratio)


def errors(paths: list[Path], every: int) -> list[dict[str, object]]:
    rules = list(settled(paths))
    found: list[list[tuple[float, float, int]]] = [[] for _ in rules]  # error, kept, step
    for call in calls(paths, every):
        rows = torch.randperm(call.q.shape[2], generator=torch.Generator().manual_seed(call.block))[:ROWS]
        dense = scaled_dot_product_attention(call.q[:, :, rows], call.k, call.v)
        for (*_, attend), results in zip(rules, found, strict=True):
            out, kept = attend(call, rows)
            per_head = (out - dense).norm(dim=(-2, -1)) / dense.norm(dim=(-2, -1))
            results += [(float(e), kept, call.facts["step"]) for e in per_head.flatten()]
        print(f"seed {call.facts['seed']} step {call.facts['step']} block {call.block}", flush=True)
    rows = []
    for (target, name, setting, _), results in zip(rules, found, strict=True):
        error, kept, _ = zip(*results, strict=True)
        by_step = defaultdict(list)
        for e, _, step in results:
            by_step[step].append(e)
        rows.append({
            "target": target, "rule": name, "setting": setting, "kept": round(statistics.mean(kept), 4),
            "error": round(statistics.mean(error), 4), "error_p90": round(statistics.quantiles(error, n=10)[-1], 4),
            "by_step": {s: round(statistics.mean(e), 4) for s, e in sorted(by_step.items())},
        })  # fmt: skip
    return rows


def coherence(paths: list[Path], make: Callable[[Call], Call] = lambda call: call) -> dict[str, dict[str, float]]:
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for call in map(make, calls(paths)):
        for name, routing in COHERENCE.items():
            table = call.table(routing)
            q, k = (x.index_select(-2, table.tensors("cpu").order) for x in (call.q, call.k))
            found[name].append(asdict(measure(*choose(q, k, table, routing), table)))
    return {
        name: {key: round(statistics.mean(r[key] for r in rows), 3) for key in rows[0]} for name, rows in found.items()
    }


def independent(call: Call) -> Call:
    """The same shapes, every token drawn on its own."""
    torch.manual_seed(call.block)
    return replace(call, q=torch.randn_like(call.q), k=torch.randn_like(call.k))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--every", type=int, default=2, help="errors of every so-many-th block")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trained, random = (sorted(args.folder.glob(f"{kind}_*.safetensors")) for kind in ("trained", "random"))
    if not trained:
        raise SystemExit(f"No trained_*.safetensors in {args.folder}: run benchmarks/capture.py first.")
    result: dict[str, object] = {
        "captures": [p.stem for p in (*trained, *random)],
        "facts": next(calls(trained)).facts,
        "errors_of": f"{ROWS} rows of every {args.every}. block",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.quality FOLDER",
        "coherence": {
            "trained": coherence(trained),
            "random weights": coherence(random),
            "independent tokens": coherence(trained[:1], independent),
        },
    }
    result["errors"] = errors(trained, args.every)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))


def tables(result: dict) -> str:
    """Markdown: errors by rule and density, then the measures of coherence."""
    rules = list(dict.fromkeys(row["rule"] for row in result["errors"]))
    cell = {(r["rule"], r["target"]): f"{r['error']:.3f}" for r in result["errors"]}
    lines = ["| rule | " + " | ".join(f"{t:.1%}" for t in TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    lines += [f"| {rule} | " + " | ".join(cell.get((rule, t), "-") for t in TARGETS) + " |" for rule in rules]
    for name in COHERENCE:
        kinds = {kind: found[name] for kind, found in result["coherence"].items() if name in found}
        keys = list(next(iter(kinds.values())))
        lines += ["", f"| {name} | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
        lines += [f"| {kind} | " + " | ".join(f"{m[key]:.2f}" for key in keys) + " |" for kind, m in kinds.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
