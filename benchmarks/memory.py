"""Does a remade shot look like its film, and the next clip like the first? On the demo model, through ComfyUI's nodes.

python -m benchmarks.memory --comfyui FOLDER [--clips 1] [--next 2] [--out benchmarks/results/memory_cpu.json]
python -m benchmarks.memory --comfyui FOLDER --device cuda --clips 16 --next 10 --out FILE

A film of six shots is sampled whole. Then each of its shots is made again, one at a time, with another seed:

film         the film itself
alone        every shot for itself: ComfyUI's windows of one shot, without memory
remake       MoC Remake: one frame of every other shot is looked at once
remake, all frames    the same with all their frames
remake, whole film    all of the film in every step, beside a mask

And further clips of six shots are sampled, each whole, in which the same character is to be seen:

next         without memory
recall       MoC Recall of the first clip: four latent frames of it
recall, all frames, recall, subject    all of it; what a mask of the character shows of all of it
recall, strong        four frames, three times as strong
recall, last clip     four frames of the clip before, which remembers the clip before it

likeness  of the character: in a remade shot to the film's other shots; in a clip to the first one
own       of the shots of one clip to each other; of the film made of all remade shots
cost      latent frames in all passes, over those of what is made alone, step by step
Others as in `benchmarks.windows`. Rows already in --out are not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import host
from benchmarks.windows import SHIFT, STEPS, Rows, counted, load, prepared
from benchmarks.windows_film import Film, chain, looks_of, measure, sb
from benchmarks.windows_rules import Model, pack, rules

REMAKES: dict[str, dict[str, Any]] = {
    "remake": {},
    "remake, all frames": {"frames": 0},
    "remake, whole film": {"sees": "whole film"},
}
RECALLS: dict[str, dict[str, Any]] = {
    "recall": {},
    "recall, all frames": {"frames": 0},
    "recall, subject": {"frames": 0, "mask": True},
    "recall, strong": {"strength": 3.0},
    "recall, last clip": {"last": True},
}
RULES = ("film", "alone", *REMAKES, "next", *RECALLS)
COLUMNS = ("likeness", "own", "contrast", "off", "colour", "flicker", "cost", "seconds")
EMPTY = (1, 16, sb.LATENT_FRAMES, sb.SIZE // 8, sb.SIZE // 8)
LENGTH = sb.FRAMES  # of the film, which the model was made for


class Studio:
    """The demo's model and VAE, and how films are made with them."""

    def __init__(self, comfyui: Path, device: str, steps: int) -> None:
        self.version, self.model, self.vae, self.dtype = load(comfyui, device)
        self.device, self.steps = device, steps

    def sample(self, model: Model, positive: list, latent: Tensor, seed: int) -> tuple[Tensor, int]:
        """(latent, latent frames in all passes)"""
        import nodes  # ComfyUI's

        model, seen = counted(model)
        given = (model, seed, self.steps, 1.0, "euler", "simple", positive, positive, {"samples": latent})
        return nodes.KSampler().sample(*given)[0]["samples"], sum(seen)

    def decode(self, latent: Tensor) -> Tensor:
        import nodes

        return nodes.VAEDecode().decode(self.vae, {"samples": latent})[0].float().to(self.device)

    def there(self, film: Film) -> Film:
        parts = [{name: value.to(self.device) for name, value in part.items()} for part in film.parts]
        return replace(film, box=film.box.to(self.device), parts=parts)


def remakes(studio: Studio, film: Film, wanted: Sequence[str]) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(rule, 1, what was measured)"""
    if not {"film", "alone", *REMAKES}.intersection(wanted):
        return
    shots = pack("moc.shots.cuts").Shots(cuts=film.cuts(), unit="latent")
    node = pack("nodes.remake").MoCRemake
    model, positive = prepared(studio.model, film)
    there, begin = studio.there(film), time.perf_counter()
    latent, passes = studio.sample(model, positive, torch.zeros(EMPTY), film.seed)
    video = studio.decode(latent)
    looks = looks_of(there, video)
    shot = torch.tensor(sb.SHOT_OF_FRAME, device=studio.device)

    def found(made: Tensor, cost: float, seconds: float) -> dict[str, float]:
        likeness = (looks_of(there, made) @ looks.T)[shot[:, None] != shot].mean()
        return _row(measure(there, made, 1), float(likeness), cost, seconds)

    if "film" in wanted:
        yield "film", 1, found(video, passes / (studio.steps * film.latents), time.perf_counter() - begin)
    if "alone" in wanted:
        begin, single = time.perf_counter(), rules()["forgetful"](model, film, 1)
        alone, passes = studio.sample(single, positive, torch.zeros(EMPTY), film.seed + 1)
        seconds = time.perf_counter() - begin
        yield "alone", 1, found(studio.decode(alone), passes / (studio.steps * film.latents), seconds)
    for rule, more in ((rule, more) for rule, more in REMAKES.items() if rule in wanted):
        made, passes, begin = video.clone(), 0, time.perf_counter()
        for number in range(sb.SHOTS):
            patched, given, _ = node.execute(
                model, {"samples": latent}, shots, "remake the shot", number + 1, window=LENGTH, overlap=0, **more
            ).args
            again, frames = studio.sample(patched, positive, given["samples"], film.seed + 1 + number)
            others = [i for i in range(film.latents) if i // sb.LATENTS_PER_SHOT != number]
            if not torch.equal(again[:, :, others], latent[:, :, others]):
                raise AssertionError("another shot did not come back bit for bit")
            made[shot == number] = studio.decode(again)[shot == number]
            passes += frames
        yield rule, 1, found(made, passes / (studio.steps * film.latents), time.perf_counter() - begin)


def clips_in_a_row(
    studio: Studio, films: list[Film], wanted: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(rule, number of the clip, what was measured)"""
    if len(films) == 1 or not {"next", *RECALLS}.intersection(wanted):
        return
    memory, recall = pack("nodes.memory").MoCMemory, pack("nodes.memory").MoCRecall
    prompts = [prepared(studio.model, film) for film in films]
    first, _ = studio.sample(*prompts[0], torch.zeros(EMPTY), films[0].seed)
    looks = looks_of(studio.there(films[0]), studio.decode(first))
    for rule in (rule for rule in ("next", *RECALLS) if rule in wanted):
        before, more = first, RECALLS.get(rule)
        for number, film in enumerate(films[1:], 1):
            (model, positive), begin = prompts[number], time.perf_counter()
            if more is not None:
                of, latent = (number - 1, before) if more.get("last") else (0, first)
                given = {"frames": more.get("frames", 4), "strength": more.get("strength", 1.0)}
                given["mask"] = characters(films[of]) if more.get("mask") else None
                held = memory.execute("it", "clip", {"samples": latent}, made_with=prompts[of][1], **given).args[0]
                model = recall.execute(model, held, length=LENGTH).args[0]
            before, passes = studio.sample(model, positive, torch.zeros(EMPTY), film.seed)
            video, there = studio.decode(before), studio.there(film)
            likeness = float((looks_of(there, video) @ looks.T).mean())
            cost = passes / (studio.steps * film.latents)
            seconds = time.perf_counter() - begin
            yield rule, number + 1, _row(measure(there, video, 1), likeness, cost, seconds)


def characters(film: Film) -> Tensor:
    """[latent frames, H, W], 1 where the character is in any frame that a latent frame holds."""
    at = torch.arange(sb.SIZE) + 0.5
    left, top, cell = (x[:, None] for x in film.box.unbind(-1))
    inside = [(at > low - cell) & (at < low + (sb.CELLS + 1) * cell) for low in (left, top)]
    frames = (inside[1][:, :, None] & inside[0][:, None, :]).float()
    return torch.cat([frames[:1], frames[1:].unflatten(0, (-1, 4)).amax(1)])


def _row(measured: dict[str, float], likeness: float, cost: float, seconds: float) -> dict[str, float]:
    found = {"likeness": likeness, "own": measured["across"], "cost": cost, "seconds": seconds}
    found |= {name: measured[name] for name in ("contrast", "off", "colour", "flicker")}
    return {name: round(value, 5) for name, value in found.items()}


def table(rows: Rows) -> str:
    """Markdown: means over clips."""
    lines = ["| rule | clip | films | " + " | ".join(COLUMNS) + " |", "|---" * (3 + len(COLUMNS)) + "|"]
    groups: dict[tuple, Rows] = {}
    for row in rows:
        groups.setdefault((row["rule"], row["number"]), []).append(row)
    for (rule, number), some in groups.items():
        cells = [f"{statistics.mean(row[name] for row in some):.4f}" for name in COLUMNS]
        lines.append(f"| {rule} | {number} | {len(some)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first film")
    parser.add_argument("--next", type=int, default=2, help="clips after the first one")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no clip after so many")
    parser.add_argument("--out", type=Path, default=host.REPO / "benchmarks" / "results" / "memory_cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: Rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    done, begin = {(row["clip"], row["rule"]) for row in rows}, time.monotonic()
    studio = Studio(args.comfyui, args.device, args.steps)
    facts = {"command": host.command("memory"), "comfyui": studio.version, "torch": torch.__version__}
    facts |= {"date": time.strftime("%Y-%m-%d"), "steps": args.steps, "shift": SHIFT, "precision": str(studio.dtype)}
    facts["device"] = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    with torch.inference_mode():
        for clip in range(args.first, args.first + args.clips):
            films = chain(clip, 1 + args.next)
            wanted = [rule for rule in args.rules if (clip, rule) not in done]
            made = itertools.chain(remakes(studio, films[0], wanted), clips_in_a_row(studio, films, wanted))
            for rule, number, found in made:
                rows.append({"clip": clip, "rule": rule, "number": number, **found})
                args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
                print(f"{time.monotonic() - begin:.0f} s: {rows[-1]}", flush=True)
            if time.monotonic() - begin > args.seconds:
                break
    print(table(rows))


if __name__ == "__main__":
    main()
