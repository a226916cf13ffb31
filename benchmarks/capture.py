"""Keep the queries, keys and values of the demo model's self-attention while a real ComfyUI samples it densely.

python -m benchmarks.capture --comfyui FOLDER --out FOLDER [--seeds 0,1] [--steps 1,4,7] [--random]

One safetensors file per seed and step: q, k and v [H, N, D] in float16 for every block, as attention gets them (after
norm and RoPE), in the model's own token order. `benchmarks/quality.py` and `benchmarks/coherence.py` read them. Nothing
here belongs into git: the files are large and this script makes them again. --random replaces the weights by noise of
the same scale.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import host
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.chunks.table import ChunkTable
from moc.config import RoutingConfig

MODEL = host.REPO / "demo" / "models" / "moc_demo_wan.safetensors"
SAMPLING_STEPS, SHIFT = 8, 5.0  # as in the demo's workflow


@dataclass(frozen=True)
class Call:
    """One attention call: q, k, v [1, H, N, D] float32 in the model's order."""

    facts: dict
    block: int
    q: Tensor
    k: Tensor
    v: Tensor

    def table(self, routing: RoutingConfig) -> ChunkTable:
        t, h, w = self.facts["grid"]
        return build_chunks(TokenLayout(t * h * w, (t, h, w)), tuple(self.facts["starts"]), routing)


def blocks_of(path: Path) -> list[int]:
    with safe_open(path, "pt") as file:
        return list(range(len(file.keys()) // 3))


def load(path: Path, block: int) -> Call:
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        return Call(facts, block, *(file.get_tensor(f"{name}{block}").float()[None] for name in "qkv"))


def open_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Captures of the trained model, and of random weights (possibly none)."""
    trained, random = (sorted(folder.glob(f"{kind}_*.safetensors")) for kind in ("trained", "random"))
    if not trained:
        raise SystemExit(f"No trained_*.safetensors in {folder}: run benchmarks/capture.py first.")
    return trained, random


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


class Keeper:
    """An attention override that computes what the host would and keeps what self-attention was given."""

    def __init__(self, steps: list[int], save) -> None:
        self.steps, self.save = steps, save
        self.kept: dict[str, Tensor] = {}
        self.count = -1  # forward passes seen: one a step with the Euler sampler and CFG 1

    def __call__(self, func, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        if q.shape == k.shape:
            options = kwargs["transformer_options"]
            block, last = options["block_index"], options["total_blocks"] - 1
            self.count += block == 0
            if self.count in self.steps:
                for name, x in zip("qkv", (q, k, v), strict=True):
                    split = x.unflatten(-1, (heads, -1)).transpose(1, 2)[0]
                    self.kept[f"{name}{block}"] = split.to(torch.float16).contiguous()
                if block == last:
                    self.save(self.count, float(options["sigmas"][0]), options["grid_sizes"], self.kept)
                    self.kept = {}
        return func(q, k, v, heads, *args, **kwargs)


def randomise(model: torch.nn.Module) -> None:
    """Matrices of the trained size but without what training put into them; norms and biases stay."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight.std() + weight.mean())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    host.add_argument(parser)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=integers, default=[0, 1])
    parser.add_argument("--steps", type=integers, default=[1, 4, 7], help=f"of {SAMPLING_STEPS}, counted from 0")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    version = host.start(args.comfyui, *([] if torch.cuda.is_available() else ["--cpu"]))

    import comfy.sample
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    from demo.comfyui_moc_demo import Storyboard
    from demo.comfyui_moc_demo import storyboard as sb

    model = comfy.sd.load_diffusion_model(str(args.model), model_options={"dtype": torch.float32})
    if args.random:
        randomise(model.model.diffusion_model)
    (model,) = ModelSamplingSD3().patch(model, shift=SHIFT)
    args.out.mkdir(parents=True, exist_ok=True)
    starts = list(range(0, sb.LATENT_FRAMES, sb.LATENTS_PER_SHOT))

    for seed in args.seeds:

        def save(step: int, sigma: float, grid: tuple, tensors: dict[str, Tensor], seed: int = seed) -> None:
            facts = {
                "seed": seed, "step": step, "sigma": sigma, "grid": list(map(int, grid)), "starts": starts,
                "weights": "random" if args.random else args.model.name, "comfyui": version,
            }  # fmt: skip
            kind = "random" if args.random else "trained"
            save_file(tensors, args.out / f"{kind}_seed{seed}_step{step}.safetensors", {"facts": json.dumps(facts)})

        patched = model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = Keeper(args.steps, save)
        conditioning, latent, *_ = Storyboard.execute("", seed).result
        noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(seed))
        begin = time.time()
        comfy.sample.sample(
            patched, noise, SAMPLING_STEPS, 1.0, "euler", "simple", conditioning, conditioning, latent["samples"],
            disable_pbar=True, seed=seed,
        )  # fmt: skip
        print(f"seed {seed}: {time.time() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
