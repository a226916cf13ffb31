"""Every published method on the same queries, keys and values: error, what it reads of other shots, time.

python -m benchmarks.methods FOLDER [--out benchmarks/results/methods.json]               captures of the demo model
python -m benchmarks.methods --device cuda [--out benchmarks/results/methods_h200.json]   times, on a GPU

FOLDER holds what `benchmarks/capture.py` kept. Every method runs as its authors set it, and at shares of all (query,
key) pairs that its one most telling setting is moved to. Methods that have dense steps or blocks are taken where they
are not dense: what such a prefix costs is in `whole_run`. Sizes that authors give for large pictures are made smaller
with the picture (`SCALED`). Beside them our own presets.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import host
from benchmarks.capture import Call, blocks_of, load, open_folder
from benchmarks.cases import CASES, Case
from benchmarks.quality import settle
from benchmarks.timing import cost
from moc import by_head
from moc.attention import moc_attention
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.chunks.table import ChunkTable
from moc.config import PRESETS, MoCSettings, RoutingConfig
from moc.config.partition import ALL
from moc.methods import METHODS
from moc.probe.sampled_error import SampledError
from moc.routing.candidates import candidates
from moc.routing.selection import Selection
from moc.trace.pair_counts import Counts

TARGETS = (0.05, 0.1, 0.2)
ROWS = 256  # query rows of every head
PRESET_NAMES = ("recommended", "fast", "large pictures")
TIMED = ("medium tiles, 720p", "medium tiles, 8 shots")  # shapes and inputs of benchmarks/cases.py
# In 18 frames of 16x16 tokens what its authors cut 720p into: about a frame, and as many slabs, columns and boxes
SCALED = {
    "MoC": ({"chunk_tokens": 256},),
    "VMoBA": ({"tile": (3, ALL, ALL)}, {"tile": (ALL, 2, 3)}, {"tile": (3, 4, 6)}),
    "SVG 2": ({"top_k": 6},),  # a tenth of the clusters
    "SVG-EAR": ({"top_k": 6},),
    "SparsePR": ({},),
}
POOLED, TAIL = ("MoC", "VSA", "SpargeAttn", "VMoBA", "SVG 2", "SubBlock", "Veda"), ", rest pooled"
BOXES = sorted(product((1, 3), (1, 3), (1, 3)), key=lambda box: (box[0] * box[1] * box[2], box))


@dataclass(frozen=True)
class Knob:
    """settings: (value, target) -> what it changes; low keeps least, high most; whole: numbers only."""

    settings: Callable[[float, float], dict[str, Any]]
    low: float
    high: float
    whole: bool = False


def count(value: float, target: float) -> dict[str, Any]:
    return {"top_k": int(value), "density": None}


COUNT = Knob(count, 1, 1024, whole=True)
SHARE = Knob(lambda x, _: {"top_k": 0, "top_p": x}, 0.001, 1.0)
KNOBS = {
    "MoC": COUNT,
    "HoloCine": Knob(lambda x, _: {"static": "first tokens", "static_tokens": int(x)}, 1, 256, whole=True),
    "Sol-Attn": Knob(lambda x, _: {"beta": -x}, -6.0, 1.0),
    "VSA": COUNT,
    # half of it by count, the rest by share
    "Jenga": Knob(lambda x, target: {"density": target / 2, "top_p": x}, 0.001, 1.0),
    "SpargeAttn": COUNT,
    "VMoBA": Knob(lambda x, _: {"top_p": x}, 0.001, 1.0),
    "STA": Knob(lambda x, _: {"box": BOXES[int(x)]}, 0, len(BOXES) - 1, whole=True),
    "AdaSpa": COUNT,
    "Radial": Knob(lambda x, _: {"decay": x}, 0.001, 1.0),
    "SVG": Knob(lambda x, _: {"band": x}, 0.001, 1.0),
    "SVG 2": SHARE,
    "SVG-EAR": SHARE,
    "SubBlock": COUNT,
    "Veda": COUNT,
    "SparsePR": Knob(lambda x, _: {"density": None, "top_k": 0, "top_p": x}, 0.001, 1.0),
    "VSA by error": SHARE,
    "VSA by sub-means": COUNT,
    "fast by sub-means": COUNT,
    "VSA corrected": COUNT,
    "fast corrected": COUNT,
} | dict.fromkeys(PRESET_NAMES, COUNT)


def all_settings() -> dict[str, MoCSettings]:
    return {name: method.settings for name, method in METHODS.items()} | {name: PRESETS[name] for name in PRESET_NAMES}


def with_tail() -> dict[str, MoCSettings]:
    """What a pooled tail, which their authors do not have, would give to methods that choose; and with the same chunks
    and tail what another choice would."""
    found = {name + TAIL: METHODS[name].settings.with_routing(tail="pooled") for name in POOLED}
    by_error = {"rule": "error per cost", "density": None, "top_k": 0}
    found["VSA by error" + TAIL] = METHODS["VSA"].settings.with_routing(tail="pooled", **by_error)
    for name, settings in (("VSA", found["VSA" + TAIL]), ("fast", PRESETS["fast"])):
        found[f"{name} by sub-means" + TAIL] = settings.with_routing(descriptor="sub-means")
        found[f"{name} corrected" + TAIL] = settings.with_routing(repair_rows=64)
    return found


def scaled(name: str, settings: MoCSettings) -> MoCSettings:
    if name not in SCALED:
        return settings
    first, *turns = (r.changed(**size) for r, size in zip(settings.routings, SCALED[name], strict=True))
    return replace(settings, routing=first, turns=tuple(turns))


def sample(call: Call) -> Tensor:
    """The same tokens whatever the chunks."""
    generator = torch.Generator().manual_seed(call.block)
    return torch.randperm(call.q.shape[-2], generator=generator)[:ROWS].sort().values


def look(call: Call, settings: MoCSettings) -> SampledError:
    routing = settings.routing_of(call.block)
    table, tokens = table_of(call, routing), sample(call)
    found = by_head.sampled(call.q, call.k, call.v, table, routing, tokens).cpu()
    if not routing.repair.repair_rows:
        return found
    full = torch.nn.functional.scaled_dot_product_attention(call.q[:, :, tokens], call.k, call.v)
    apart = moc_attention(call.q, call.k, call.v, table, routing)[:, :, tokens] - full
    return replace(found, error=apart.double().square().sum((0, 2, 3))[None])


def kept_share(call: Call, settings: MoCSettings) -> float:
    """Of all pairs."""
    routing = settings.routing_of(call.block)
    table, scale = table_of(call, routing), call.q.shape[-1] ** -0.5
    parts = [by_head.Part(0, list(range(call.q.shape[1])), table, routing)]
    if routing.partition.by_head:
        parts = list(by_head.parts(call.q, call.k, call.v, table, routing, scale))
    total = 0.0
    for part in parts:
        t = part.table.tensors("cpu")
        rows = t.inverse[sample(call)]
        q, k, v = (part.of(x).index_select(-2, t.order) for x in (call.q, call.k, call.v))
        chosen = Selection(q, k, part.table, part.routing, scale, v=v).of(rows).chosen
        read = candidates(part.table, part.routing, rows, q.device)[0] | chosen
        total += float((read * t.lengths).sum(-1).double().mean((0, 2)).sum())
    return total / call.q.shape[1] / table.length


def table_of(call: Call, routing: RoutingConfig) -> ChunkTable:
    return _table(tuple(call.facts["grid"]), tuple(call.facts["starts"]), routing)


@cache
def _table(grid: tuple[int, int, int], starts: tuple[int, ...], routing: RoutingConfig) -> ChunkTable:
    return build_chunks(TokenLayout(math.prod(grid), grid), starts, routing)


def tuned(name: str, settings: MoCSettings, target: float, calls: list[Call]) -> MoCSettings | None:
    """The settings that keep about `target` of all pairs; None where the method cannot."""
    knob = KNOBS.get(name)
    if knob is None:
        return None

    @cache
    def share(value: float) -> float:
        asked = settings.with_routing(**knob.settings(value, target))
        return statistics.mean(kept_share(call, asked) for call in calls)

    value = settle(share, target, knob.low, knob.high, knob.whole)
    if value is None or not 0.8 < share(value) / target < 1.25:
        return None
    return settings.with_routing(**knob.settings(value, target))


def measure(settings: MoCSettings, calls: list[Call]) -> dict[str, float]:
    """error: relative, the mean over heads. recall: of what full attention reads; across: of that in other shots."""
    found, tokens = [look(call, settings) for call in calls], calls[0].q.shape[-2]
    error = [float((one.error[0] / one.size).sqrt().mean()) for one in found]
    across = sum(float(one.across.sum()) for one in found) / sum(float(one.abroad.sum()) for one in found)
    kept, schedule = statistics.mean(float(one.kept.mean()) / one.rows / tokens for one in found), settings.schedule
    dense = 1 - (1 - schedule.start_percent) * (1 - schedule.dense_first / 40)  # of a model of 40 blocks
    return {
        "kept": round(kept, 4), "whole_run": round(dense + (1 - dense) * kept, 4),
        "error": round(statistics.mean(error), 4), "error_p90": round(statistics.quantiles(error, n=10)[-1], 4),
        "recall": round(statistics.mean(float(one.mass.mean()) / one.rows for one in found), 4),
        "across": round(across, 4),
    }  # fmt: skip


def on_captures(paths: list[Path], every: int, only: list[str]) -> Iterator[dict[str, Any]]:
    calls = [load(path, block) for path in paths for block in blocks_of(path)[::every]]
    few = calls[:: max(1, len(calls) // 4)][:4]
    for name, published in (all_settings() | with_tail()).items():
        if only and name.removesuffix(TAIL) not in only:
            continue
        settings = scaled(name.removesuffix(TAIL), published)
        yield {"method": name, "target": None, **measure(settings, calls)}
        for target in TARGETS:
            asked = tuned(name.removesuffix(TAIL), settings, target, few)
            if asked is not None:
                usual = settings.routing.settings
                changed = {n: v for n, v in asked.routing.settings.items() if v != usual[n]}
                yield {"method": name, "target": target, "settings": changed, **measure(asked, calls)}


def timed(case: Case, device: str) -> Iterator[dict[str, Any]]:
    """Dense attention and every method as its authors set it, without their dense steps."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = case.inputs(device, dtype)
    dense = cost(torch.nn.functional.scaled_dot_product_attention, q, k, v)
    yield {"case": case.name, "method": "dense", **dense}
    for name, settings in all_settings().items():
        if name == "LCT":
            continue  # dense
        took = [one_time(case, routing, q, k, v) for routing in settings.routings]
        mean = {what: round(statistics.mean(one[what] for one in took), 4) for what in took[0]}
        yield {"case": case.name, "method": name, **mean, "ratio": round(dense["ms"] / mean["ms"], 2)}


def one_time(case: Case, routing: RoutingConfig, q, k, v) -> dict[str, float]:
    table = replace(case, routing=routing).table()
    backend = "triton" if q.is_cuda else "eager"
    counts = Counts(table, q.shape[1], q.device)
    moc_attention(q, k, v, table, routing, backend=backend, record=counts)
    kept = counts.geometry.mandatory + float(counts.result()[1])
    return {"kept": kept, **cost(lambda *x: moc_attention(*x, table, routing, backend=backend), q, k, v)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--device", help="times instead of errors, on this device")
    parser.add_argument("--tiny", action="store_true", help="times of very short films: a dry run")
    parser.add_argument("--every", type=int, default=2, help="errors of every so-many-th block")
    parser.add_argument("--only", nargs="+", default=[], help="errors of these methods; of others --out keeps its own")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.methods FOLDER --every {args.every}",
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    if args.device:
        cases = [case for case in CASES if case.name in TIMED]
        cases = [replace(c, grid=(8, 16, 16), heads=2, shots=min(c.shots, 2)) for c in cases] if args.tiny else cases
        result["command"] = host.command("methods")
        result["device"] = torch.cuda.get_device_name() if args.device == "cuda" else args.device
        found = (row for case in cases for row in timed(case, args.device))
    else:
        paths, _ = open_folder(args.folder)
        result |= {"captures": [path.stem for path in paths], "facts": load(paths[0], 0).facts, "rows": ROWS}
        found = on_captures(paths, args.every, args.only)
    kept = json.loads(args.out.read_text())["results"] if args.only and args.out and args.out.is_file() else []
    rows = [row for row in kept if row["method"].removesuffix(TAIL) not in args.only]
    order = [*all_settings(), *with_tail()]
    for row in found:
        rows.append(row)
        print(json.dumps(row), flush=True)
        result["results"] = sorted(rows, key=lambda one: order.index(one["method"])) if args.only else rows
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
