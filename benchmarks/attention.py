"""Time, memory and error of the GPU engine, of dense attention and of comfy-kitchen's sol_attn, all in one run.

python -m benchmarks.attention [--cases paper,720p] [--card sm_86] [--out benchmarks/results/NAME.json]

`error` is relative to dense attention in float32 (norm of the difference over the norm, 512 rows of two heads). Where
a case's inputs are independent tokens, of which routing can know nothing, it is taken on "trained" inputs instead
(`cases.py`). sol_attn keeps the same share of pairs, and text as it always keeps conditioning; `tiled`: its tokens
brought into the order of our tiles first, which is not timed. --card runs the kernels of other cards; `flash` is then
FlashAttention 2, the dense attention that these have, and sol_attn is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import cards, host
from benchmarks.cases import CASES, Case, asked_for
from benchmarks.check_gpu import expected
from moc.attention import moc_attention
from moc.chunks import ChunkTable
from moc.counts import Counts

STAGES = {  # kernel name -> stage; the first that fits
    "_of_keys": "gradients by keys",
    "_of_rows": "gradients by rows",
    "_of_summaries": "gradients by summaries",
    "_of_skipping": "gradients by summaries",
    "_delta": "gradients, delta",
    "_union_hopper": "tiles and merge",
    "_popular": "popular",
    "_find": "lists",
    "_join": "lists",
    "_leave": "lists",
    "_any": "tail",
    "_pool": "pooling",
    "_routed": "routed",
    "_route": "routing",
    "_ruled": "routing",
    "_deal": "routing",
    "_sift": "routing",
    "_few": "routing",
    "_best": "routing",
    "_share": "routing",
    "_split": "routing",
    "_move": "token order",
    "_repair": "routing (repair)",
    "_unpack": "lists",
    "_tally": "lists",
    "_rank": "lists",
    "_place": "lists",
    "_cut": "lists",
    "_union": "lists",
    "_steps": "lists",
    "cumsum": "lists",
    "Scan": "lists",
    "searchsorted": "lists",
    "_tile": "tiles and merge",
    "_tail": "tail",
    "cudnn": "own part (cuDNN)",
    "sdpa": "own part (cuDNN)",
    "index": "token order",
    "gather": "token order",
    "CatArray": "joining keys",
    "copy": "copies",
    "Memset": "clearing",
    "Fill": "clearing",
}


Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def cost(call: Attention, q: Tensor, k: Tensor, v: Tensor, seconds: float = 1.0, most: int = 20) -> dict[str, float]:
    """Milliseconds on the device (median), and the most memory beside inputs and output, over that of q, k and v."""
    call(q, k, v)  # compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = call(q, k, v)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
    del out
    times: list[float] = []
    stop = time.time() + seconds
    while len(times) < 3 or (time.time() < stop and len(times) < most):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        call(q, k, v)
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b))
    return {"ms": round(statistics.median(times), 3), "extra_over_qkv": round(extra / (3 * q.nbytes), 3)}


def stages(call: Callable[[], object]) -> dict[str, float]:
    """Milliseconds on the device by stage, of one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    out: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        if event.self_device_time_total:
            stage = next((s for word, s in STAGES.items() if word.lower() in event.key.lower()), event.key[:60])
            out[stage] += event.self_device_time_total / 1000
    return {k: round(v, 3) for k, v in sorted(out.items(), key=lambda kv: -kv[1])}


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        return scaled_dot_product_attention(q, k, v)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v)


def sol(case: Case, share: float) -> Attention | str:
    """comfy-kitchen's kernel at the same kept share, or why it cannot run."""
    try:
        import comfy_kitchen
    except ImportError:
        return "comfy-kitchen is not installed"
    if case.dim != 128:
        return "head dim 128 only"
    if not comfy_kitchen.sol_attn_is_available():
        return f"no sol_attn here: {comfy_kitchen.list_backends()['cuda']}"[:300]
    text = [0, -(-case.text // 64)]  # blocks of 64 tokens that all see, and that see all

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, N, H, D], as they lie in memory
        return comfy_kitchen.sol_attn(q, k, v, topk_ratio=share, sink_blocks=text, sink_q=text).transpose(1, 2)

    return attend


def union_factor(q: Tensor, k: Tensor, case: Case, table: ChunkTable) -> float:
    """Chunks that 64 consecutive rows choose together, over what one of them chooses."""
    from moc.routing import candidates, describe, scores, select

    t = table.tensors(q.device)
    rows = slice(table.length // 2 // 64 * 64, table.length // 2 // 64 * 64 + 2048)
    q, k = (x[:, :4].index_select(-2, t.order) for x in (q, k))
    _, candidate = candidates(table, case.routing, rows, q.device)
    chosen = select(
        scores(q[:, :, rows], describe(k, table, case.routing.descriptor)), candidate, table.top_k(case.routing)
    )
    tiles = chosen.unflatten(2, (-1, 64)).any(3).sum(-1).float().mean()
    return float(tiles / chosen.sum(-1).float().mean())


def run(case: Case, card: str | None = None) -> dict[str, Any]:
    table = case.table()
    q, k, v = case.inputs()
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
        return moc_attention(q, k, v, table, case.routing, backend="triton")

    calls: dict[str, Attention] = {"moc": moc, "dense": dense} | ({"flash": flash} if card else {})
    peer = "left out" if card else sol(case, kept)
    if isinstance(peer, str):
        result["sol_attn"] = peer
    else:
        calls["sol_attn"] = peer
    for name, call in calls.items():
        result |= {f"{name}_{what}": value for what, value in cost(call, q, k, v).items()}
    result["ratio"] = round(result["dense_ms"] / result["moc_ms"], 2)
    if card:
        result["ratio_to_flash"] = round(result["flash_ms"] / result["moc_ms"], 2)
    if "sol_attn" in calls:
        result["sol_attn_ratio"] = round(result["dense_ms"] / result["sol_attn_ms"], 2)
    result["stages_ms"] = stages(lambda: moc(q, k, v))
    if case.routing.lists == "token":
        result |= own_error(moc(q, k, v), q, k, v, table, case)
    if not case.coherent:
        del q, k, v
        q, k, v = case.inputs(coherent="trained")
    result["error"] = errors(calls, q, k, v, table)
    return result


def kept_share(q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, case: Case) -> float:
    """Pairs that are kept, of all; counted where nobody knows beforehand."""
    if case.routing.same_k:
        return table.density(table.top_k(case.routing), case.routing.causal)
    counts = Counts(table, case.heads, q.device)
    moc_attention(q, k, v, table, case.routing, backend="triton", record=counts)
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

    found = {name: off(call(q, k, v)) for name, call in calls.items()}
    if "sol_attn" in calls and not table.identity:
        # the kernel wants every token's heads side by side
        tiled = (x.transpose(1, 2).index_select(1, t.order).transpose(1, 2) for x in (q, k, v))
        found["sol_attn, tiled"] = off(calls["sol_attn"](*tiled).index_select(-2, t.inverse))
    return found


def arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="parts of case names, separated by commas")
    parser.add_argument("--out", type=Path)
    cards.add_argument(parser)
    args = parser.parse_args()
    cards.pretend(args.card)
    return args


def collect(
    args: argparse.Namespace, name: str, run: Callable[[Case], dict[str, Any]], cases: Iterable[Case]
) -> list[dict[str, Any]]:
    """Run the cases that were asked for, print each and write all with what they ran on."""
    facts = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(), "dtype": "bfloat16", "date": time.strftime("%Y-%m-%d"),
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
        torch.cuda.empty_cache()
    return results


def main() -> None:
    args = arguments(__doc__)
    results = collect(args, "attention", partial(run, card=args.card), CASES)
    for r in results:
        if "failed" in r:
            continue
        print(
            f"{r['case']:32s} kept {r['kept']:6.1%} dense {r['dense_ms']:8.2f} ms (least {r['least']}, aim {r['aim']})"
        )
        for name in ("moc", "sol_attn"):
            if f"{name}_ms" in r:
                ms, extra, error = r[f"{name}_ms"], r[f"{name}_extra_over_qkv"], r["error"][name]
                gain = r["dense_ms"] / ms
                print(f"{name:>32s} {gain:6.2f}x {ms:8.2f} ms, extra memory {extra:.2f}, error {error:.4f}")


if __name__ == "__main__":
    main()
