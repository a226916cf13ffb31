"""Do the shots of a film longer than a window remember each other? On the demo model, through ComfyUI's real nodes.

python -m benchmarks.windows --comfyui FOLDER [--shots 6 12] [--clips 2] [--out benchmarks/results/windows_cpu.json]
python -m benchmarks.windows --comfyui FOLDER --device cuda --processes 12 --seconds 500 --shots 6 12 24 48 --clips 8

Films of 6, 12, 24, 48 shots of 3 latent frames; windows of 2 shots, and where a film has more than 6 also of 6 shots.
Every row of the result is one film under one rule; those already in --out are not made again. Rows are written as they
come, clip by clip, so that a run that --seconds ends has as many of every rule.

dense               the whole film at once
forgetful           ComfyUI's windows without overlap and without the frame before a window
ComfyUI's defaults  windows that overlap by a third, moved at every step, with the frame before them and FreeNoise
shots               MoC Windows along the shots, with ComfyUI's frame before a window
drawn anew          MoC Windows, drawn anew at every step
drawn by chance     the same by throwing dice, which forget whom a shot has met already
bank                MoC Windows along the shots with a bank of one frame of each of the first four, which counts for it
bank, all shots     the same with a frame of every shot
bank, all frames    the same with all frames of all shots
bank, 4 bit         the same as bank, packed
bank, the window's  the same as bank, whose frames together count for at least twice what a window holds
bank, from a third  the same as bank, read in the last two thirds of the sampling
bank, routed        the same as bank, behind MoC Apply's recommended preset
drawn anew + bank   MoC Windows, drawn anew at every step, with the bank

passes   latent frames sampled per step, over those of the film
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import host
from benchmarks.windows_film import Film, film, measure, sb
from benchmarks.windows_rules import RULES, Model, load_pack, pack, rules

STEPS, SHIFT = 10, 5.0
COLUMNS = ("passes", "across", "inside", "within", "off", "colour", "flicker", "contrast")
Rows = list[dict[str, Any]]


def sample(model: Model, vae: Any, film: Film, put: Callable, together: int, steps: int) -> tuple[torch.Tensor, float]:
    """(video [F, H, W, 3], passes)"""
    import nodes  # ComfyUI's

    model, positive = prepared(model, film)
    model, seen = counted(put(model, film, together))
    latent = {"samples": torch.zeros(1, 16, film.latents, sb.SIZE // 8, sb.SIZE // 8)}
    out = nodes.KSampler().sample(model, film.seed, steps, 1.0, "euler", "simple", positive, positive, latent)[0]
    return nodes.VAEDecode().decode(vae, out)[0].float(), sum(seen) / (steps * film.latents)


def prepared(model: Model, film: Film) -> tuple[Model, list]:
    """(model, prompt of the whole film)"""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    shots = pack("moc.shots.cuts").Shots
    facts = {"concat_latent_image": film.control}
    positive = [[film.words[0], facts]]
    model = ModelSamplingSD3().patch(model, SHIFT)[0]
    if len(film.words) > 1:  # every six shots read their own words
        sixes, captions = shots(cuts=film.cuts(sb.SHOTS), unit="latent"), [[[words, facts]] for words in film.words]
        node = pack("nodes.shot_conditioning").MoCShotConditioning
        model, positive, _ = node.execute(model=[model], shots=[sixes], captions=captions).args
    return model, positive


def counted(model: Model) -> tuple[Model, list[int]]:
    """(model, the latent frames of every pass from now on)"""
    model, seen = model.clone(), []

    def count(executor, x, *args, **kwargs):
        seen.append(x.shape[2])
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "count", count)
    return model, seen


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


def load(comfyui: Path, device: str) -> tuple[str, Model, Any, torch.dtype]:
    """(ComfyUI's version, the demo's model, its VAE, the model's precision)"""
    where = ["--cpu"] if device == "cpu" else ["--highvram", "--fp32-vae"]
    version = host.start(comfyui, *where, "--use-pytorch-cross-attention")
    load_pack()
    import comfy.sd
    import comfy.utils

    demo, dtype = host.REPO / "demo" / "models", torch.float32 if device == "cpu" else torch.bfloat16
    model = comfy.sd.load_diffusion_model(str(demo / "moc_demo_wan.safetensors"), model_options={"dtype": dtype})
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(demo / "moc_demo_vae.safetensors")))
    return version, model, vae, dtype


def work(comfyui: Path, device: str, gpu: int, threads: int, steps: int, jobs, results) -> None:
    """A process that makes rows of (shots, together, clip, rule), until it is ended."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    torch.set_num_threads(threads)
    version, model, vae, dtype = load(comfyui, device)
    if device == "cuda":
        results.put({"checked": check()})
    while True:
        shots, together, clip, rule = jobs.get()
        begin = time.perf_counter()
        try:
            with torch.inference_mode():
                this = film(shots, clip)
                video, passes = sample(model, vae, this, rules()[rule], together, steps)
                parts = [{name: value.to(device) for name, value in part.items()} for part in this.parts]
                there = replace(this, box=this.box.to(device), parts=parts)
                found = measure(there, video.to(device), together)
        except Exception as error:
            results.put({"failed": f"{rule}, {shots} shots: {type(error).__name__}: {error}"})
            continue
        row = {"shots": shots, "together": together, "rule": rule, "clip": clip, "passes": round(passes, 3)}
        row |= found | {"seconds": round(time.perf_counter() - begin, 1)}
        results.put({"row": row, "comfyui": version, "precision": str(dtype)})


def check() -> float:
    """Largest error of a window's attention with a bank in 16 bits on the GPU, against 32 bits. Where the library that
    it takes is wrong, it goes on without."""
    room, health = pack("moc.windows.attend"), pack("moc.backends.health")
    q, k, v, bank_k, bank_v = (torch.randn(1, 2, n, 128, device="cuda") for n in (1536, 1536, 1536, 300, 300))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        a, b, c, d, e = (x.bfloat16().to(dtype) for x in (q, k, v, bank_k, bank_v))
        bank = [(3.0, lambda some, d=d, e=e: (d[:, some], e[:, some]))]
        found.append(room.attend(a, room.dense(a, b, c, 128**-0.5)(0, slice(None)), bank, 128**-0.5)[0].float())
    error = float((found[0] - found[1]).abs().max())
    if not error < 0.02:
        print(f"the library's attention with a bank is wrong on this GPU by {error}", flush=True)
        health.leave_out(q.device, health.LIBRARY, f"wrong by {error}")
    return error


def jobs_of(args: argparse.Namespace, names: list[str], rows: Rows) -> list[tuple[int, int, int, str]]:
    """What is still to do, all rules and lengths of a clip before the next clip."""
    done = {(row["shots"], row["together"], row["clip"], row["rule"]) for row in rows}
    found = []
    for clip in range(args.clips):
        for shots in args.shots:
            for together in args.together or ([2] if shots == sb.SHOTS else [2, sb.SHOTS]):
                found += [(shots, together, clip, name) for name in names if (shots, together, clip, name) not in done]
    return found


def collect(args: argparse.Namespace, jobs: list[tuple[int, int, int, str]], rows: Rows) -> None:
    """Into rows and --out, by as many processes as were asked for."""
    context, gpus = multiprocessing.get_context("spawn"), max(torch.cuda.device_count(), 1)
    # no more is handed out when time is up: a queue of one job for each
    todo, results = context.Queue(maxsize=args.processes), context.Queue()
    workers = [
        context.Process(
            target=work,
            args=(args.comfyui, args.device, i % gpus, args.threads, args.steps, todo, results),
            daemon=True,
        )
        for i in range(args.processes)
    ]
    for worker in workers:
        worker.start()
    facts = {"command": host.command("windows"), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    facts |= {"device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu"}
    facts |= {"steps": args.steps, "shift": SHIFT}
    begin, waiting, running, made = time.monotonic(), [*jobs], 0, 0
    while running or waiting:
        for worker in [worker for worker in workers if not worker.is_alive()]:
            print(f"a process ended with {worker.exitcode}, and its film with it", flush=True)
            workers.remove(worker)
            running = max(running - 1, 0)
        if not workers:
            break
        if waiting and time.monotonic() - begin > args.seconds:
            print(f"time is up: {len(waiting)} films not begun", flush=True)
            waiting = []
        while waiting and running < 2 * args.processes:
            try:
                todo.put_nowait(waiting[0])
            except queue.Full:
                break
            waiting.pop(0)
            running += 1
        try:
            found = results.get(timeout=1)
        except queue.Empty:
            continue
        if "checked" in found:
            facts |= found
            continue
        running -= 1
        made += 1
        if "failed" in found:
            print(found["failed"], flush=True)
            continue
        rows.append(found.pop("row"))
        facts |= found
        args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
        print(f"{time.monotonic() - begin:.0f} s, {made} of {len(jobs)}: {rows[-1]}", flush=True)
    for worker in workers:
        worker.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--shots", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--together", type=int, nargs="+", help="shots in a window; 2, and where there are more 6")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of every process")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no film after so many")
    parser.add_argument("--out", type=Path, default=host.REPO / "benchmarks" / "results" / "windows_cpu.json")
    args = parser.parse_args()
    rows: Rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    collect(args, jobs_of(args, args.rules, rows), rows)
    print(table(rows))


if __name__ == "__main__":
    main()
