"""Time the GPU engine against dense attention and comfy-kitchen's sol_attn, all in one run.

python -m benchmarks.attention [--cases paper,720p] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.cases import CASES, Case
from benchmarks.check_gpu import expected
from moc.attention import moc_attention
from moc.chunks import ChunkTable

STAGES = {  # kernel name -> stage; the first that fits
    "_pool": "pooling",
    "_routed": "routed",
    "_route": "routing",
    "_deal": "routing",
    "_share": "routing",
    "_split": "routing",
    "_move": "token order",
    "_repair": "routing (repair)",
    "_unpack": "lists",
    "_rank": "lists",
    "_place": "lists",
    "_cut": "lists",
    "_union": "lists",
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


def milliseconds(call: Callable[[], object], seconds: float = 1.0, most: int = 20) -> float:
    """Median time on the device, after a warm-up that compiles."""
    call()
    torch.cuda.synchronize()
    times: list[float] = []
    stop = time.time() + seconds
    while len(times) < 3 or (time.time() < stop and len(times) < most):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        call()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b))
    return statistics.median(times)


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


def moc(q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, case: Case) -> Tensor:
    return moc_attention(q, k, v, table, case.routing, backend="triton")


def sol(q: Tensor, k: Tensor, v: Tensor, share: float) -> Callable[[], Tensor] | str:
    """comfy-kitchen's kernel at the same kept share, in the memory layout it wants; or why it cannot run."""
    try:
        import comfy_kitchen
    except ImportError:
        return "comfy-kitchen is not installed"
    if q.shape[-1] != 128:
        return "head dim 128 only"
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return lambda: comfy_kitchen.sol_attn(q, k, v, topk_ratio=share)


def union_factor(q: Tensor, k: Tensor, case: Case, table: ChunkTable) -> float:
    """Chunks that 64 consecutive rows choose together, over what one of them chooses."""
    from moc.routing import candidates, describe, scores, select

    t = table.tensors(q.device)
    rows = slice(table.length // 2 // 64 * 64, table.length // 2 // 64 * 64 + 2048)
    q, k = (x[:, :2].index_select(-2, t.order) for x in (q, k))
    _, candidate = candidates(table, case.routing, rows, q.device)
    chosen = select(
        scores(q[:, :, rows], describe(k, table, case.routing.descriptor)), candidate, table.top_k(case.routing)
    )
    tiles = chosen.unflatten(2, (-1, 64)).any(3).sum(-1).float().mean()
    return float(tiles / chosen.sum(-1).float().mean())


def run(case: Case) -> dict[str, Any]:
    table = case.table()
    q, k, v = case.inputs()
    n, top_k = table.length, table.top_k(case.routing)
    kept = table.density(top_k, case.routing.causal)
    result: dict[str, Any] = {
        "case": case.name, "tokens": n, "heads": case.heads, "dim": case.dim, "chunks": len(table.chunks),
        "top_k": top_k, "kept": round(kept, 4), "ideal": round(1 / kept, 2), "least": case.least, "aim": case.aim,
    }  # fmt: skip
    if table.mean_chunk <= 128:
        result["union_over_k_64_rows"] = round(union_factor(q, k, case, table), 2)
    moc(q, k, v, table, case)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = moc(q, k, v, table, case)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
    result["extra_over_qkv"] = round(peak / (3 * q.numel() * q.element_size()), 3)
    if case.routing.lists == "token":
        result |= error(out, q, k, v, table, case)
    del out
    result["moc_ms"] = round(milliseconds(lambda: moc(q, k, v, table, case)), 3)
    result["stages_ms"] = stages(lambda: moc(q, k, v, table, case))
    result["dense_ms"] = round(milliseconds(lambda: dense(q, k, v), most=5), 3)
    result["ratio"] = round(result["dense_ms"] / result["moc_ms"], 2)
    peer = sol(q, k, v, kept)
    if isinstance(peer, str):
        result["sol_attn"] = peer
    else:
        result["sol_attn_ms"] = round(milliseconds(peer), 3)
        result["sol_attn_ratio"] = round(result["dense_ms"] / result["sol_attn_ms"], 2)
    return result


def error(out: Tensor, q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, case: Case) -> dict[str, float]:
    """Against float32 on 512 random rows of two heads."""
    t = table.tensors(q.device)
    heads = [0, case.heads - 1]
    rows = torch.randperm(table.length, device=q.device)[:512].sort().values  # in sorted order
    q, k, v = (x[:, heads].index_select(-2, t.order) for x in (q, k, v))
    want = expected(q, k, v, table, case.routing, q.shape[-1] ** -0.5, rows)
    got = out[:, heads].index_select(-2, t.order)[:, :, rows].float()
    rms = ((got - want).square().mean() / want.square().mean()).sqrt()
    worst = (got - want).abs().amax(-1) > 0.02 * want.abs().amax()
    return {"rms_error": round(float(rms), 6), "rows_off": round(float(worst.float().mean()), 6)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", default="", help="parts of case names, separated by commas")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    wanted = [w for w in args.cases.split(",") if w]
    facts = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(), "dtype": "bfloat16", "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.attention" + (f" --cases {args.cases}" if args.cases else ""),
    }  # fmt: skip
    results: list[dict] = []
    for case in CASES:
        if wanted and not any(w in case.name for w in wanted):
            continue
        try:
            results.append(run(case))
        except Exception as failure:  # one case that fails should not lose the others
            results.append({"case": case.name, "failed": f"{type(failure).__name__}: {failure}"[:500]})
        print(json.dumps(results[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
        torch.cuda.empty_cache()
    for r in results:
        if "failed" not in r:
            sol_ratio = r.get("sol_attn_ratio", math.nan)
            print(f"{r['case']:32s} kept {r['kept']:6.1%} dense {r['dense_ms']:8.2f} moc {r['moc_ms']:8.2f} ms "
                  f"{r['ratio']:5.2f}x (sol {sol_ratio:.2f}x, least {r['least']}, aim {r['aim']})")  # fmt: skip


if __name__ == "__main__":
    main()
