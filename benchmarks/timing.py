"""How long a call takes: waited for, in a row with others, and by stage. On a CPU too, for dry runs."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

STAGES = {  # kernel name -> stage; the first that fits. Ours are moc_<stage>_<kernel>
    "moc_bwd_kv": "gradients by keys",
    "moc_bwd_q": "gradients by rows",
    "moc_bwd_tail": "gradients by summaries",
    "moc_bwd_delta": "gradients, delta",
    "moc_attend_union": "tiles and merge",
    "moc_attend_block": "tiles and merge",
    "moc_attend_hot_chunks": "popular",
    "moc_attend_tail": "tail",
    "moc_attend_gather": "routed",
    "moc_pool": "pooling",
    "moc_quantise": "8 bits",
    "moc_select_exact": "routing (repair)",
    "moc_select": "routing",
    "moc_lists": "lists",
    "moc_permute": "token order",
    "cumsum": "lists",
    "Scan": "lists",
    "searchsorted": "lists",
    "cudnn": "own part (cuDNN)",
    "sdpa": "own part (cuDNN)",
    "index": "token order",
    "gather": "token order",
    "CatArray": "joining keys",
    "copy": "copies",
    "Memset": "clearing",
    "Fill": "clearing",
}


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_a_row(call: Callable[[], object], calls: int) -> float:
    """Milliseconds of one of `calls` calls that nobody waits for until the last: what a call takes inside a model.

    Launching goes on while the device computes, and the device is as warm, and its clock as low, as under load.
    """
    wait()
    if not torch.cuda.is_available():
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - begin) * 1000 / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / calls


def for_seconds(seconds: float, ms: float) -> int:
    """How many calls of `ms` milliseconds fill so many seconds; three at least."""
    return max(3, min(1000, round(1000 * seconds / ms)))


def cost(call: Attention, q: Tensor, k: Tensor, v: Tensor, seconds: float = 1.0, most: int = 20) -> dict[str, float]:
    """Milliseconds of a call, and the most memory beside inputs and output over that of q, k and v (on a GPU).

    ms: the median of calls that are waited for one by one. row_ms: the mean of calls in a row, after as many that warm
    the device up.
    """
    call(q, k, v)  # compiles
    result: dict[str, float] = {}
    if q.is_cuda:
        wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = call(q, k, v)
        wait()
        extra = torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
        result["extra_over_qkv"] = round(extra / (3 * q.nbytes), 3)
        del out
    times: list[float] = []
    stop = time.time() + seconds
    while len(times) < 3 or (time.time() < stop and len(times) < most):
        times.append(in_a_row(lambda: call(q, k, v), 1))
    ms = statistics.median(times)
    calls = for_seconds(seconds, ms)
    in_a_row(lambda: call(q, k, v), calls)
    return {"ms": round(ms, 3), "row_ms": round(in_a_row(lambda: call(q, k, v), calls), 3)} | result


def stages(call: Callable[[], object], seconds: float = 1.0) -> dict[str, float]:
    """Milliseconds of one call by stage: the mean of calls in a row on a device that calls before them have warmed.

    A single call after a pause runs at a higher clock than any call inside a model, and its stages sum to less.
    """
    calls = for_seconds(seconds, in_a_row(call, 3))
    in_a_row(call, calls)
    cuda = torch.cuda.is_available()
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(calls):
            call()
        wait()
    out: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        if spent:
            stage = next((s for word, s in STAGES.items() if word.lower() in event.key.lower()), event.key[:60])
            out[stage] += spent / 1000 / calls
    return {k: round(v, 3) for k, v in sorted(out.items(), key=lambda kv: -kv[1])}
