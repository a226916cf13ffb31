"""Time, memory and error of the GPU engine, of dense attention and of comfy-kitchen's sol_attn, all in one run.

python -m benchmarks.attention [--cases paper,720p] [--reuse] [--card sm_86] [--eight-bits] [--out FILE] [--tiny]

`ms` is a call that is waited for, `row_ms` one of many in a row with a single wait at the end, as inside a model, where
launching costs nothing; stages are taken from calls in a row too. `error` is relative to dense attention in float32
(norm of the difference over the norm, 512 rows of two heads). Where a case's inputs are independent tokens, of which
routing can know nothing, it is taken on "trained" inputs instead (`cases.py`). Dense is cuDNN's attention, and
FlashAttention 3 in bf16 and in float8 where it is installed (PyPI: fa3-fwd). sol_attn keeps the same share of pairs,
and text as it always keeps conditioning, once in the order of the sequence and once `tiled` (`peers.py`): the same
share is not the same error. --card runs the kernels of other cards; `flash` is then FlashAttention 2, the dense
attention that these have, and the other peers are left out. --eight-bits measures `precision` "8 bits" beside 16 bits,
and SageAttention and comfy-kitchen's INT8 attention where they are installed; `error_to_16_bits` is of the same choice.
Where 8 bits are refused, as on Hopper without --card, the reason stands in their place. --reuse also times a step that
takes the choice of the step before (`again`), beside one that chooses and keeps its choice (`keeping`). --tiny is a dry
run on any device.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks import host
from benchmarks.cases import CASES, Case, asked_for
from benchmarks.peers import dense, fa3, flash, in_8_bits, sol
from benchmarks.timing import Attention, cost, stages
from moc.attention import moc_attention
from moc.backends.kept import KeptChoice
from moc.chunks.table import ChunkTable
from moc.config import EIGHT_BITS
from moc.trace.pair_counts import Counts
from tests.gpu import cards
from tests.gpu.check_gpu import expected

PEERS = ("fa3", "fa3_e4m3", "sol_attn", "sol_attn_tiled", "moc_8", "sage", "kitchen")


def union_factor(q: Tensor, k: Tensor, case: Case, table: ChunkTable) -> float:
    """Chunks that 64 consecutive rows choose together, over what one of them chooses."""
    from moc.routing.candidates import candidates
    from moc.routing.rules import select
    from moc.routing.scores import describe, scores

    t = table.tensors(q.device)
    rows = slice(table.length // 2 // 64 * 64, table.length // 2 // 64 * 64 + 2048)
    q, k = (x[:, :4].index_select(-2, t.order) for x in (q, k))
    _, candidate = candidates(table, case.routing, rows, q.device)
    chosen = select(
        scores(q[:, :, rows], describe(k, table, case.routing.score.descriptor)), candidate, table.top_k(case.routing)
    )
    tiles = chosen.unflatten(2, (-1, 64)).any(3).sum(-1).float().mean()
    return float(tiles / chosen.sum(-1).float().mean())


def run(
    case: Case, card: str | None = None, device: str = "cuda", eight_bits: bool = False, reuse: bool = False
) -> dict[str, Any]:
    table = case.table()
    inputs = partial(case.inputs, device, torch.bfloat16 if device == "cuda" else torch.float32)
    q, k, v = inputs()
    n, top_k = table.length, table.top_k(case.routing)
    kept = kept_share(q, k, v, table, case)
    result: dict[str, Any] = {
        "case": case.name, "tokens": n, "heads": case.heads, "dim": case.dim, "chunks": len(table.chunks),
        "top_k": top_k, "kept": round(kept, 4), "ideal": round(1 / kept, 2), "least": case.least, "aim": case.aim,
        "inputs": case.coherent or "independent",
    }  # fmt: skip
    if table.mean_chunk <= 128:
        result["union_over_k_64_rows"] = round(union_factor(q, k, case, table), 2)

    def moc(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return moc_attention(q, k, v, table, case.routing, backend=backend(q))

    calls: dict[str, Attention] = {"moc": moc, "dense": dense} | ({"flash": flash} if card else {})
    for name, peers in {} if card else {"fa3": fa3(), "sol_attn": sol(case, kept, table)}.items():
        if isinstance(peers, str):
            result[name] = peers
        else:
            calls |= peers
    if eight_bits:
        in_8 = case.routing.changed(precision=EIGHT_BITS)
        calls["moc_8"] = lambda q, k, v: moc_attention(q, k, v, table, in_8, backend=backend(q))
        for name, peer in in_8_bits().items():
            if isinstance(peer, str):
                result[name] = peer
            else:
                calls[name] = peer
    for name, call in list(calls.items()):
        try:
            result |= {f"{name}_{what}": value for what, value in cost(call, q, k, v).items()}
        except Exception as failure:
            if name in ("moc", "dense"):
                raise
            result[name] = f"{type(failure).__name__}: {failure}"[:300]  # a peer that cannot run here is left out
            del calls[name]
    result["stages_ms"] = stages(lambda: moc(q, k, v))
    result["stages_sum_ms"] = round(sum(result["stages_ms"].values()), 3)
    if "moc_8" in calls:
        result["moc_8_stages_ms"] = stages(lambda: calls["moc_8"](q, k, v))
        exact = moc(q, k, v).float()
        result["error_to_16_bits"] = round(float((calls["moc_8"](q, k, v) - exact).norm() / exact.norm()), 5)
        del exact
    if reuse:
        result |= used_again(moc, q, k, v, table, case)
    result |= gains(result)
    if case.routing.lists == "token":
        result |= own_error(moc(q, k, v), q, k, v, table, case)
    if not case.coherent:
        del q, k, v
        q, k, v = inputs(coherent="trained")
    result["error"] = errors(calls, q, k, v, table)
    return result


def used_again(moc: Attention, q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, case: Case) -> dict[str, Any]:
    """Of a step that takes a kept choice: time, stages, bytes of the choice, and whether its output has moc's bits."""
    kept = KeptChoice()

    def again(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return moc_attention(q, k, v, table, case.routing, backend=backend(q), kept=kept)

    def keeping(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.clear()
        return again(q, k, v)

    result: dict[str, Any] = {f"keeping_{what}": value for what, value in cost(keeping, q, k, v).items()}
    result |= {f"again_{what}": value for what, value in cost(again, q, k, v).items()}
    result["again_stages_ms"] = stages(lambda: again(q, k, v))
    result["again_same_bits"] = kept.taken and torch.equal(again(q, k, v), moc(q, k, v))
    return result | {"kept_bytes": kept.bytes}


def backend(q: Tensor) -> str:
    return "triton" if q.is_cuda else "eager"


def gains(result: dict[str, Any]) -> dict[str, float]:
    """How many times as fast MoC is as each dense attention, and sol_attn as cuDNN's; waited for, and in a row."""
    pairs = {
        "ratio": ("dense", "moc"), "ratio_to_flash": ("flash", "moc"), "ratio_to_fa3": ("fa3", "moc"),
        "ratio_to_fa3_e4m3": ("fa3_e4m3", "moc"), "sol_attn_ratio": ("dense", "sol_attn"),
        "sol_attn_tiled_ratio": ("dense", "sol_attn_tiled"), "moc_8_ratio": ("dense", "moc_8"),
        "moc_8_ratio_to_16_bits": ("moc", "moc_8"), "sage_ratio": ("dense", "sage"),
        "kitchen_ratio": ("dense", "kitchen"), "again_ratio": ("moc", "again"),
    }  # fmt: skip
    return {
        name if what == "ms" else f"{name}_in_a_row": round(result[f"{slow}_{what}"] / result[f"{fast}_{what}"], 2)
        for name, (slow, fast) in pairs.items()
        for what in ("ms", "row_ms")
        if f"{slow}_ms" in result and f"{fast}_ms" in result
    }


def kept_share(q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, case: Case) -> float:
    """Pairs that are kept, of all; counted where nobody knows beforehand."""
    if case.routing.same_k:
        return table.density(table.top_k(case.routing), case.routing.candidates.causal)
    counts = Counts(table, case.heads, q.device)
    moc_attention(q, k, v, table, case.routing, backend=backend(q), record=counts)
    return counts.geometry.mandatory + float(counts.result()[1])


def some_rows(table: ChunkTable, device: torch.device) -> Tensor:
    """512 random rows, in sorted order."""
    torch.manual_seed(1)
    return torch.randperm(table.length, device=device)[:512].sort().values


def own_error(out: Tensor, q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, case: Case) -> dict[str, float]:
    """Against what it is to compute, in float32."""
    t, heads = table.tensors(q.device), [0, case.heads - 1]
    rows = some_rows(table, q.device)
    q, k, v = (x[:, heads].index_select(-2, t.order) for x in (q, k, v))
    want = expected(q, k, v, table, case.routing, q.shape[-1] ** -0.5, rows)
    got = out[:, heads].index_select(-2, t.order)[:, :, rows].float()
    rms = ((got - want).square().mean() / want.square().mean()).sqrt()
    worst = (got - want).abs().amax(-1) > 0.02 * want.abs().amax()
    return {"rms_error": round(float(rms), 6), "rows_off": round(float(worst.float().mean()), 6)}


def errors(calls: dict[str, Attention], q: Tensor, k: Tensor, v: Tensor, table: ChunkTable) -> dict[str, float]:
    """Against dense attention in float32."""
    t, heads = table.tensors(q.device), [0, q.shape[1] - 1]
    tokens = t.order[some_rows(table, q.device)]
    few = q[:, heads].index_select(-2, tokens).float()
    want = (few @ k[:, heads].float().mT * q.shape[-1] ** -0.5).softmax(-1) @ v[:, heads].float()

    def off(out: Tensor) -> float:
        got = out[:, heads].index_select(-2, tokens).float()
        return round(float(((got - want).norm(dim=(2, 3)) / want.norm(dim=(2, 3))).mean()), 5)

    return {name: off(call(q, k, v)) for name, call in calls.items()}


def arguments(about: str | None, eight_bits: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="parts of case names, separated by commas")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--reuse", action="store_true", help="also a step that takes the choice of the step before")
    parser.add_argument("--tiny", action="store_true", help="very short films on any device: a dry run")
    if eight_bits:
        parser.add_argument("--eight-bits", action="store_true", help="8 bits beside 16, and peers that have them")
    cards.add_argument(parser)
    args = parser.parse_args()
    cards.pretend(args.card)
    return args


def collect(
    args: argparse.Namespace, name: str, run: Callable[[Case], dict[str, Any]], cases: Iterable[Case]
) -> list[dict[str, Any]]:
    """Run the cases that were asked for, print each and write all with what they ran on."""
    facts = {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__, "triton": triton.__version__, "cudnn": torch.backends.cudnn.version(),
        "dtype": "bfloat16" if torch.cuda.is_available() else "float32", "date": time.strftime("%Y-%m-%d"),
        "command": host.command(name),
    }  # fmt: skip
    results: list[dict[str, Any]] = []
    for case in cases:
        if not asked_for(case.name, args.cases):
            continue
        try:
            results.append(run(case))
        except Exception as failure:  # one case that fails should not lose the others
            results.append({"case": case.name, "failed": f"{type(failure).__name__}: {failure}"[:500]})
        print(json.dumps(results[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


def tiny(case: Case) -> Case:
    return replace(case, grid=(4, 8, 8), heads=2, shots=min(case.shots, 2), text=min(case.text, 64))


def lines(r: dict[str, Any]) -> list[str]:
    """A case as it is printed: every call waited for and in a row, and its gain over cuDNN's both ways."""
    out = [f"{r['case']:32s} kept {r['kept']:6.1%}, least {r['least']}, aim {r['aim']}"]
    for name, error in r["error"].items():
        ms, row, extra = (r.get(f"{name}_{what}") for what in ("ms", "row_ms", "extra_over_qkv"))
        memory = "" if extra is None else f"extra memory {extra:.2f}, "
        gain = f"{r['dense_ms'] / ms:6.2f}x {ms:8.2f} ms, in a row {r['dense_row_ms'] / row:6.2f}x {row:8.2f} ms"
        out.append(f"{name:>32s} {gain}, {memory}error {error:.4f}")
    if "error_to_16_bits" in r:
        over_16 = f"{r['moc_8_ratio_to_16_bits']:.2f}x of 16 bits, in a row {r['moc_8_ratio_to_16_bits_in_a_row']:.2f}x"
        out.append(f"{'8 bits':>32s} {over_16}, error to the same choice in 16 bits {r['error_to_16_bits']:.4f}")
    if "again_ms" in r:
        keeps = f"keeping takes {r['keeping_row_ms'] - r['moc_row_ms']:+.2f} ms and {r['kept_bytes'] / 2**20:.1f} MiB"
        same = "the same bits" if r["again_same_bits"] else "OTHER BITS"
        gain = f"{r['again_ratio']:6.2f}x {r['again_ms']:8.2f} ms, in a row {r['again_ratio_in_a_row']:6.2f}x"
        out.append(f"{'again, over moc':>32s} {gain} {r['again_row_ms']:8.2f} ms, {same}; {keeps}")
    over = [f"{name.removeprefix('ratio_to_')} {r[name]:.2f}x" for name in r if name.startswith("ratio_to_")]
    left_out = [f"{name}: {r[name]}" for name in PEERS if name in r]
    stage_sum = f"stages, in a row: {r['stages_sum_ms']:.2f} ms of {r['moc_row_ms']:.2f}"
    out.append(" " * 33 + "; ".join([*(["MoC over " + ", ".join(over)] if over else []), *left_out, stage_sum]))
    return out


def main() -> None:
    args = arguments(__doc__, eight_bits=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = [tiny(case) for case in CASES] if args.tiny else CASES
    measure = partial(run, card=args.card, device=device, eight_bits=args.eight_bits, reuse=args.reuse)
    for r in collect(args, "attention", measure, cases):
        if "failed" not in r:
            print(*lines(r), sep="\n")


if __name__ == "__main__":
    main()
