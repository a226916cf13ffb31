"""What both phases of training need: optimizer, moving average, pace and log."""

import copy
import math
import os
import time

import torch
import torch.distributed as dist

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
