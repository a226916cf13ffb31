"""Noise for training: context drop-off and drop-in (section 3.2)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..config import RoutingConfig


def disturb(chosen: Tensor, candidate: Tensor, routing: RoutingConfig, tokens: Tensor) -> Tensor:
    """Context drop-off and drop-in (section 3.2), for training.

    Per row: a share p ~ U(0, drop_off) of the chosen chunks, rounded down, is removed; then m ~ Poisson(drop_in)
    random candidates are added. The noise is a hash of (seed, batch, head, token, chunk): any split into blocks, any
    device and a recomputation in backward draw the same.

    chosen [B, H, R, C]; candidate broadcastable to it; tokens [R]: the rows' positions in the sequence.
    """
    noise = routing.noise
    if not noise:
        return chosen
    b, h, _, c = chosen.shape
    device = chosen.device
    heads = torch.arange(b * h, device=device).view(b, h, 1, 1)
    row = (heads << 40) + tokens.view(-1, 1)

    def uniform(stream: int, count: int) -> Tensor:  # [B, H, R, count]
        column = torch.arange(count, device=device)
        return _hash(row * 8 + stream, column, noise.seed)

    if noise.drop_off:
        share = uniform(0, 1) * noise.drop_off
        drop = (share * chosen.sum(-1, keepdim=True)).floor()
        chosen = chosen & ~_lowest(uniform(1, c), chosen, drop)
    if noise.drop_in:
        free = candidate & ~chosen
        extra = _poisson(uniform(2, 1), noise.drop_in)
        chosen = chosen | _lowest(uniform(3, c), free, extra)
    return chosen


def _lowest(noise: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Mask of the `count` [..., 1] smallest noises among a mask [..., C]."""
    rank = noise.masked_fill(~among, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    return among & (rank < count)


def _poisson(u: Tensor, mean: float, most: int = 64) -> Tensor:
    """Poisson counts from uniforms by inverting the distribution function."""
    mass = [math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(most)]
    steps = torch.tensor(list(itertools.accumulate(mass)), dtype=u.dtype, device=u.device)
    return (u > steps).sum(-1, keepdim=True)


def _hash(row: Tensor, column: Tensor, seed: int) -> Tensor:
    """Uniform float32 in [0, 1) of two integer tensors (a splitmix-style mixer on wrapping int64)."""
    x = row * -7046029254386353131 + column * -4658895280553007687 + (seed + 1) * 0x2545F4914F6CDD1D % 2**62
    for shift, factor in ((31, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return ((x >> 40) & 0xFFFFFF).float() / 2**24
