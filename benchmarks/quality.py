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
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
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


def blocks_of(path: Path) -> list[int]:
    with safe_open(path, "pt") as file:
        return list(range(len(file.keys()) // 3))


def load(path: Path, block: int) -> Call:
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        return Call(facts, block, *(file.get_tensor(f"{name}{block}").float()[None] for name in "qkv"))


def decide(call: Call, routing: RoutingConfig, rows: Tensor | None = None) -> tuple[Tensor, float]:
    """(chosen [1, H, R, C] for rows of the sorted order, all by default; their kept share of all pairs)."""
    table = call.table(routing)
    t = table.tensors("cpu")
    q, k = (x.index_select(-2, t.order) for x in (call.q, call.k))
    union = routing.lists == "union"
    chosen, candidate, mandatory = choose(q, k, table, routing, None if union else rows)
    if union:
        chosen = share(chosen, candidate, table, slice(0, table.length))
        if rows is not None:
            chosen, mandatory = chosen[:, :, rows], mandatory[rows]
    tokens = ((chosen | mandatory).float().mean((0, 1, 2)) * t.lengths).sum()
    return chosen, float(tokens) / table.length


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
        rows = t.inverse[rows]
        chosen, kept = decide(call, routing, rows)
        q, k, v = (x.index_select(-2, t.order) for x in (call.q, call.k, call.v))
        return expected(q, k, v, table, routing, q.shape[-1] ** -0.5, rows, chosen), kept

    return attend


def sol_rule(routing: RoutingConfig | None, ratio: float) -> Attention:
    sol_attn = importlib.import_module("comfy_kitchen").sol_attn

    def attend(call: Call, rows: Tensor) -> tuple[Tensor, float]:
        t = None if routing is None else call.table(routing).tensors("cpu")
        q, k, v = (x if t is None else x.index_select(-2, t.order) for x in (call.q, call.k, call.v))
        out = sol_attn(*(x.transpose(1, 2).contiguous() for x in (q, k, v)), topk_ratio=ratio).transpose(1, 2)
        return out[:, :, rows if t is None else t.inverse[rows]], sol_share(call, routing, ratio)

    return attend


@dataclass(frozen=True)
class Setting:
    """A rule with what makes it keep `target` of all pairs: top_k, or sol_attn's share of blocks."""

    target: float
    rule: str
    value: float

    def attention(self) -> Attention:
        if self.rule in SOL:
            return sol_rule(SOL[self.rule], self.value)
        return moc_rule(replace(RULES[self.rule], top_k=int(self.value)))


def settings(sample: list[Call]) -> Iterator[Setting]:
    """Every rule at every target that it reaches."""
    has_sol = importlib.util.find_spec("comfy_kitchen") and hasattr(
        importlib.import_module("comfy_kitchen"), "sol_attn"
    )
    for target in TARGETS:
        for name, routing in RULES.items():
            table = sample[0].table(routing)
            most = table.top_k(replace(routing, density=target))
            value: float | None = most if table.density(1, False) <= target * 1.02 else None
            if routing.lists == "union":

                def kept(k: float, routing: RoutingConfig = routing) -> float:
                    return statistics.mean(decide(call, replace(routing, top_k=int(k)))[1] for call in sample)

                value = settle(kept, target, 1, most, True)
            if value is not None:
                yield Setting(target, name, value)
        for name, order in SOL.items() if has_sol else ():

            def share_at(ratio: float, order: RoutingConfig | None = order) -> float:
                return statistics.mean(sol_share(call, order, ratio) for call in sample)

            ratio = settle(share_at, target, 0.001, target, False)
            if ratio is not None:
                yield Setting(target, name, round(ratio, 4))


def errors_of(path: Path, block: int, chosen: list[Setting]) -> tuple[int, list[list[tuple[float, float]]]]:
    """(step, for every setting and head (error, kept)) of one captured call."""
    call = load(path, block)
    rows = torch.randperm(call.q.shape[2], generator=torch.Generator().manual_seed(block))[:ROWS]
    dense = scaled_dot_product_attention(call.q[:, :, rows], call.k, call.v)
    found = []
    for setting in chosen:
        out, kept = setting.attention()(call, rows)
        error = (out - dense).norm(dim=(-2, -1)) / dense.norm(dim=(-2, -1))
        found.append([(float(e), kept) for e in error.flatten()])
    return call.facts["step"], found


def errors(paths: list[Path], every: int, pool: Executor) -> list[dict[str, object]]:
    sample = [load(paths[len(paths) // 2], block) for block in blocks_of(paths[0])[::3]]
    chosen = list(settings(sample))
    jobs = [pool.submit(errors_of, path, block, chosen) for path in paths for block in blocks_of(path)[::every]]
    found: list[list[tuple[float, float]]] = [[] for _ in chosen]
    by_step: list[dict[int, list[float]]] = [defaultdict(list) for _ in chosen]
    for job in as_completed(jobs):
        step, results = job.result()
        for all_of_rule, steps, result in zip(found, by_step, results, strict=True):
            all_of_rule += result
            steps[step] += [error for error, _ in result]
    rows = []
    for setting, results, steps in zip(chosen, found, by_step, strict=True):
        error, kept = zip(*results, strict=True)
        rows.append({
            **asdict(setting), "kept": round(statistics.mean(kept), 4), "error": round(statistics.mean(error), 4),
            "error_p90": round(statistics.quantiles(error, n=10)[-1], 4),
            "by_step": {step: round(statistics.mean(e), 4) for step, e in sorted(steps.items())},
        })  # fmt: skip
    return rows


def coherence_of(path: Path, block: int, drawn: bool) -> dict[str, dict[str, float]]:
    call = load(path, block)
    if drawn:
        call = independent(call)
    found = {}
    for name, routing in COHERENCE.items():
        table = call.table(routing)
        q, k = (x.index_select(-2, table.tensors("cpu").order) for x in (call.q, call.k))
        chosen, candidate, _ = choose(q, k, table, routing)
        found[name] = asdict(measure(chosen, candidate, table))
    return found


def coherence(paths: list[Path], pool: Executor, drawn: bool = False) -> dict[str, dict[str, float]]:
    """Means over all captured calls; `drawn`: of independent tokens in their place."""
    found = list(pool.map(coherence_of, *zip(*[(p, b, drawn) for p in paths for b in blocks_of(p)], strict=True)))
    keys = list(found[0]["4x4, top-20, mean"])
    return {name: {key: round(statistics.mean(f[name][key] for f in found), 3) for key in keys} for name in COHERENCE}


def independent(call: Call) -> Call:
    """The same shapes, every token drawn on its own."""
    torch.manual_seed(call.block)
    return replace(call, q=torch.randn_like(call.q), k=torch.randn_like(call.k))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--every", type=int, default=2, help="errors of every so-many-th block")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    args = parser.parse_args()
    trained, random = (sorted(args.folder.glob(f"{kind}_*.safetensors")) for kind in ("trained", "random"))
    if not trained:
        raise SystemExit(f"No trained_*.safetensors in {args.folder}: run benchmarks/capture.py first.")
    torch.set_num_threads(args.threads)
    begin, context = time.time(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, torch.set_num_threads, (args.threads,)) as pool:
        result: dict[str, object] = {
            "captures": [p.stem for p in (*trained, *random)],
            "facts": load(trained[0], 0).facts,
            "errors_of": f"{ROWS} rows of every {args.every}. block",
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "command": f"python -m benchmarks.quality FOLDER --every {args.every}",
            "coherence": {
                "trained": coherence(trained, pool),
                "independent tokens": coherence(trained[:1], pool, True),
            },
        }
        if random:
            result["coherence"]["random weights"] = coherence(random, pool)  # type: ignore[index]
        print(f"coherence after {time.time() - begin:.0f} s", flush=True)
        result["errors"] = errors(trained, args.every, pool)
    print(f"errors after {time.time() - begin:.0f} s", flush=True)
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
