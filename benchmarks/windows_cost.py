"""What windows with a bank cost: a model of Wan2.1-14B's shape with random weights, ten windows of 81 frames at 480p.

python -m benchmarks.windows_cost --comfyui FOLDER [--blocks 8] [--out benchmarks/results/NAME.json]
python -m benchmarks.windows_cost --comfyui FOLDER --tiny      the same on a CPU, to see that it runs

Sampled by ComfyUI's own class, patcher and sampler through MoC Windows, with a few of the model's 40 blocks and one
prompt; figures are of all 40 blocks, which are alike. In the first step windows find less in the bank than later on:
the second one is timed.

over        seconds of a step over those of windows without a bank; without MoC Apply over those by cuDNN, which a
            bank's attention takes on this GPU
bank_gb     keys and values that are kept, and where
share       how much of what windows saw came from the bank (random weights: no measure of use)
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from benchmarks import host
from benchmarks.end_to_end_cases import Film
from benchmarks.end_to_end_model import SIZE, TINY_SIZE, Clock, dense_by, new_model, noise_of, sample

BLOCKS = 40
SHOTS = 10
# name -> (inputs of MoC Windows, behind MoC Apply's recommended preset)
ROWS: dict[str, tuple[dict[str, Any], bool]] = {
    "windows": ({}, False),
    "windows by cuDNN": ({}, False),
    "bank": ({"bank": "on"}, False),
    "bank, 8 bit": ({"bank": "on", "bank_storage": "8 bit"}, False),
    "bank, 4 bit": ({"bank": "on", "bank_storage": "4 bit"}, False),
    "bank, main memory": ({"bank": "on", "bank_budget": 0.001}, False),
    "bank, all shots": ({"bank": "on", "bank_shots": ""}, False),
    "routed windows": ({}, True),
    "routed windows, bank": ({"bank": "on"}, True),
}


def run(model, film: Film, name: str, device: torch.device) -> dict[str, Any]:
    from moc.config import PRESETS
    from moc.host.patch import apply_moc
    from moc.host.windows import apply_windows, bank
    from moc.shots.cuts import Shots
    from moc.trace.trace import Trace
    from moc.windows import SHOTS as ALONG
    from moc.windows import STORAGE, BankSettings, WindowSettings

    inputs, routed = ROWS[name]
    latents = film.latent[0] // SHOTS
    shots = Shots(cuts=tuple(range(latents, film.latent[0], latents)), unit="latent")
    settings = None
    if "bank" in inputs:
        first_four = () if inputs.get("bank_shots") == "" else (0, 1, 2, 3)
        storage, budget = inputs.get("bank_storage", next(iter(STORAGE))), inputs.get("bank_budget", 0.0)
        settings = BankSettings(storage=storage, budget=budget, shots=first_four)
    kept: dict[str, Any] = {}
    end = bank.Bank.end

    def ended(this: Any) -> None:
        if this.store is not None:
            kept.update(gpu=this.store.on_device, main_memory=this.store.elsewhere, share=this.share, read=this.read)
        end(this)

    patched = apply_windows(model, shots, WindowSettings(ALONG, 4 * latents - 3, 0), settings)
    if name.endswith("cuDNN") and device.type == "cuda":
        patched.model_options["transformer_options"]["optimized_attention_override"] = dense_by(
            SDPBackend.CUDNN_ATTENTION
        )
    if routed:
        patched = apply_moc(patched, shots, PRESETS["recommended"].with_schedule(min_tokens=1), Trace(keep="off"))
    clock, bank.Bank.end = Clock(device), ended  # type: ignore[method-assign]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        sample(patched, noise_of(film, white=False), 2, clock)
    finally:
        bank.Bank.end = end  # type: ignore[method-assign]
    times, attention = clock.seconds(clock.steps), clock.seconds(clock.calls)
    some = len(model.model.diffusion_model.blocks)
    whole = BLOCKS / some
    row: dict[str, Any] = {"rule": name, "windows": len(times) // 2, "blocks": some}
    row["step_s"] = round(sum(times[len(times) // 2 :]) * whole, 2)
    row["attention_s"] = round(sum(attention[len(attention) // 2 :]) * whole, 2)
    if device.type == "cuda":
        row["peak_gib_of_these_blocks"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    if kept:
        row["bank_gb"] = {place: round(kept[place] * whole / 1e9, 2) for place in ("gpu", "main_memory")}
        row["share"] = round(float(kept["share"]) / max(kept["read"], 1), 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rules", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    version = host.start(args.comfyui, "--cpu" if args.tiny else "--highvram", "--use-pytorch-cross-attention")
    device = torch.device("cpu" if args.tiny else "cuda")
    film = Film("ten windows of 81 frames", (SHOTS * 2, 8, 8) if args.tiny else (SHOTS * 21, 60, 104), SHOTS, (0, 0))
    size, dtype = (TINY_SIZE, torch.float32) if args.tiny else (SIZE, torch.bfloat16)
    model = new_model(2 if args.tiny else args.blocks, size, device, dtype)
    facts = {"command": host.command("windows_cost"), "comfyui": version, "torch": torch.__version__}
    facts |= {"device": "cpu" if args.tiny else torch.cuda.get_device_name(), "date": time.strftime("%Y-%m-%d")}
    if device.type == "cuda":
        facts["triton"] = importlib.import_module("triton").__version__
        run(model, film, "windows", device)  # compiles and warms up
    rows: list[dict[str, Any]] = []
    for name in args.rules:
        if ROWS[name][1] and device.type == "cuda":
            run(model, film, name, device)  # its kernels too
        rows.append(run(model, film, name, device))
        beside = "routed windows" if ROWS[name][1] else "windows by cuDNN"
        alone = next((row for row in rows if row["rule"] == beside), None)
        if alone is not None:
            rows[-1]["over"] = round(rows[-1]["step_s"] / alone["step_s"], 3)
        print(rows[-1], flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
