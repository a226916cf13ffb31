"""Do the shots of a film longer than a window remember each other? On the demo model, through ComfyUI's real nodes.

python -m benchmarks.windows --comfyui FOLDER [--shots 6 12] [--clips 2] [--out benchmarks/results/windows_cpu.json]

Films of 6, 12, 24, 48 shots of 3 latent frames; windows of 2 shots where a film has 6, of 6 shots where it has more.
Every row of the result is one film under one rule; those already in --out are not made again.

dense               the whole film at once
forgetful           ComfyUI's windows without overlap and without the frame before a window
ComfyUI's defaults  windows that overlap by a third, moved at every step, with the frame before them and FreeNoise
shots               MoC Windows along the shots, with ComfyUI's frame before a window
drawn anew          MoC Windows, drawn anew at every step
drawn by chance     the same by throwing dice, which forget whom a shot has met already

passes   latent frames sampled per step, over those of the film
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import host
from benchmarks.windows_film import Film, film, measure, sb

STEPS, SHIFT = 10, 5.0
PACK = "mixture_of_contexts"
COLUMNS = ("passes", "across", "inside", "within", "off", "colour", "flicker", "contrast")
Model = Any
Rows = list[dict[str, Any]]


def load_pack() -> None:
    """As ComfyUI loads it: its folder `nodes` is not ComfyUI's module of that name."""
    init = host.REPO / "__init__.py"
    spec = importlib.util.spec_from_file_location(PACK, init, submodule_search_locations=[str(host.REPO)])
    assert spec is not None and spec.loader is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def pack(module: str) -> Any:
    return importlib.import_module(f"{PACK}.{module}")


def video_frames(latents: int) -> int:
    return 4 * latents - 3


def rules() -> dict[str, Callable[[Model, Film, int], Model]]:
    """name -> (model, film, shots in a window) -> model."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode, WanContextWindowsManualNode

    shots = pack("moc.shots.cuts").Shots
    node = pack("nodes.windows").MoCWindows

    def forgetful(model, film, together):
        length = together * sb.LATENTS_PER_SHOT
        return ContextWindowsManualNode.execute(
            model, length, 0, "batched", 1, False, "pyramid", dim=2, freenoise=False, causal_window_fix=False
        ).args[0]

    def defaults(model, film, together):
        length = video_frames(together * sb.LATENTS_PER_SHOT)
        return WanContextWindowsManualNode.execute(
            model, length, 4 * together, "standard_uniform", 1, False, "pyramid", True
        ).args[0]

    def ours(follow):
        def windows(model, film, together):
            cuts = shots(cuts=film.cuts(), unit="latent")
            return node.execute(model, cuts, follow, video_frames(together * sb.LATENTS_PER_SHOT), 0).args[0]

        return windows

    return {
        "dense": lambda model, film, together: model,
        "forgetful": forgetful,
        "ComfyUI's defaults": defaults,
        "shots": ours("shots"),
        "drawn anew": ours("shots, drawn anew"),
        "drawn by chance": by_chance(ours("shots, drawn anew")),
    }


def by_chance(windows: Callable[[Model, Film, int], Model]) -> Callable[[Model, Film, int], Model]:
    """The same node with another drawing: it is made when a run begins, so that the change is undone behind it."""
    patch = pack("moc.host.windows.patch")

    class Chance(patch.Drawing):
        def _next(self, rng: random.Random) -> list[list[int]]:
            order = rng.sample(range(len(self.sizes)), len(self.sizes))
            count = -(-sum(self.sizes) // self.length)
            return [sorted(order[i::count]) for i in range(count)]

    def put(model, film, together):
        model = windows(model, film, together)

        def around(executor, *args, **kwargs):
            kept, patch.Drawing = patch.Drawing, Chance
            try:
                return executor(*args, **kwargs)
            finally:
                patch.Drawing = kept

        wrappers = model.wrappers["outer_sample"]
        model.wrappers["outer_sample"] = {"chance": [around], **wrappers}  # outside the node's own
        return model

    return put


def sample(model: Model, vae: Any, film: Film, put: Callable, together: int) -> tuple[torch.Tensor, float]:
    """(video [F, H, W, 3], passes)"""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    import nodes  # ComfyUI's

    shots = pack("moc.shots.cuts").Shots
    facts = {"concat_latent_image": film.control}
    positive = [[film.words[0], facts]]
    model = ModelSamplingSD3().patch(model, SHIFT)[0]
    if len(film.words) > 1:  # every six shots read their own words
        sixes, captions = shots(cuts=film.cuts(sb.SHOTS), unit="latent"), [[[words, facts]] for words in film.words]
        node = pack("nodes.shot_conditioning").MoCShotConditioning
        model, positive, _ = node.execute(model=[model], shots=[sixes], captions=captions).args
    model, seen = put(model, film, together).clone(), []

    def count(executor, x, *args, **kwargs):
        seen.append(x.shape[2])
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "count", count)
    latent = {"samples": torch.zeros(1, 16, film.latents, sb.SIZE // 8, sb.SIZE // 8)}
    out = nodes.KSampler().sample(model, film.seed, STEPS, 1.0, "euler", "simple", positive, positive, latent)[0]
    return nodes.VAEDecode().decode(vae, out)[0].float(), sum(seen) / (STEPS * film.latents)


def table(rows: Rows) -> str:
    """Markdown: means over clips, with the standard error of `across` where there are several."""
    lines = ["| shots | windows | rule | clips | " + " | ".join(COLUMNS) + " |", "|---" * (4 + len(COLUMNS)) + "|"]
    groups: dict[tuple, Rows] = {}
    for row in rows:
        groups.setdefault((row["shots"], row["together"], row["rule"]), []).append(row)
    for (shots, together, rule), some in sorted(groups.items(), key=lambda item: item[0][:2]):
        cells = [f"{statistics.mean(row[name] for row in some):.4f}" for name in COLUMNS]
        lines.append(f"| {shots} | of {together} | {rule} | {len(some)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--shots", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--together", type=int, help="shots in a window; 2 of 6, else 6")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--rules", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=host.REPO / "benchmarks" / "results" / "windows_cpu.json")
    args = parser.parse_args()
    version = host.start(args.comfyui, "--cpu", "--use-pytorch-cross-attention")
    torch.set_num_threads(args.threads)
    load_pack()
    import comfy.sd
    import comfy.utils

    demo = host.REPO / "demo" / "models"
    weights = str(demo / "moc_demo_wan.safetensors")
    model = comfy.sd.load_diffusion_model(weights, model_options={"dtype": torch.float32})
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(demo / "moc_demo_vae.safetensors")))
    rows: Rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    done = {(row["shots"], row["together"], row["rule"], row["clip"]) for row in rows}
    for shots in args.shots:
        together = args.together or (2 if shots == sb.SHOTS else sb.SHOTS)
        for clip in range(args.clips):
            for rule, put in rules().items():
                if (shots, together, rule, clip) in done or (args.rules and rule not in args.rules):
                    continue
                begin = time.perf_counter()
                with torch.inference_mode():
                    this = film(shots, clip)
                    video, passes = sample(model, vae, this, put, together)
                    found = measure(this, video, together)
                seconds = round(time.perf_counter() - begin, 1)
                row = {"shots": shots, "together": together, "rule": rule, "clip": clip, "passes": round(passes, 3)}
                rows.append(row | found | {"seconds": seconds})
                print(rows[-1], flush=True)
                facts = {"command": host.command("windows"), "comfyui": version, "torch": torch.__version__}
                facts |= {"date": time.strftime("%Y-%m-%d"), "steps": STEPS, "shift": SHIFT}
                args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
