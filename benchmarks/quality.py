"""Output error against dense attention at equal density, on captured q, k and v.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.capture import Call, blocks_of, load, open_folder
from benchmarks.coherence import choose
from moc.config import RoutingConfig
from moc.routing.candidates import union
from tests.gpu.check_gpu import expected

ROWS = 768
TARGETS = (0.09, 0.125, 0.222, 0.444)
Settings = dict[str, Any]
FRAME, SHOT = Settings(own="frame"), Settings(own="shot")
MINMAX, TAIL, UNION = Settings(descriptor="minmax"), Settings(tail="pooled"), Settings(lists="union")


def tile(size: int) -> Settings:
    return Settings(tile=(1, size, size))


RULES: dict[str, RoutingConfig] = {
    "own shot + frames, mean (paper)": RoutingConfig.of(**SHOT),
    "own shot + frames, mean, tail": RoutingConfig.of(**SHOT, **TAIL),
    "own shot + 8x8, mean": RoutingConfig.of(**SHOT, **tile(8)),
    "own shot + 4x4, mean": RoutingConfig.of(**SHOT, **tile(4)),
    "own shot + 4x4, min-max, tail": RoutingConfig.of(**SHOT, **tile(4), **MINMAX, **TAIL),
    "own shot + 2x2, min-max, tail": RoutingConfig.of(**SHOT, **tile(2), **MINMAX, **TAIL),
    "own frame + frames, mean": RoutingConfig.of(**FRAME),
    "own frame + 8x8, min-max, tail": RoutingConfig.of(**FRAME, **tile(8), **MINMAX, **TAIL),
    "own frame + 4x4, mean": RoutingConfig.of(**FRAME, **tile(4)),
    "own frame + 4x4, mean, tail": RoutingConfig.of(**FRAME, **tile(4), **TAIL),
    "own frame + 4x4, min-max": RoutingConfig.of(**FRAME, **tile(4), **MINMAX),
    "own frame + 4x4, min-max, tail": RoutingConfig.of(**FRAME, **tile(4), **MINMAX, **TAIL),
    "own frame + 4x4, mean+max+min, tail": RoutingConfig.of(**FRAME, **tile(4), **TAIL, descriptor="mean+max+min"),
    "own frame + 2x2, mean, tail": RoutingConfig.of(**FRAME, **tile(2), **TAIL),
    "own frame + 2x2, min-max, tail": RoutingConfig.of(**FRAME, **tile(2), **MINMAX, **TAIL),
    "own frame + 8x8, min-max, tail, union": RoutingConfig.of(**FRAME, **tile(8), **MINMAX, **TAIL, **UNION),
    "own frame + 4x4, min-max, tail, union": RoutingConfig.of(**FRAME, **tile(4), **MINMAX, **TAIL, **UNION),
    "own frame + 2x2, min-max, tail, union": RoutingConfig.of(**FRAME, **tile(2), **MINMAX, **TAIL, **UNION),
}
SOL = {  # blocks of 64 tokens: as the sequence has them, or brought into 8x8 tiles first
    "sol_attn, 64 tokens in a row": None,
    "sol_attn, 8x8 tiles": RoutingConfig.of(tile=(1, 8, 8)),
}


def decide(call: Call, routing: RoutingConfig, rows: Tensor | None = None) -> tuple[Tensor, float]:
    """(chosen [1, H, R, C] for rows of the sorted order, all by default; their kept share of all pairs)."""
    table = call.table(routing)
    t = table.tensors("cpu")
    q, k = (x.index_select(-2, t.order) for x in (call.q, call.k))
    shared = routing.lists == "union"
    chosen, candidate, mandatory = choose(q, k, table, routing, None if shared else rows)
    if shared:
        chosen = union(chosen, candidate, table, slice(0, table.length))
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
        return moc_rule(RULES[self.rule].changed(top_k=int(self.value)))


def settings(sample: list[Call]) -> Iterator[Setting]:
    """Every rule at every target that it reaches."""
    has_sol = importlib.util.find_spec("comfy_kitchen") and hasattr(
        importlib.import_module("comfy_kitchen"), "sol_attn"
    )
    for target in TARGETS:
        for name, routing in RULES.items():
            table = sample[0].table(routing)
            most = table.top_k(routing.changed(density=target))
            value: float | None = most if table.density(1, False) <= target * 1.02 else None
            if routing.lists == "union":

                def kept(k: float, routing: RoutingConfig = routing) -> float:
                    return statistics.mean(decide(call, routing.changed(top_k=int(k)))[1] for call in sample)

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
    for setting, all_of_rule, steps in zip(chosen, found, by_step, strict=True):
        error, kept = zip(*all_of_rule, strict=True)
        rows.append({
            **asdict(setting), "kept": round(statistics.mean(kept), 4), "error": round(statistics.mean(error), 4),
            "error_p90": round(statistics.quantiles(error, n=10)[-1], 4),
            "by_step": {step: round(statistics.mean(e), 4) for step, e in sorted(steps.items())},
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--every", type=int, default=2, help="errors of every so-many-th block")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    args = parser.parse_args()
    trained, _ = open_folder(args.folder)
    torch.set_num_threads(args.threads)
    begin, context = time.time(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, torch.set_num_threads, (args.threads,)) as pool:
        found = errors(trained, args.every, pool)
    print(f"{time.time() - begin:.0f} s", flush=True)
    result = {
        "command": f"python -m benchmarks.quality FOLDER --every {args.every}",
        "captures": [path.stem for path in trained],
        "facts": load(trained[0], 0).facts,
        "taken_on": f"{ROWS} rows of every {args.every}. block",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "errors": found,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table_of(found))


def table_of(found: list[dict]) -> str:
    """Markdown: mean error by rule and kept share."""
    cell = {(row["rule"], row["target"]): f"{row['error']:.3f}" for row in found}
    lines = ["| rule | " + " | ".join(f"{t:.1%}" for t in TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    for rule in (*RULES, *SOL):
        if any((rule, t) in cell for t in TARGETS):
            lines.append(f"| {rule} | " + " | ".join(cell.get((rule, t), "-") for t in TARGETS) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
