"""Seconds per sampling step inside ComfyUI, dense and with MoC, on a model of Wan2.1-14B's shape with random weights.

python -m benchmarks.end_to_end --comfyui FOLDER [--out benchmarks/results/NAME.json] [--runs 720p:,8shots:paper]

The model is ComfyUI's own class behind ComfyUI's own patcher and sampler (Euler, CFG 1); MoC is put on as the MoC Apply
node does it. Every rule first samples one step with a few blocks twice: once to compile its kernels, once for time.
Then it samples with all of them, where it is to and time allows. All runs share one process. `attention` is the
self-attention call alone (without projections, norms and RoPE), `rest` is everything else of the step.

Random weights route at random, so the noise that the model is given is smooth in space and time: neighbouring tokens
then choose about as alike as in a trained model (`union_over_k`; docs/performance.md). The rule on "independent tokens"
gets white noise, where neighbours choose nothing in common: the worst case for lists that rows share.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import host
from benchmarks.end_to_end_cases import DENSE, FILMS, RULES, TINY, Film, Rule
from benchmarks.end_to_end_model import SIZE, TINY_SIZE, Clock, dense_by, new_model, noise_of, only, sample
from moc.config import MoCSettings, RoutingConfig, Schedule

BEGIN = time.perf_counter()


def choice_probe(film: Film, routing: RoutingConfig, row: dict) -> Callable[[Tensor, Tensor], None]:
    """Notes how alike the rows of a query tile choose and what shared lists keep: from one head and some tiles."""
    from moc.routing.candidates import candidates, union
    from moc.routing.rules import select
    from moc.routing.scores import describe, scores

    def probe(q: Tensor, k: Tensor) -> None:
        table = film.table(routing)
        t = table.tensors(q.device)
        q, k = (x[:, :, :128].unsqueeze(1).index_select(-2, t.order) for x in (q, k))
        tiles = table.query_tiles()
        tiles = tiles[len(tiles) // 2 :][:64]
        rows = slice(tiles[0][0], tiles[-1][1])
        mandatory, candidate = candidates(table, routing, rows, q.device)
        score = scores(q[:, :, rows], describe(k, table, routing.score.descriptor))
        chosen = select(score, candidate, table.top_k(routing))
        together = [float(chosen[:, :, a - rows.start : b - rows.start].any(2).sum()) for a, b in tiles]
        row["union_over_k"] = round(statistics.mean(together) / float(chosen.sum(-1).float().mean()), 2)
        if routing.lists == "union":
            seen = union(chosen, candidate, table, rows) | mandatory
            row["kept"] = round(float((seen * t.lengths).sum(-1).float().mean()) / table.length, 4)

    return probe


def run(model, film: Film, rule: Rule, args: argparse.Namespace, device: torch.device) -> dict[str, object]:
    from moc.host.patch import apply_moc
    from moc.shots.cuts import Shots
    from moc.trace.trace import Trace

    row: dict[str, Any] = {"film": film.title, "tokens": film.tokens, "rule": rule.name, "kept": 1.0}
    blocks = len(model.model.diffusion_model.blocks)
    noise, trace, probe = noise_of(film, rule.white), Trace(keep=rule.trace), None
    patched = model.clone()
    if rule.routing is not None:
        shots = Shots(even=film.shots) if film.shots > 1 else None
        settings = MoCSettings(rule.routing, Schedule(min_tokens=1))  # routes even where dense would be faster
        patched = apply_moc(model, shots, settings, trace)
        table = film.table(rule.routing)
        row["kept"] = round(table.density(table.top_k(rule.routing), rule.routing.candidates.causal), 4)
        probe = choice_probe(film, rule.routing, row)
    elif rule.backend is not None:
        patched.model_options["transformer_options"]["optimized_attention_override"] = dense_by(rule.backend)

    few = min(args.few, blocks)
    clock, begin = Clock(device, probe), time.perf_counter()
    with only(patched, few):
        sample(patched, noise, 1, clock)
        clock.seconds(clock.steps)
        row["compiling_s"] = round(time.perf_counter() - begin, 1)
        clock = Clock(device)
        sample(patched, noise, 1, clock)
    row["attention_ms_a_block"] = round(statistics.median(clock.seconds(clock.calls)) * 1000, 2)
    (of_few,) = clock.seconds(clock.steps)
    row["step_from_few_s"] = round(of_few * blocks / few, 3)
    spent = time.perf_counter() - BEGIN + 1.05 * args.steps * row["step_from_few_s"]
    if rule.full and spent < args.seconds:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock = Clock(device)
        sample(patched, noise, args.steps, clock)
        steps, calls = clock.seconds(clock.steps), clock.seconds(clock.calls)
        row["steps_s"] = [round(s, 3) for s in steps]
        row["attention_s"] = round(sum(calls) / len(steps), 3)
        row["rest_s"] = round(statistics.median(steps) - row["attention_s"], 3)
        if device.type == "cuda":
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    if rule.routing is not None:
        row["report"] = trace.report()
    return row


def kitchen() -> list[str]:
    """The kernels that ComfyUI itself has for RoPE and the like: backends of comfy-kitchen that are on."""
    try:
        from comfy_kitchen import list_backends
    except ImportError:  # ComfyUI 0.3.75 has none
        return []
    return sorted(name for name, state in list_backends().items() if state["available"] and not state["disabled"])


def chosen(runs: str) -> list[tuple[str, Rule]]:
    """(film, rule) in the order that was asked for: where time is short, what comes last is left out."""
    everything = [(film, rule) for film, rules in RULES.items() for rule in rules]
    wanted = [pair.split(":", 1) for pair in runs.split(",") if pair]
    found = [(f, rule) for name, part in wanted for f, rule in everything if f == name and part in rule.name]
    return list(dict.fromkeys(found)) if wanted else everything


def step_of(row: dict) -> float:
    """Seconds of a step: measured whole, or from the few blocks."""
    return statistics.median(row["steps_s"]) if "steps_s" in row else row["step_from_few_s"]


def table_of(rows: list[dict]) -> str:
    base = {r["film"]: step_of(r) for r in rows if r["rule"] == DENSE and "failed" not in r}
    lines = ["| film | rule | kept | attention of a block | step | gain | peak memory |", "|---" * 7 + "|"]
    for r in rows:
        if "failed" in r:
            lines.append(f"| {r['film']} | {r['rule']} | failed: {r['failed'][:60]} | | | | |")
            continue
        gain = f"{base[r['film']] / step_of(r):.2f}x" if r["film"] in base else "-"
        step = f"{step_of(r):.2f} s" + ("" if "steps_s" in r else " (from few blocks)")
        peak = f"{r['peak_gib']:.1f} GiB" if "peak_gib" in r else "-"
        attention = f"{r['attention_ms_a_block']:.1f} ms"
        lines.append(f"| {r['film']} | {r['rule']} | {r['kept']:.1%} | {attention} | {step} | {gain} | {peak} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--host-arguments", default="", help="for ComfyUI's own command line")
    parser.add_argument("--out", type=host.Path)
    parser.add_argument("--runs", default="", help="film:part of a rule's name,... in this order; empty: all")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--few", type=int, default=2, help="blocks of the first runs")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=3600, help="start nothing that would end later")
    parser.add_argument("--tiny", action="store_true", help="a small model and short films on any device: a dry run")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    version = host.start(args.comfyui, *args.host_arguments.split(), "--highvram" if cuda else "--cpu")
    films = TINY if args.tiny else FILMS
    dtype = torch.bfloat16 if cuda else torch.float32
    model = new_model(args.blocks, TINY_SIZE if args.tiny else SIZE, device, dtype)
    facts = {
        "gpu": torch.cuda.get_device_name() if cuda else "none", "torch": torch.__version__, "comfyui": version,
        "cudnn": torch.backends.cudnn.version(), "comfy_kitchen": kitchen(), "blocks": args.blocks, "dtype": str(dtype),
        "weights_gib": round(model.model_size() / 2**30, 2),
        "command": f"python -m benchmarks.end_to_end --runs '{args.runs}' --steps {args.steps} --few {args.few} "
        f"--host-arguments '{args.host_arguments}'",
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(f"model after {time.perf_counter() - BEGIN:.1f} s", json.dumps(facts), flush=True)
    rows: list[dict] = []
    for name, rule in chosen(args.runs):
        film = films[name]
        if (rule.backend is not None and not cuda) or time.perf_counter() - BEGIN > args.seconds:
            continue
        try:
            rows.append(run(model, film, rule, args, device))
        except Exception as failure:  # one rule that fails should not lose the others
            rows.append({"film": film.title, "rule": rule.name, "failed": f"{type(failure).__name__}: {failure}"})
        print(f"{time.perf_counter() - BEGIN:.0f} s", json.dumps(rows[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps({**facts, "results": rows}, indent=1) + "\n")
    print(table_of(rows))


if __name__ == "__main__":
    main()
