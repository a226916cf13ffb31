"""Clips for training: made by worker processes, painted and encoded on the device."""

import collections
import multiprocessing
import random
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import clips  # noqa: E402
from optimise import DEVICE, RANK, say  # noqa: E402

sb = clips.sb


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


@torch.no_grad()
def encode(vae, video):
    with autocast(video.device.type):
        return vae.encode(video.to(memory_format=torch.preserve_format))


@torch.no_grad()
def decode(vae, z):
    with torch.autocast(DEVICE, torch.float16, enabled=DEVICE == "cuda"):
        return torch.cat([vae.decode(one[None]).float().clamp(0, 1) for one in z.float()])


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
