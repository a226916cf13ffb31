"""Train the demo's two networks on generated clips: `python train.py --out DIR [--vae S] [--dense S] [--moc S]`.

S are seconds.
Each phase stops by the wall clock and writes its weights, losses and settings to the output folder as it goes.
A phase of 0 seconds is skipped; its weights are then read from --resume.
"""

import argparse
import json
import math
import random
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import clips  # noqa: E402
import model as nets  # noqa: E402
from autoencoder import check_vae, train_vae  # noqa: E402
from data import Bank, Recipes, autocast  # noqa: E402
from optimise import DEVICE, RANK, WORLD, Clock, Ema, Log, Optimizer, say  # noqa: E402

sb = clips.sb


def warp(u, shift):
    return shift * u / (1 + (shift - 1) * u)


def train_dit(
    a, name, seconds, scale, bank, weights=None, attend=nets.dense_attention, batch=8, decay=0.999, few_part=0.0
):
    device = a.device
    torch.manual_seed(2)
    dit = nets.DiT(**a.dit).to(device)
    if weights is not None:
        dit.load_state_dict({k: v.float() for k, v in weights.items()})
    torch.manual_seed(200 + RANK)
    ema = Ema(dit, decay)
    optimizer, clock, log = Optimizer(dit, a.rate * scale, a.muon_rate * scale), Clock(seconds, a.steps), Log()
    going, used = True, 0
    while going:
        few = clock.elapsed() < few_part
        n, shots = (batch * sb.SHOTS // a.few_shots, a.few_shots) if few else (batch, sb.SHOTS)
        z, control, context, frames = bank.sample(n, shots)
        u = (torch.arange(n, device=device) + torch.rand(n, device=device)) / n
        sigma = warp(u, a.train_shift)
        noise = torch.randn_like(z)
        s = sigma[:, None, None, None, None]
        with autocast(device):
            v = dit((1 - s) * z + s * noise, sigma, context, control, attend, frames)
        error = (v.float() - (noise - z)) ** 2
        each = error.mean((1, 2, 3, 4))
        # channels 0 and 3 of the control: how much of a latent pixel the box covers, first and last video frame
        weight = 1 + a.character * (control[:, (0, 3)].amax(1, keepdim=True) > 0)
        character = (error * weight).sum() / (weight.expand_as(error)).sum()
        character.backward()
        share, going = clock.tick()
        optimizer.step(share)
        ema.update()
        used += n
        log.add(loss=each.mean(), low=each[: n // 2].mean(), high=each[n // 2 :].mean(), weighted=character)
        if used >= a.reuse:
            used = 0
            bank.grow(min(8, a.bank))
        if clock.step % a.every == 0 or not going or clock.step == 20:
            row = log.flush(clock.step, clock)
            say(name, row)
            if clock.step >= 600 and row["loss"] > a.give_up:
                raise SystemExit(f"gave up: loss {row['loss']} after {clock.step} steps")
            if RANK == 0 and (clock.step % (10 * a.every) == 0 or not going):
                save_file(nets.half_state(ema.module), a.out / f"{name}.safetensors")
                (a.out / f"{name}_log.json").write_text(
                    json.dumps({"batch": batch * WORLD, "clips": bank.made * WORLD, "rows": log.rows})
                )
    return ema.module


@torch.no_grad()
def sample(dit, seeds, steps, shift, attend=nets.dense_attention, batch=8, device="cuda"):
    """Euler sampling as the host does it. Returns model-space latents and the recipes."""
    out, recipes = [], clips.stack([clips.recipe(s) for s in seeds], device)
    times = warp(torch.linspace(1, 0, steps + 1), shift).tolist()
    for first in range(0, len(seeds), batch):
        part = slice(first, first + batch)
        control, context = sb.control_latent(recipes["box"][part]), clips.contexts(recipes["words"][part])
        side = sb.SIZE // 8
        noise = [
            torch.randn(16, sb.LATENT_FRAMES, side, side, generator=torch.Generator().manual_seed(s))
            for s in seeds[part]
        ]
        x = torch.stack(noise).to(device)
        for now, then in zip(times, times[1:]):
            with autocast(device):
                v = dit(x, torch.full((len(x),), now, device=device), context, control, attend)
            x = x + (then - now) * v.float()
        out.append(x)
    return torch.cat(out), recipes


def judge(a, name, dit, vae, seconds):
    """The table of rules, as far as the time goes. Should it fail, training goes on and then ends with an error: the
    weights are safe by now, and what is still to be trained must not be lost for a table.
    """
    import evaluate

    if seconds and RANK == 0:
        now = nets.Block.before, nets.Block.after
        nets.Block.before, nets.Block.after = (getattr(f, "_torchdynamo_orig_callable", f) for f in now)
        try:
            evaluate.evaluate(
                dit, vae, name, a.out, *((1, 1) if a.tiny else (16, 10)), a.shift, 16, DEVICE, limit=seconds
            )
        except Exception:
            traceback.print_exc()
            a.without_table.append(name)
        nets.Block.before, nets.Block.after = now


# Fine-tuning draws one of these rules for every step (names of evaluate.rules, with weights).
MIXTURE = {
    "own frame + 4x4, top-20, min-max, tail": 4,
    "own frame + 4x4, top-10, min-max, tail": 2,
    "own frame + 2x2, top-20, min-max, tail": 2,
    "own frame + 4x4, top-10, mean, tail": 1,
    "own shot + frames, top-5, mean": 1,
    "own shot + frames, top-5, mean, causal": 2,
    "dense": 1,
}


def attention_for(rule, kind, dense):
    import evaluate
    import masked

    if rule == "dense":
        return dense
    return getattr(masked, kind)(evaluate.rules()[rule][0], evaluate.GRID, evaluate.STARTS)


def mixture(kind, dense):
    """attend(q, k, v, block): every training step (block 0 begins one) follows a rule drawn by weight."""
    rng, options = random.Random(3), {rule: attention_for(rule, kind, dense) for rule in MIXTURE}
    now = [None]

    def attend(q, k, v, block):
        if block == 0:
            now[0] = options[rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]]
        return now[0](q, k, v, block)

    return attend


def compare_speed(a, weights, dense):
    """Time a training step: dense, masked, the library's eager backend. Returns which of the last two to use."""
    dit = nets.DiT(**a.dit).to(DEVICE)
    dit.load_state_dict({k: v.float() for k, v in weights.items()})
    side, seconds = sb.SIZE // 8, {}
    z, control = (torch.randn(a.batch, 16, sb.LATENT_FRAMES, side, side, device=DEVICE) for _ in range(2))
    context, sigma = torch.randn(a.batch, 18, 4096, device=DEVICE), torch.rand(a.batch, device=DEVICE)
    for rule, kind in (("dense", "dense"), (next(iter(MIXTURE)), "Masked"), (next(iter(MIXTURE)), "Library")):
        attend, times = attention_for(rule, kind, dense), []
        try:
            for _ in range(2):
                torch.cuda.synchronize()
                start = time.perf_counter()
                with autocast(DEVICE):
                    dit(z, sigma, context, control, attend).square().mean().backward()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        except RuntimeError as error:
            say(kind, "failed:", str(error)[:300])
            times.append(math.inf)
        seconds[kind] = round(min(times), 4)
        say("training step", rule, kind, seconds[kind], f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    (a.out / "step_seconds.json").write_text(json.dumps(seconds, indent=1))
    return "Library" if seconds["Library"] < 1.3 * seconds["Masked"] else "Masked"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--vae", type=float, default=150)
    parser.add_argument("--dense", type=float, default=330)
    parser.add_argument("--moc", type=float, default=0)
    parser.add_argument("--judge", type=float, default=60, help="seconds for the table of rules with the dense weights")
    parser.add_argument("--judge-moc", type=float, default=40, help="the same with the fine-tuned weights")
    parser.add_argument("--shift", type=float, default=5.0, help="of the sampling schedule in the tables")
    parser.add_argument("--steps", type=int, help="stop every phase after so many steps instead of by the clock")
    parser.add_argument("--tiny", action="store_true", help="settings for a dry run on a CPU")
    parser.add_argument("--bank", type=int, default=1024)
    parser.add_argument("--reuse", type=int, default=160, help="training samples between two refreshes of 8 clips")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=5e-4, help="of AdamW")
    parser.add_argument("--muon-rate", type=float, default=0.0, help="train the blocks' matrices with Muon instead")
    parser.add_argument("--vae-muon-rate", type=float, default=0.006)
    parser.add_argument("--moc-scale", type=float, default=0.3, help="learning rates of fine-tuning, as a share")
    parser.add_argument("--few", type=float, default=0.55, help="part of the dense phase with few shots a clip")
    parser.add_argument("--few-shots", type=int, default=3)
    parser.add_argument("--character", type=float, default=3.0, help="how much more a latent pixel of the box counts")
    parser.add_argument("--give-up", type=float, default=0.9, help="stop if the loss is above this after 600 steps")
    parser.add_argument("--seed", type=int, default=0, help="first clip seed")
    a = parser.parse_args()
    a.device, a.without_table = DEVICE, []
    a.vae_rate, a.vae_batch, a.vae_frames, a.vae_size, a.train_shift, a.every = 1e-3, 8, 17, 128, 3.0, 100
    a.dit = dict(dim=256, ffn_dim=512, layers=8)
    if a.tiny:
        a.vae_batch, a.vae_frames, a.vae_size, a.bank, a.batch, a.every, a.steps = 2, 5, 64, 1, 2, 2, a.steps or 2
        a.dit["layers"] = 1
    a.out.mkdir(parents=True, exist_ok=True)
    say(a)
    recipes = Recipes(a.seed + 1_000_000 * RANK, a.device, 2 if a.tiny else 10)
    if WORLD > 1:
        if DEVICE == "cuda":
            torch.cuda.set_device(RANK)
        dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    torch.backends.cudnn.benchmark = True
    if a.device == "cuda":
        say(torch.cuda.get_device_name())
    if a.vae:
        vae = train_vae(a, recipes)
        if RANK == 0:
            check_vae(vae, a, 1 if a.tiny else 4)
    else:
        vae = nets.VAE().to(a.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        vae.load_state_dict({k: v.float() for k, v in load_file(a.resume / "vae.safetensors").items()})
    bank = Bank(vae, recipes, a.bank, DEVICE)
    bank.fill()
    dense = nets.dense_attention
    if DEVICE == "cuda":
        plain = nets.Block.before, nets.Block.after
        nets.Block.before, nets.Block.after = (torch.compile(f, dynamic=False) for f in plain)
    if a.dense:
        weights = (
            load_file(a.resume / "dense.safetensors")
            if a.resume and (a.resume / "dense.safetensors").exists()
            else None
        )
        dit = train_dit(a, "dense", a.dense, 1.0, bank, weights, dense, a.batch, few_part=a.few)
        judge(a, "dense", dit, vae, a.judge)
    if a.moc:
        if WORLD > 1:
            dist.barrier()
        weights = load_file((a.out if a.dense else a.resume) / "dense.safetensors")
        kind = compare_speed(a, weights, dense) if DEVICE == "cuda" else "Masked"
        dit = train_dit(a, "moc", a.moc, a.moc_scale, bank, weights, mixture(kind, dense), a.batch, 0.995)
        judge(a, "moc", dit, vae, a.judge_moc)
    recipes.close()
    say("done")
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()
    if a.without_table:
        raise SystemExit(
            f"No table of rules for the weights {', '.join(a.without_table)}: the error is above. "
            f"The weights are in {a.out}; evaluate.py makes their table."
        )


if __name__ == "__main__":
    main()
