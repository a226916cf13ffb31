"""Does the probe's advice keep its word? On the demo model, inside a real ComfyUI on the CPU.

python -m benchmarks.probe --comfyui FOLDER [--out FILE] [--errors 0.02,0.05,...] [--probed 0] [--tried 1,2]

Probe one film; for every chosen error and scope take the advice and probe that on another film, in steps that the first
probe did not look at. The error of a routed block is measured as `moc/advice.py` defines it, but over all tokens. Then
sample the other film routed and compare the latent with the dense one.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import host

MODEL = host.REPO / "demo" / "models" / "moc_demo_wan.safetensors"
STEPS, SHIFT = 8, 5.0  # as in the demo's workflow
UNSEEN = (0, 3, 7)  # steps that the first probe, of 3 steps, does not look at
ERRORS = (0.02, 0.05, 0.1, 0.15, 0.25)
TILES = ((1, 2, 2), (1, 4, 4), (1, 8, 8), None)


class Studio:
    """The demo model in a ComfyUI."""

    def __init__(self) -> None:
        import comfy.sd
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        from demo.comfyui_moc_demo import storyboard as sb
        from moc.shots import Shots

        model = comfy.sd.load_diffusion_model(str(MODEL), model_options={"dtype": torch.float32})
        (self.model,) = ModelSamplingSD3().patch(model, shift=SHIFT)
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

    def probe(self, settings, seed: int, **asked):
        """(what a probe of these settings saw, the latent)"""
        from moc.host import apply_probe
        from moc.probe_log import ProbeLog
        from moc.trace import Trace

        log = ProbeLog(settings, **asked)
        return log, self.sample(apply_probe(self.model, self.shots, log, Trace()), seed)

    def routed(self, settings, seed: int):
        from moc.host import apply_moc
        from moc.trace import Trace

        trace = Trace()
        return self.sample(apply_moc(self.model, self.shots, settings, trace), seed), trace


def error_of_blocks(studio: Studio, advice, blocks: int, steps: list[int], seed: int) -> dict[int, float]:
    """Of every routed block, over all tokens, in these steps of a dense run."""
    from moc.advice import tabulate

    log, _ = studio.probe(advice.settings, seed, steps_asked=tuple(steps), rows_asked=8)
    error = np.sqrt((tabulate(log).asked_error ** 2).mean(0))
    return {b: float(error[b]) for b in range(blocks) if not advice.settings.schedule.is_dense(b, blocks)}


def main() -> None:
    parser = argparse.ArgumentParser()
    host.add_argument(parser)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--errors", type=lambda text: list(map(float, text.split(","))), default=list(ERRORS))
    parser.add_argument("--probed", type=int, default=0, help="seed of the film that is probed for advice")
    parser.add_argument(
        "--tried", type=lambda text: [int(x) for x in text.split(",")], default=[1], help="and tried on"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    version = host.start(args.comfyui, "--cpu")
    from moc.advice import SCOPES, advise
    from moc.config import PRESETS

    studio = Studio()
    begin = time.time()
    log, _ = studio.probe(PRESETS["recommended"], args.probed, chunkings=TILES)
    print(f"probed in {time.time() - begin:.1f} s, {len(log.options)} settings", flush=True)
    dense = {seed: studio.sample(studio.model, seed) for seed in args.tried}
    result = {
        "command": f"python -m benchmarks.probe {' '.join(sys.argv[1:])}",
        "machine": f"{platform.processor() or platform.machine()}, {args.threads} threads",
        "torch": torch.__version__,
        "comfyui": version,
        "model": MODEL.name,
        "tokens": log.tokens,
        "steps": STEPS,
        "probed_film": args.probed,
        "probed_steps": log.chosen,
        "rows": log.rows_asked,
        "settings_compared": len(log.options),
        "seconds": {"call_dense": log.dense_seconds, "call_routed_as_asked": log.routed_seconds},
        "results": [],
    }
    for scope in SCOPES:
        for target in args.errors:
            row = describe(studio, log, advise(log, target, scope), target, scope, dense)
            result["results"].append(row)
            print(json.dumps(row), flush=True)
            if args.out:
                args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def describe(studio: Studio, log, advice, target: float, scope: str, dense: dict[int, torch.Tensor]) -> dict:
    from moc.advice import tabulate

    table = tabulate(log)
    edges = np.cumsum([0, *table.weight]).astype(int)
    steps = np.arange(edges[advice.first], edges[advice.stop])
    unseen = [s for s in UNSEEN if s in steps] or steps.tolist()
    row = {
        "error": target,
        "scope": scope,
        "routes": advice.routes,
        "settings": {
            "tile": advice.settings.routing.tile,
            "top_k": advice.settings.routing.top_k,
            "descriptor": advice.settings.routing.descriptor,
        },
        "blocks_of_their_own": len(advice.settings.blocks),
        "dense_blocks": list(advice.settings.schedule.dense_blocks),
        "routed_steps": steps.tolist(),
        "work": advice.work,
        "expected": float(advice.error.max()),
        "films": [],
    }
    if not advice.routes:
        return row
    for seed in dense:
        errors = error_of_blocks(studio, advice, log.blocks, unseen, seed)
        latent, trace = studio.routed(advice.settings, seed)
        moved = float((latent - dense[seed]).norm() / dense[seed].norm())
        row["films"].append(
            {
                "seed": seed,
                "steps": unseen,
                "reached": max(errors.values()) <= target,
                "worst_block": max(errors.values()),
                "mean_block": float(np.mean(list(errors.values()))),
                "density": trace.density,
                "latent_moved": moved,
            }
        )
    return row


if __name__ == "__main__":
    main()
