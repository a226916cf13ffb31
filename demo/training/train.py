"""Train the demo's two networks on generated clips: `python train.py --out DIR [--vae S] [--dense S] [--moc S]`.

S are seconds.
Each phase stops by the wall clock and writes its weights, losses and settings to the output folder as it goes.
A phase of 0 seconds is skipped; its weights are then read from --resume.
"""

import argparse
import collections
import copy
import json
import math
import multiprocessing
import os
import random
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import clips  # noqa: E402
import model as nets  # noqa: E402

sb = clips.sb
START = time.perf_counter()
WORLD, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))  # set by torchrun
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def say(*words):
    if RANK == 0:
        print(f"{time.perf_counter() - START:7.1f}", *words, flush=True)


class Ema:
    def __init__(self, module, decay):
        self.decay, self.steps = decay, 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.pairs = list(self.module.parameters()), list(module.parameters())

    def update(self):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.pairs[0], [p.detach() for p in self.pairs[1]], 1 - decay)


class Clock:
    """Counts a phase's steps and gives its pace: short warm-up, then a cosine down to a hundredth.

    How many steps fit into the wall-clock time is estimated every 50 steps, by the first process for all.
    """

    def __init__(self, seconds, steps=None):
        self.start, self.seconds, self.step, self.fixed = time.perf_counter(), seconds, 0, steps
        self.total, self.mark = steps or 10**6, None

    def elapsed(self):
        """Share of the phase that is over."""
        if self.fixed:
            return self.step / self.fixed
        return (time.perf_counter() - self.start) / self.seconds

    def tick(self):
        """(share of the full learning rate, whether to go on)"""
        self.step += 1
        if not self.fixed and self.step % 50 == 0:
            now = time.perf_counter()
            if self.mark:
                pace = (now - self.mark[0]) / (self.step - self.mark[1])
                left = torch.tensor([max(1, int((self.start + self.seconds - now) / pace))], device=DEVICE)
                if WORLD > 1:
                    dist.broadcast(left, 0)
                self.total = self.step + int(left)
            else:
                self.mark = now, self.step
        done = min(1.0, self.step / self.total)
        return min(1, self.step / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))), self.step < self.total


def orthogonal(g, rounds=5):
    """Newton-Schulz: matrices (n, r, c) with all singular values drawn towards 1."""
    x = g.bfloat16() if g.is_cuda else g
    flat = x.shape[-2] > x.shape[-1]
    x = x.mT if flat else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if flat else x).to(g.dtype)


class Optimizer:
    """Muon for the blocks' matrices (momentum, then made orthogonal), AdamW for everything else.

    Gradients are averaged over the processes here.
    """

    def __init__(self, module, rate, muon_rate=0.0):
        self.params = list(module.parameters())
        hidden = {id(p): p for name, p in module.named_parameters() if muon_rate and self.hidden(name, p)}
        rest = [p for p in self.params if id(p) not in hidden]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=DEVICE == "cuda")
        self.rate, self.muon_rate = rate, muon_rate
        shapes = sorted({tuple(p.shape) for p in hidden.values()})
        self.muon = [[p for p in hidden.values() if tuple(p.shape) == shape] for shape in shapes]
        self.momentum = [torch.zeros(len(ps), *ps[0].shape, device=DEVICE) for ps in self.muon]

    @staticmethod
    def hidden(name, p):
        return name.startswith("blocks.") and p.ndim == 2 or p.ndim == 4 and min(p.shape[:2]) >= 64

    @torch.no_grad()
    def step(self, share):
        grads = [p.grad for p in self.params]
        if WORLD > 1:
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat, dist.ReduceOp.SUM)
            parts = flat.div_(WORLD).split([g.numel() for g in grads])
            torch._foreach_copy_(grads, [part.view_as(g) for part, g in zip(parts, grads)])
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.rate * share
        self.adam.step()
        for params, momentum in zip(self.muon, self.momentum):
            g = torch.stack([p.grad for p in params])
            momentum.lerp_(g, 0.05)
            update = orthogonal(g.lerp(momentum, 0.95).flatten(2))
            update = (update * max(1, update.shape[-2] / update.shape[-1]) ** 0.5).view_as(g)
            torch._foreach_mul_(params, 1 - self.muon_rate * share * 0.01)
            torch._foreach_add_(params, list(update.unbind()), alpha=-self.muon_rate * share)
        for p in self.params:
            p.grad = None


class Log:
    def __init__(self):
        self.rows, self.sums, self.count = [], {}, 0

    def add(self, **values):
        for k, v in values.items():
            self.sums[k] = self.sums.get(k, 0) + v.detach()
        self.count += 1

    def flush(self, step, clock):
        row = {"step": step, "of": clock.total, "seconds": round(time.perf_counter() - clock.start, 1)}
        row |= {k: round((v / self.count).item(), 6) for k, v in self.sums.items()}
        self.rows.append(row)
        self.sums, self.count = {}, 0
        return row


def recipes_from(first, count):
    return [clips.recipe(seed) for seed in range(first, first + count)]


class Recipes:
    """Clip recipes for seeds first, first+1, ..., made by worker processes a little ahead of use."""

    CHUNK, AHEAD = 32, 48

    def __init__(self, first, device, workers):
        self.first, self.device, self.ready, self.pending = first, device, [], collections.deque()
        self.pool = multiprocessing.get_context("fork").Pool(workers)

    def take(self, n):
        while len(self.ready) < n:
            while len(self.pending) < self.AHEAD:
                self.pending.append(self.pool.apply_async(recipes_from, (self.first, self.CHUNK)))
                self.first += self.CHUNK
            self.ready += self.pending.popleft().get()
        batch, self.ready = self.ready[:n], self.ready[n:]
        return clips.stack(batch, self.device)

    def close(self):
        self.pool.terminate()


def autocast(device):
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


# ------------------------------------------------------------------------------------------------- autoencoder


def crops(video, box, n, frames, size, generator):
    """n random pieces of the rendered clips, cut where latent frames begin, most of them at the character."""
    out = []
    draws = torch.rand(n, 4, generator=generator).tolist()
    spots = box.cpu()
    for i, (a, b, c, d) in enumerate(draws):
        clip = i % len(video)
        start = 4 * int(a * ((sb.FRAMES - frames) // 4 + 1))
        y, x = b * (sb.SIZE - size), c * (sb.SIZE - size)
        if d < 0.8:
            left, top, cell = spots[clip, start + frames // 2].tolist()
            x = min(max(left + sb.CELLS / 2 * cell - size / 2 + (b - 0.5) * size * 0.6, 0), sb.SIZE - size)
            y = min(max(top + sb.CELLS / 2 * cell - size / 2 + (c - 0.5) * size * 0.6, 0), sb.SIZE - size)
        out.append(video[clip, start : start + frames, :, int(y) : int(y) + size, int(x) : int(x) + size])
    return torch.stack(out)


def train_vae(a, recipes):
    device = a.device
    torch.manual_seed(1)
    vae = nets.VAE()
    if a.resume:
        vae.load_state_dict({k: v.float() for k, v in load_file(a.resume / "vae.safetensors").items()})
    vae.to(device, memory_format=torch.channels_last)
    torch.manual_seed(100 + RANK)
    ema = Ema(vae, 0.998)
    optimizer, clock, log = Optimizer(vae, a.vae_rate, a.vae_muon_rate), Clock(a.vae, a.steps), Log()
    generator = torch.Generator().manual_seed(1 + RANK)
    going = True
    while going:
        if (clock.step % 4) == 0:
            batch = recipes.take(a.vae_batch)
            with torch.no_grad():
                video = clips.render(batch)
        x = crops(video, batch["box"], a.vae_batch, a.vae_frames, a.vae_size, generator)
        with autocast(device):
            z = vae.encode(x)
            noisy = z + torch.randn_like(z) * 0.1 * torch.rand(len(z), 1, 1, 1, 1, device=device)
            y = vae.decode(noisy)
        z, y = z.float(), y.float()
        mse = F.mse_loss(y, x)
        var, mean = torch.var_mean(z, (0, 2, 3, 4))
        scale = (mean**2 + var - 1 - var.clamp(min=1e-4).log()).mean()
        loss = 4 * mse + F.l1_loss(y, x) + 0.02 * scale
        loss.backward()
        share, going = clock.tick()
        optimizer.step(share)
        ema.update()
        log.add(mse=mse, scale=scale, std=z.std())
        if clock.step % a.every == 0 or not going:
            row = log.flush(clock.step, clock)
            say("vae", row, f"psnr {-10 * math.log10(row['mse']):.2f}")
    if RANK == 0:
        save_file(nets.half_state(ema.module), a.out / "vae.safetensors")
        (a.out / "vae_log.json").write_text(json.dumps(log.rows))
    return ema.module


@torch.no_grad()
def encode(vae, video):
    with autocast(video.device.type):
        return vae.encode(video.to(memory_format=torch.preserve_format))


@torch.no_grad()
def decode(vae, z):
    with torch.autocast(DEVICE, torch.float16, enabled=DEVICE == "cuda"):
        return torch.cat([vae.decode(one[None]).float().clamp(0, 1) for one in z.float()])


@torch.no_grad()
def check_vae(vae, a, n):
    """Held-out clips through the autoencoder as exported (half precision weights)."""
    batch = clips.stack([clips.recipe(clips.EVALUATION_SEEDS + i) for i in range(n)], a.device)
    vae = copy.deepcopy(vae)
    for p in vae.parameters():
        p.copy_(p.half())
    video = clips.render(batch)
    z = torch.cat([vae.encode(v[None]) for v in video])
    y = decode(vae, z)
    mse = ((y - video) ** 2).mean((1, 2, 3, 4))
    box = batch["box"]
    sims = [sb.similarity(y[i].movedim(1, -1), box[i]) for i in range(n)]
    result = {
        "psnr": round((-10 * mse.log10()).mean().item(), 2),
        "worst psnr": round(-10 * math.log10(mse.max().item()), 2),
        "latent mean": [round(v, 3) for v in z.mean((0, 2, 3, 4)).tolist()],
        "latent std": [round(v, 3) for v in z.std((0, 2, 3, 4)).tolist()],
        "between": round(sum(s["between"] for s in sims) / n, 4),
        "within": round(sum(s["within"] for s in sims) / n, 4),
    }
    clips.sheet(torch.stack([v for pair in zip(video[:3], y[:3]) for v in pair])).save(a.out / "vae.png")
    say("vae check", result)
    (a.out / "vae_check.json").write_text(json.dumps(result))


# ------------------------------------------------------------------------------------------------- transformer


class Bank:
    """Encoded clips on the device; old ones are replaced by new ones as training goes on."""

    def __init__(self, vae, recipes, size, device):
        self.vae, self.recipes, self.next, self.made = vae, recipes, 0, 0
        side = sb.SIZE // 8
        self.z = torch.empty(size, 16, sb.LATENT_FRAMES, side, side, dtype=torch.float16, device=device)
        self.box = torch.empty(size, sb.FRAMES, 3, device=device)
        self.words = torch.empty(size, sb.SHOTS, 3, device=device)
        self.rng = random.Random(RANK)

    def grow(self, n):
        batch = self.recipes.take(n)
        at = torch.arange(self.next, self.next + n, device=self.z.device) % len(self.z)
        self.z[at] = encode(self.vae, clips.render(batch)).half()
        self.box[at], self.words[at] = batch["box"], batch["words"]
        self.next = (self.next + n) % len(self.z)
        self.made += n

    def fill(self):
        began = time.perf_counter()
        while self.made < len(self.z):
            self.grow(min(8, len(self.z)))
        say(f"bank of {self.made} clips in {time.perf_counter() - began:.1f} s, std {self.z.float().std().item():.3f}")

    def sample(self, n, shots=sb.SHOTS):
        """z, control, context of n clips and the latent frames they hold: those of some shots drawn at random."""
        at = torch.randint(min(self.made, len(self.z)), (n,), device=self.z.device)
        z, control, context = self.z[at].float(), sb.control_latent(self.box[at]), clips.contexts(self.words[at])
        if shots == sb.SHOTS:
            return z, control, context, None
        drawn = sorted(self.rng.sample(range(sb.SHOTS), shots))
        frames = [s * sb.LATENTS_PER_SHOT + i for s in drawn for i in range(sb.LATENTS_PER_SHOT)]
        words = [3 * s + i for s in drawn for i in range(3)]  # as many a shot as `storyboard.context` makes
        return z[:, :, frames], control[:, :, frames], context[:, words], tuple(frames)


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
    """The table of rules, as far as the time goes."""
    import evaluate

    if seconds and RANK == 0:
        now = nets.Block.before, nets.Block.after
        nets.Block.before, nets.Block.after = (getattr(f, "_torchdynamo_orig_callable", f) for f in now)
        try:
            evaluate.evaluate(
                dit, vae, name, a.out, *((1, 1) if a.tiny else (16, 10)), a.shift, 16, DEVICE, limit=seconds
            )
        except Exception:  # the weights are safe by now; the rest of the training must not be lost for a table
            traceback.print_exc()
        nets.Block.before, nets.Block.after = now


def flash_attention(q, k, v, block):
    """Dense attention, never cuDNN's: with that one the loss rose as soon as clips had six shots (see README)."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v)


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
    parser.add_argument("--rate", type=float, default=8e-4, help="of AdamW")
    parser.add_argument("--muon-rate", type=float, default=0.0, help="train the blocks' matrices with Muon instead")
    parser.add_argument("--vae-muon-rate", type=float, default=0.006)
    parser.add_argument("--moc-scale", type=float, default=0.3, help="learning rates of fine-tuning, as a share")
    parser.add_argument("--few", type=float, default=0.55, help="part of the dense phase with few shots a clip")
    parser.add_argument("--few-shots", type=int, default=3)
    parser.add_argument("--character", type=float, default=3.0, help="how much more a latent pixel of the box counts")
    parser.add_argument("--give-up", type=float, default=0.9, help="stop if the loss is above this after 600 steps")
    parser.add_argument("--seed", type=int, default=0, help="first clip seed")
    a = parser.parse_args()
    a.device = DEVICE
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
        dense = flash_attention
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


if __name__ == "__main__":
    main()
