"""Below which length dense attention is faster than routing, and what a unit of work costs, on a GPU.

python -m benchmarks.break_even [--out benchmarks/results/NAME.json] [--seconds 60]
python -m benchmarks.break_even --fit benchmarks/results/NAME.json      prints COSTS for moc/backends/cost_model.py,
anywhere

Whole calls, queued one behind the other as in a sampling step, so that launching counts only where the device waits for
it. Dense is the faster of cuDNN and FlashAttention. Films grow frame by frame; short ones come first.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.cases import Case
from moc.attention import moc_attention
from moc.backends.cost_model import COSTS, MARGIN, Costs, Work, estimate, kind_of, work_of
from moc.config import PRESETS, RoutingConfig

BEGIN = time.perf_counter()
RULES = {  # name -> (routing, shots)
    "own chunk + 3 frames": (RoutingConfig.of(top_k=3, own="chunk"), 1),
    "recommended": (PRESETS["recommended"].routing, 1),
    "fast": (PRESETS["fast"].routing, 1),
    "own frame + 20 of 4x4": (PRESETS["recommended"].routing.on((1, 1, 1)), 1),
    "large pictures": (PRESETS["large pictures"].routing, 1),
    "paper multi-shot": (PRESETS["paper multi-shot"].routing, 4),
    "own chunk + 16 of 450": (RoutingConfig.of(top_k=16, chunk_tokens=450, own="chunk"), 1),
}
MORE = "own chunk + 16 of 450"  # for the constants only
FRAMES = {(30, 52): (2, 4, 6, 9, 13, 21, 41), (45, 80): (2, 3, 5, 9, 18)}  # frames of 480p and 720p, in tokens
PLAIN = ("own chunk + 3 frames", "recommended")  # without kernels of our own too
MOST_PLAIN = 15_000  # tokens
TINY = {(4, 8): (4, 6), (8, 8): (4,)}
FEW = 12
HEADS = (FEW, 40)
DIM = 128


def case_of(row: dict) -> Case:
    routing, shots = RULES[row["rule"]]
    return Case(row["rule"], tuple(row["grid"]), row["heads"], routing, 1, 1, shots, 0, row["dim"], "trained")


def queued(call: Callable[[], Tensor], cuda: bool) -> float:
    """Milliseconds of a call among others of its kind, median of three rounds."""
    call()  # compiles

    def spent(times: int) -> float:
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            call()
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) * 1000 / times

    times = min(30, max(1, round(15 / spent(1))))
    return round(statistics.median(spent(times) for _ in range(3)), 4)


def by(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v)


def dense_of(inputs: tuple[Tensor, ...], cuda: bool) -> dict[str, float]:
    kernels = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION} if cuda else {}
    found: dict[str, float] = {}
    for name, backend in kernels.items():
        try:
            found[f"{name}_ms"] = queued(partial(by, backend, *inputs), cuda)
        except RuntimeError as failure:  # a card or a build without it
            print(f"{name}: {failure}"[:200])
    if not found:
        found["torch_ms"] = queued(partial(scaled_dot_product_attention, *inputs), cuda)
    return {**found, "dense_ms": min(found.values())}


def plan(films: dict) -> list[dict]:
    """Short films first: where time is out, the ends are missing, not where the two meet."""
    rows = [
        {"rule": rule, "grid": [t, *frame], "heads": heads, "dim": DIM, "backend": backend}
        for frame, counts in films.items()
        for t in counts
        for heads in HEADS
        for backend in ("triton", "eager")
        for rule, (_, shots) in RULES.items()
        if t >= shots and (heads == FEW or (backend == "triton" and rule != MORE))
        if backend == "triton" or (rule in PLAIN and math.prod((t, *frame)) < MOST_PLAIN)
    ]
    return sorted(rows, key=lambda row: (math.prod(row["grid"]), row["heads"]))


@torch.inference_mode()
def measure(rows: list[dict], args: argparse.Namespace, facts: dict) -> list[dict]:
    cuda = torch.cuda.is_available() and not args.tiny
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    found: list[dict] = []
    last, inputs, dense = None, (), {}
    for row in rows:
        if time.perf_counter() - BEGIN > args.seconds:
            print(f"out of time: {len(rows) - len(found)} of {len(rows)} are left out")
            break
        case = case_of(row)
        if last != (row["grid"], row["heads"]):
            last, inputs = (row["grid"], row["heads"]), ()
            inputs = case.inputs(device, dtype)
            dense = dense_of(inputs, cuda)
        table, backend = case.table(), row["backend"] if cuda else "eager"
        kept = table.density(table.top_k(case.routing), case.routing.candidates.causal)
        row = {**row, "tokens": table.length, "kept": round(kept, 4)}
        try:
            call = partial(moc_attention, *inputs, table, case.routing, backend=backend)
            row |= {"routed_ms": queued(call, cuda), **dense}
        except Exception as failure:  # one that fails should not lose the others
            row["failed"] = f"{type(failure).__name__}: {failure}"[:300]
        found.append(row)
        print(f"{time.perf_counter() - BEGIN:.0f} s", json.dumps(row), flush=True)
        if args.out:
            args.out.write_text(json.dumps({**facts, "results": found}, indent=1) + "\n")
    return found


def crossing(rows: list[dict]) -> str:
    """Tokens from which on routing is faster, read between the two lengths around it."""
    rows = sorted(rows, key=lambda row: row["tokens"])
    gains = [math.log(row["dense_ms"] / row["routed_ms"]) for row in rows]
    slower = [i for i, gain in enumerate(gains) if gain <= 0]
    if not slower:
        return f"< {rows[0]['tokens']:,}"
    low = slower[-1]
    if low + 1 == len(rows):
        return f"> {rows[-1]['tokens']:,}"
    part = -gains[low] / (gains[low + 1] - gains[low])
    return f"{rows[low]['tokens'] ** (1 - part) * rows[low + 1]['tokens'] ** part:,.0f}"


def table_of(rows: list[dict]) -> str:
    series: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        if "failed" not in row:
            series[row["rule"], row["backend"], row["heads"], tuple(row["grid"][1:])].append(row)
    lines = ["| rule | kernels | heads | frame | routing is faster from | most gain |", "|---" * 6 + "|"]
    for (rule, backend, heads, frame), some in series.items():
        gain = max(row["dense_ms"] / row["routed_ms"] for row in some)
        lines.append(f"| {rule} | {backend} | {heads} | {frame[0]}x{frame[1]} | {crossing(some)} | {gain:.2f}x |")
    return "\n".join(lines)


def fit(rows: list[dict]) -> None:
    """Costs by least squares of relative errors, none below zero; then where they would decide wrongly."""
    from scipy.optimize import nnls

    names = [f.name for f in fields(Work) if f.name != "dense"]
    kinds: dict[str, list[tuple[dict, Work]]] = defaultdict(list)
    for row in rows:
        if "failed" not in row:
            case = case_of(row)
            table = case.table()
            kind = kind_of(table, case.routing, kernels=row["backend"] == "triton")
            kinds[kind].append((row, work_of(table, case.routing, case.heads, case.dim)))
    for kind, some in kinds.items():
        routed = np.array([row["routed_ms"] for row, _ in some])
        call = float(routed.min())
        busy = [i for i, ms in enumerate(routed) if ms > 1.2 * call] or list(range(len(some)))
        work = np.array([[getattr(some[i][1], name) * 1e-12 for name in names] for i in busy])
        scale = work.max(0).clip(1e-30)  # columns of like size, which the solver wants
        found, _ = nnls(work / scale / routed[busy, None], np.ones(len(busy)))
        units = np.array([some[i][1].dense * 1e-12 for i in range(len(some))])
        dense = float(
            np.median(np.array([row["dense_ms"] for row, _ in some])[units.argsort()[-12:]] / np.sort(units)[-12:])
        )
        costs = Costs(call, dense, **dict(zip(names, found / scale, strict=True)))
        print(f'    "{kind}": Costs({", ".join(f"{f.name}={getattr(costs, f.name):.3g}" for f in fields(Costs))}),')
        judge(some, costs)


def judge(some: list[tuple[dict, Work]], costs: Costs) -> None:
    off, wrong = [], []
    for row, work in some:
        dense, routed = estimate(work, costs)
        off.append(abs(math.log(routed / dense * row["dense_ms"] / row["routed_ms"])))
        lost = row["routed_ms"] / row["dense_ms"] if routed * MARGIN < dense else row["dense_ms"] / row["routed_ms"]
        if lost > 1:
            wrong.append((lost, row["rule"], row["grid"], row["heads"], f"routed {row['routed_ms']} {row['dense_ms']}"))
    print(f"        # off by {math.expm1(statistics.median(off)):.0%} (median), {math.expm1(max(off)):.0%} at worst")
    for lost, *which in sorted(wrong, reverse=True)[:8]:
        print(f"        # decides wrongly, {lost:.2f}x as long as it could take: {which}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=60, help="start nothing later")
    parser.add_argument("--fit", type=Path, help="results to make constants of; measures nothing")
    parser.add_argument("--tiny", action="store_true", help="very short films on the CPU: a dry run")
    args = parser.parse_args()
    if args.fit:
        fit(json.loads(args.fit.read_text())["results"])
        return
    cuda = torch.cuda.is_available() and not args.tiny
    facts = {
        "gpu": torch.cuda.get_device_name() if cuda else "none", "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(), "dtype": "bfloat16" if cuda else "float32",
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count if cuda else 0,
        "date": time.strftime("%Y-%m-%d"), "command": "python -m benchmarks.break_even",
        "costs": {kind: vars(costs) for kind, costs in COSTS.items()},
    }  # fmt: skip
    rows = measure(plan(TINY if args.tiny else FRAMES), args, facts)
    print(table_of(rows))
    fit(rows)


if __name__ == "__main__":
    main()
