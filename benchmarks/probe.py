"""Does the probe's advice keep its word? On the demo model, inside a real ComfyUI on the CPU.

python -m benchmarks.probe --comfyui FOLDER [--out FILE] [--errors 0.02,0.05] [--probed 0] [--tried 1] [--sample 1,3]

Probe one film. For every chosen error and scope take the advice and try it on another film, in steps that the probe did
not look at: every routed block's error is measured as `moc/probe/advice.py` defines it, but by the backend, over all
tokens. --sample then makes whole films with every advice for all blocks alike and says how far their latents moved, and
how alike their characters are from shot to shot.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import host

MODEL = host.REPO / "demo" / "models" / "moc_demo_wan.safetensors"
VAE = MODEL.with_name("moc_demo_vae.safetensors")
STEPS, SHIFT = 8, 5.0  # as in the demo's workflow
UNSEEN = (0, 5)  # steps that a probe of 3 steps does not look at: it takes 1, 4 and 6
ERRORS = (0.02, 0.05, 0.1, 0.15, 0.25)
TILES = ((1, 2, 2), (1, 4, 4), (1, 8, 8), None)


class Studio:
    """The demo model in a ComfyUI."""

    def __init__(self) -> None:
        import comfy.sd
        import comfy.utils
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        from demo.comfyui_moc_demo import storyboard as sb
        from moc.shots.cuts import Shots

        model = comfy.sd.load_diffusion_model(str(MODEL), model_options={"dtype": torch.float32})
        (self.model,) = ModelSamplingSD3().patch(model, shift=SHIFT)
        self.vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(VAE)))
        self.shots = Shots(cuts=tuple(range(sb.LATENTS_PER_SHOT, sb.LATENT_FRAMES, sb.LATENTS_PER_SHOT)), unit="latent")

    @torch.inference_mode()
    def sample(self, model, seed: int) -> torch.Tensor:
        import comfy.sample

        from demo.comfyui_moc_demo import Storyboard

        conditioning, latent, *_ = Storyboard.execute("", seed).result
        noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(seed))
        return comfy.sample.sample(
            model, noise, STEPS, 1.0, "euler", "simple", conditioning, conditioning, latent["samples"],
            disable_pbar=True, seed=seed,
        )  # fmt: skip

    @torch.inference_mode()
    def likeness(self, latent: torch.Tensor, seed: int) -> float:
        """Of the character from shot to shot: 1 is the same."""
        from demo.comfyui_moc_demo import Similarity, Storyboard

        frames = self.vae.decode(latent)
        return Similarity.execute(
            frames.reshape(-1, *frames.shape[-3:]), Storyboard.execute("", seed).result[3]
        ).result[1]

    def probe(self, log, seed: int) -> torch.Tensor:
        """Fills the log; returns the latent."""
        from moc.host import apply_probe
        from moc.trace.trace import Trace

        return self.sample(apply_probe(self.model, self.shots, log, Trace()), seed)

    def routed(self, settings, seed: int) -> torch.Tensor:
        from moc.host import apply_moc
        from moc.trace.trace import Trace

        settings = settings.with_schedule(min_tokens=1)  # routes even where dense would be faster
        return self.sample(apply_moc(self.model, self.shots, settings, Trace()), seed)


def make_trial():
    from moc.attention import moc_attention
    from moc.chunks.build import build_chunks
    from moc.probe.log import ProbeLog

    class Trial(ProbeLog):
        """Runs every advised routing of a block on what its attention got: (step, block, routing) -> squared error."""

        def prepare(self, plans: list) -> None:
            self.plans, self.found, self.tables = plans, {}, {}

        def add(self, step, block, layout, starts, qkv, *, dense, scale, **_) -> None:
            asked = [p.settings.routing_of(block) for p in self.plans if not p.settings.schedule.is_dense(block, 999)]
            video = slice(layout.video_start, layout.video_stop)
            for routing in dict.fromkeys(asked):
                if routing not in self.tables:
                    self.tables[routing] = build_chunks(layout, starts, routing)
                out = moc_attention(*qkv, self.tables[routing], routing, scale=scale)
                lost, size = (x[:, :, video].square().sum() for x in (out - dense, dense))
                self.found[step, block, routing] = float(lost / size)

    return Trial


def main() -> None:
    parser = argparse.ArgumentParser()
    host.add_argument(parser)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--errors", type=lambda text: list(map(float, text.split(","))), default=list(ERRORS))
    parser.add_argument("--probed", type=int, default=0, help="seed of the film that is probed for advice")
    parser.add_argument("--tried", type=int, default=1, help="seed of the film that the advice is tried on")
    parser.add_argument(
        "--sample", type=lambda text: list(map(int, text.split(","))), default=[], help="seeds of films"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    version = host.start(args.comfyui, "--cpu")
    from moc.config import PRESETS
    from moc.probe.advice import SCOPES, advise
    from moc.probe.log import ProbeLog

    studio = Studio()
    begin = time.time()
    log = ProbeLog(PRESETS["recommended"], chunkings=TILES)
    studio.probe(log, args.probed)
    print(f"probed in {time.time() - begin:.1f} s, {len(log.options)} settings", flush=True)
    plans = {(scope, target): advise(log, target, scope) for scope in SCOPES for target in args.errors}
    trial = make_trial()(PRESETS["fast"], steps_asked=UNSEEN)
    trial.prepare([plan for plan in plans.values() if plan.routes])
    studio.probe(trial, args.tried)
    rows = [describe(log, plan, scope, trial.found) for (scope, _), plan in plans.items()]
    result = {
        "command": host.command("probe"),
        "machine": f"{platform.processor() or platform.machine()}, {args.threads} threads",
        "torch": torch.__version__,
        "comfyui": version,
        "model": MODEL.name,
        "tokens": log.tokens,
        "steps": STEPS,
        "probed": {"film": args.probed, "steps": log.chosen, "rows": log.rows_asked, "settings": len(log.options)},
        "tried": {"film": args.tried, "steps": UNSEEN},
        "results": rows,
    }
    save(result, args.out)
    for seed in args.sample:
        dense = studio.sample(studio.model, seed)
        result.setdefault("films", []).append({"seed": seed, "likeness_dense": studio.likeness(dense, seed)})
        for row, plan in zip(rows, plans.values(), strict=True):
            if row["scope"] == SCOPES[0] and plan.routes:
                latent = studio.routed(plan.settings, seed)
                row.setdefault("latent_moved", []).append(float((latent - dense).norm() / dense.norm()))
                row.setdefault("likeness", []).append(studio.likeness(latent, seed))
        save(result, args.out)


def save(result: dict, out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["results"][0]), flush=True)


def describe(log, advice, scope: str, found: dict) -> dict:
    schedule, routing = advice.settings.schedule, advice.settings.routing
    routed = [b for b in range(log.blocks) if not schedule.is_dense(b, log.blocks)] if advice.routes else []
    edges = np.cumsum([0, *advice.table.weight]).astype(int)
    steps = [s for s in UNSEEN if edges[advice.first] <= s < edges[advice.stop]]
    if routed and not steps:
        raise SystemExit(f"steps {UNSEEN} all stay dense at an error of {advice.target}: try others.")
    squares = {b: [found[s, b, advice.settings.routing_of(b)] for s in steps] for b in routed}
    errors = {b: float(np.sqrt(np.mean(values))) for b, values in squares.items()}
    worst = max(errors.values(), default=0.0)
    return {
        "error": advice.target,
        "scope": scope,
        "setting": {name: routing.settings[name] for name in ("tile", "top_k", "descriptor")},
        "blocks_of_their_own": len(advice.settings.blocks),
        "heads_of_their_own": any(advice.settings.routing_of(b).budget.head_density for b in routed),
        "dense_blocks": [b for b in range(log.blocks) if b not in routed],
        "routed_steps": [int(edges[advice.first]), int(edges[advice.stop])],
        "work": advice.work,
        "density": advice.kept,
        "recall_across_shots": advice.across if advice.routes else None,
        "expected_worst_block": float(advice.error.max()),
        "worst_block": worst,
        "mean_block": float(np.mean(list(errors.values()))) if errors else 0.0,
        "reached": worst <= advice.target,
    }


if __name__ == "__main__":
    main()
