"""Seconds per sampling step inside ComfyUI, dense and with MoC, on a model of Wan2.1-14B's shape with random weights.

python -m benchmarks.end_to_end --comfyui FOLDER [--out benchmarks/results/NAME.json] [--runs 720p:,8shots:paper]

The model is ComfyUI's own class behind ComfyUI's own patcher and sampler (Euler, CFG 1); MoC is put on as the MoC Apply
node does it. Every rule first samples one step with a few blocks, which compiles its kernels and times attention block
by block, then with all of them. All runs share one process. `attention` is the self-attention call alone (without
projections, norms and RoPE), `rest` is everything else of the step.

Random weights route at random, so the noise that the model is given is smooth in space and time (`FIELD`): neighbouring
tokens then choose about as alike as in a trained model (`union_over_k`; docs/measured.md). Runs named "independent"
get white noise, where neighbours choose nothing in common: the worst case for lists that rows share.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate, scaled_dot_product_attention

from benchmarks import host
from moc.chunks import build_table
from moc.config import MoCSettings, RoutingConfig
from moc.layout import TokenLayout

FIELD = (2, 5, 5)  # latent frames and tokens between the points of the smooth noise
WHITE = 0.15  # white noise added to it
TEXT = 512


@dataclass(frozen=True)
class Film:
    """latent (T, H, W); aim: wanted ratio (paper's settings, fine tiles)."""

    title: str
    latent: tuple[int, int, int]
    shots: int
    aim: tuple[float, float]

    @property
    def grid(self) -> tuple[int, int, int]:
        t, h, w = self.latent
        return t, h // 2, w // 2

    @property
    def tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w


@dataclass(frozen=True)
class Rule:
    """routing None: dense, by `backend` (None: what ComfyUI takes by itself). full: time all blocks."""

    name: str
    routing: RoutingConfig | None = None
    backend: SDPBackend | None = None
    full: bool = True
    white: bool = False


FILMS = {
    "720p": Film("1280x720, 81 frames", (21, 90, 160), 1, (2.2, 2.5)),
    "8shots": Film("8 shots, 832x480, 413 frames", (104, 60, 104), 8, (3.2, 4.5)),
}
SMALL = dict(top_k=32, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled")
DENSE = (Rule("dense, ComfyUI's default", full=False), Rule("dense, cuDNN", backend=SDPBackend.CUDNN_ATTENTION))
RULES = {
    "720p": (
        *DENSE,
        Rule("paper: own frame + 3 frames", RoutingConfig(top_k=3, own="chunk")),
        Rule("fine: own chunk + 16 of 450 tokens", RoutingConfig(top_k=16, chunk_tokens=450, own="chunk")),
        Rule("fine: own frame + 32 of 8x8, min-max, tail", RoutingConfig(**SMALL), full=False),
        Rule("fine: the same, union lists", RoutingConfig(**SMALL, lists="union"), full=False),
    ),
    "8shots": (
        *DENSE,
        Rule("paper: own shot + 5 frames, causal", RoutingConfig(top_k=5, own="shot", causal=True)),
        Rule("fine: own frame + 32 of 8x8, min-max, tail", RoutingConfig(**SMALL)),
        Rule("fine: the same, union lists", RoutingConfig(**SMALL, lists="union")),
        Rule("fine: the same, union lists, independent", RoutingConfig(**SMALL, lists="union"), full=False, white=True),
        Rule("fine: own chunk + 16 of 450 tokens", RoutingConfig(top_k=16, chunk_tokens=450, own="chunk"), full=False),
    ),
}  # fmt: skip


class Clock:
    """Times on the device: forward passes, and self-attention calls within them. Asks the device only at the end."""

    def __init__(self, device: torch.device, probe: Callable[[Tensor, Tensor], None] | None = None) -> None:
        self.cuda, self.probe = device.type == "cuda", probe
        self.steps: list[tuple] = []
        self.calls: list[tuple] = []

    def mark(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, pairs: list[tuple]) -> list[float]:
        if not self.cuda:
            return [b - a for a, b in pairs]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in pairs]

    def diffusion_model(self, executor, *args, **kwargs):
        """A wrapper inside MoC's: sees the override that MoC has put in, and times it."""
        options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x)
        previous = options.get("optimized_attention_override")

        def attend(func, q, k, v, heads, *rest, **named):
            if q.shape != k.shape:
                return func(q, k, v, heads, *rest, **named) if previous is None else \
                    previous(func, q, k, v, heads, *rest, **named)  # fmt: skip
            if self.probe is not None and not self.calls:
                self.probe(q, k)
            begin = self.mark()
            if previous is None:
                out = func(q, k, v, heads, *rest, **named)
            else:
                out = previous(func, q, k, v, heads, *rest, **named)
            self.calls.append((begin, self.mark()))
            return out

        ours = {**options, "optimized_attention_override": attend}
        begin = self.mark()
        out = executor(
            *(ours if x is options else x for x in args), **{n: ours if x is options else x for n, x in kwargs.items()}
        )
        self.steps.append((begin, self.mark()))
        return out


def dense_by(backend: SDPBackend):
    """An override that runs self-attention on one of torch's kernels."""

    def attend(func, q, k, v, heads, *args, **kwargs):
        if q.shape != k.shape:
            return func(q, k, v, heads, *args, **kwargs)
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return attend


def new_model(blocks: int, dim: int, heads: int, ffn: int, device: torch.device, dtype: torch.dtype):
    """ModelPatcher of ComfyUI's WAN21, random weights made where they stay."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.WAN21_T2V({
        "image_model": "wan2.1", "model_type": "t2v", "dim": dim, "ffn_dim": ffn, "num_heads": heads,
        "num_layers": blocks, "in_dim": 16, "out_dim": 16, "freq_dim": 256, "text_dim": 4096, "text_len": TEXT,
        "patch_size": (1, 2, 2), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6, "window_size": (-1, -1),
    })  # fmt: skip
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=device).to(device).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            if weight.ndim > 1 and "modulation" not in name:
                weight.normal_(0, weight[0].numel() ** -0.5)
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                if "modulation" in name:
                    weight.normal_(0, 0.1)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def noise_of(film: Film, white: bool) -> Tensor:
    """[1, 16, T, H, W] of unit variance."""
    generator = torch.Generator().manual_seed(1)
    free = torch.randn(1, 16, *film.latent, generator=generator)
    if white:
        return free
    t, h, w = film.grid
    points = [max(2, round(n / step)) for n, step in zip((t, h, w), FIELD, strict=True)]
    field = interpolate(
        torch.randn(1, 16, *points, generator=generator), film.latent, mode="trilinear", align_corners=True
    )
    return field / field.std() + WHITE * free


@contextmanager
def only(model, count: int) -> Iterator[None]:
    """The model with its first blocks alone."""
    diffusion_model = model.model.diffusion_model
    blocks = diffusion_model.blocks
    diffusion_model.blocks = blocks[:count]
    try:
        yield
    finally:
        diffusion_model.blocks = blocks


@torch.inference_mode()
def sample(model, film: Film, noise: Tensor, steps: int, clock: Clock) -> None:
    """KSampler's own path."""
    import comfy.sample
    from comfy.patcher_extension import WrappersMP

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark", clock.diffusion_model)
    text = torch.randn(1, TEXT, 4096, generator=torch.Generator().manual_seed(2))
    prompt = [[text, {}]]
    comfy.sample.sample(
        model, noise, steps, 1.0, "euler", "simple", prompt, prompt, torch.zeros_like(noise), disable_pbar=True, seed=3
    )


def union_probe(film: Film, routing: RoutingConfig, result: dict) -> Callable[[Tensor, Tensor], None]:
    """Notes how many chunks 64 neighbouring rows choose together, over what one chooses: one head, some rows."""
    from moc.routing import candidates, describe, scores, select

    def probe(q: Tensor, k: Tensor) -> None:
        table = build_table(TokenLayout(film.tokens, film.grid), starts_of(film), routing)
        t = table.tensors(q.device)
        q, k = (x[:, :, :128].unsqueeze(1).index_select(-2, t.order) for x in (q, k))
        first = film.tokens // 2 // 64 * 64
        rows = slice(first, min(first + 4096, film.tokens // 64 * 64))
        _, candidate = candidates(table, routing, rows, q.device)
        chosen = select(scores(q[:, :, rows], describe(k, table, routing.descriptor)), candidate, table.top_k(routing))
        union = chosen.unflatten(2, (-1, 64)).any(3).sum(-1).float().mean()
        result["union_over_k"] = round(float(union / chosen.sum(-1).float().mean()), 2)

    return probe


def starts_of(film: Film) -> tuple[int, ...]:
    return tuple(film.latent[0] * s // film.shots for s in range(film.shots))


def run(model, film: Film, rule: Rule, args: argparse.Namespace, device: torch.device) -> dict[str, object]:
    from moc.host.patch import apply_moc
    from moc.shots import Shots
    from moc.trace import Trace

    result: dict[str, object] = {"film": film.title, "tokens": film.tokens, "rule": rule.name}
    blocks = len(model.model.diffusion_model.blocks)
    noise, trace = noise_of(film, rule.white), Trace(keep="off")
    patched, probe = model.clone(), None
    if rule.routing is not None:
        shots = Shots(even=film.shots) if film.shots > 1 else None
        patched = apply_moc(model, shots, MoCSettings(rule.routing), trace)
        table = build_table(TokenLayout(film.tokens, film.grid), starts_of(film), rule.routing)
        result["kept_by_choice"] = round(table.density(table.top_k(rule.routing), rule.routing.causal), 4)
        probe = union_probe(film, rule.routing, result)
    elif rule.backend is not None:
        patched.model_options["transformer_options"]["optimized_attention_override"] = dense_by(rule.backend)

    clock = Clock(device, probe)
    begin = time.perf_counter()
    with only(patched, min(args.few, blocks)):
        sample(patched, film, noise, 1, clock)
    result["compiling_s"] = round(time.perf_counter() - begin, 1)
    attention = statistics.median(clock.seconds(clock.calls)[1:] or clock.seconds(clock.calls))
    result["attention_ms_a_block"] = round(attention * 1000, 2)
    if rule.full and blocks > args.few:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock = Clock(device)
        sample(patched, film, noise, args.steps, clock)
        steps = clock.seconds(clock.steps)
        calls = clock.seconds(clock.calls)
        result["steps_s"] = [round(s, 3) for s in steps]
        result["step_s"] = round(statistics.median(steps), 3)
        result["attention_s"] = round(sum(calls) / len(steps), 3)
        result["rest_s"] = round(result["step_s"] - result["attention_s"], 3)
        if device.type == "cuda":
            result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            result["weights_gib"] = round(model.model_size() / 2**30, 2)
    if rule.routing is not None:
        result["report"] = trace.report()
    return result


def estimate(rows: list[dict]) -> None:
    """Steps of rules that ran a few blocks only: their attention, and the rest of a full run of the same film."""
    for row in rows:
        full = next((r for r in rows if r.get("film") == row.get("film") and "rest_s" in r), None)
        if full and "failed" not in row and "step_s" not in row:
            row["estimated_step_s"] = round(full["rest_s"] + row["attention_ms_a_block"] * full["blocks"] / 1000, 3)


def table_of(rows: list[dict]) -> str:
    base = {r["film"]: r for r in rows if r["rule"] == "dense, cuDNN" and "step_s" in r}
    lines = ["| film | rule | kept | attention of a block | step | gain | peak memory |", "|---" * 7 + "|"]
    for r in rows:
        if "failed" in r:
            lines.append(f"| {r['film']} | {r['rule']} | failed: {r['failed'][:60]} | | | | |")
            continue
        step = r.get("step_s") or r.get("estimated_step_s")
        gain = f"{base[r['film']]['step_s'] / step:.2f}x" if step and r["film"] in base else "-"
        kept = f"{r['kept_by_choice']:.1%}" if "kept_by_choice" in r else "100 %"
        seconds = "-" if not step else f"{step:.2f} s" + ("" if "step_s" in r else " (estimated)")
        peak = f"{r['peak_gib']:.1f} GiB" if "peak_gib" in r else "-"
        lines.append(
            f"| {r['film']} | {r['rule']} | {kept} | {r['attention_ms_a_block']:.1f} ms | {seconds} | {gain} | {peak} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", default="", help="film:part of a rule's name, separated by commas; empty: all")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--few", type=int, default=3, help="blocks of the first, compiling run")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--tiny", action="store_true", help="a small model and short films on any device: a dry run")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    version = host.start(args.comfyui, *([] if cuda else ["--cpu"]))
    films, size, dtype = FILMS, (5120, 40, 13824), torch.bfloat16
    if args.tiny:
        films = {
            "720p": Film("tiny", (4, 24, 32), 1, (1, 1)), "8shots": Film("tiny, 8 shots", (16, 24, 32), 8, (1, 1)),
        }  # fmt: skip
        size, dtype = (256, 2, 512), torch.float32
    begin = time.perf_counter()
    model = new_model(args.blocks, *size, device, dtype)
    facts = {
        "gpu": torch.cuda.get_device_name() if cuda else "none", "torch": torch.__version__, "comfyui": version,
        "cudnn": torch.backends.cudnn.version(), "blocks": args.blocks, "dtype": str(dtype), "steps": args.steps,
        "command": f"python -m benchmarks.end_to_end --runs '{args.runs}' --steps {args.steps} --few {args.few}",
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(f"model in {time.perf_counter() - begin:.1f} s", json.dumps(facts), flush=True)
    wanted = [pair.split(":", 1) for pair in args.runs.split(",") if pair]
    rows: list[dict] = []
    for name, film in films.items():
        for rule in RULES[name]:
            if wanted and not any(f == name and part in rule.name for f, part in wanted):
                continue
            if rule.backend is not None and not cuda:
                continue
            try:
                rows.append({**run(model, film, rule, args, device), "blocks": args.blocks})
            except Exception as failure:  # one rule that fails should not lose the others
                rows.append({"film": film.title, "rule": rule.name, "failed": f"{type(failure).__name__}: {failure}"})
            estimate(rows)
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                args.out.write_text(json.dumps({**facts, "results": rows}, indent=1) + "\n")
    print(table_of(rows))


if __name__ == "__main__":
    main()
