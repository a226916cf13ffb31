"""What describes a chunk where its score is asked for; `RoutingConfig.descriptor` names it.

A new descriptor is a function and an entry of `DESCRIPTORS`: every backend, tooltip, help page and the probe take it
from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32: means and scores need more digits than half precision has."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Several:
    """A chunk described by several vectors, and what rows that choose together ask with likewise.

    keys      of a chunk [..., L, D] -> [..., P, D], `wide`
    queries   of rows that choose together [..., L, D] -> [..., A, D]; a row by itself asks with its own
    meet      (asked [..., R, A, D], keys [..., C, P, D], scale) -> scores [..., R, C], of the size of q . k
    products  of every query with every chunk
    """

    keys: Callable[[Tensor], Tensor]
    queries: Callable[[Tensor], Tensor]
    meet: Callable[[Tensor, Tensor, float], Tensor]
    products: int


@dataclass(frozen=True)
class Descriptor:
    """ends      keys of a chunk [..., L, D] -> (high, low), both [..., D] and `wide`
    signed    the positive channels of a query meet `high` and the negative ones `low`, both rounded to the keys'
              precision, in which kernels multiply; else all of them meet `high`, and `low` is not looked at
    sentence  what it says, for people; source: whose idea it is, if not ours
    probed    the probe compares it always, and not only where it is asked for all rules
    several   instead of ends, where a score is no product with one vector or two; torch then chooses
    """

    ends: Callable[[Tensor], tuple[Tensor, Tensor]]
    signed: bool
    sentence: str
    source: str = ""
    probed: bool = False
    several: Several | None = None

    @property
    def products(self) -> int:
        """Of every query with every chunk."""
        if self.several is not None:
            return self.several.products
        return 2 if self.signed else 1


def mean(keys: Tensor) -> tuple[Tensor, Tensor]:
    """phi = mean pooling (the paper, eq. 3)."""
    middle = wide(keys).mean(-2)
    return middle, middle


def minmax(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The chunk's range: the product bounds q . k over the chunk from above, as Quest does (arXiv 2406.10774)."""
    return wide(keys.amax(-2)), wide(keys.amin(-2))


def halfway(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Halfway from the mean to the range. q . mean is q+ . mean + q- . mean, so that it is a range as well. (VEDA
    describes chunks by these three and trains a network to weigh them.)"""
    middle = mean(keys)[0]
    high, low = ((end + middle) / 2 for end in minmax(keys))
    return high, low


PARTS = 4  # of a chunk and of rows that choose together


def parts(x: Tensor) -> Tensor:
    """[..., L, D] -> the means of PARTS parts, as equal as they can be; below PARTS tokens some stand in two."""
    length = x.shape[-2]
    edges = [(i * length // PARTS, -(-(i + 1) * length // PARTS)) for i in range(PARTS)]
    return torch.stack([wide(x[..., a:b, :]).mean(-2) for a, b in edges], -2)


def mass(asked: Tensor, keys: Tensor, scale: float) -> Tensor:
    """The logarithm of the mean of exp(q . k) over all pairs of parts: what a chunk weighs in the softmax."""
    logits = scale * torch.einsum("...rad,...cpd->...rcap", asked, keys)
    pairs = asked.shape[-2] * keys.shape[-2]
    return (logits.flatten(-2).logsumexp(-1) - math.log(pairs)) / scale


def mean_max_min(x: Tensor) -> Tensor:
    return torch.stack((wide(x).mean(-2), *minmax(x)), -2)


def like_with_like(asked: Tensor, keys: Tensor, scale: float) -> Tensor:
    """The mean of mean . mean, largest . largest and smallest . smallest."""
    kinds = keys.shape[-2]
    asked = asked.expand(*asked.shape[:-2], kinds, asked.shape[-1])
    return asked.flatten(-2) @ keys.flatten(-2).mT / kinds


DESCRIPTORS: dict[str, Descriptor] = {
    "mean": Descriptor(mean, False, "the mean of its keys, as in the paper", "the paper, eq. 2 and 3", probed=True),
    "minmax": Descriptor(
        minmax,
        True,
        "the best match it could hold; finds small things better",
        "as in Quest (2024), per channel: Σ max(q,0)·max K + min(q,0)·min K, an upper bound of q·k in the chunk",
        probed=True,
    ),
    "mean+max+min": Descriptor(
        halfway,
        True,
        "halfway between mean and minmax",
        "VEDA (2026) describes chunks so and trains a network to weigh them; we train nothing",
    ),
    "sub-means": Descriptor(
        mean,
        False,
        "what the means of its four parts would weigh in the softmax; slower to choose by",
        "SubBlock (sglang, pull request 34148), there between parts of both blocks",
        several=Several(parts, parts, mass, PARTS),
    ),
    "both mean+max+min": Descriptor(
        mean,
        False,
        "as mean+max+min, and queries that choose together are described so, too; slower to choose by",
        "Veda (arXiv 2605.30325) trains a network that weighs them; here all weigh the same",
        several=Several(mean_max_min, mean_max_min, like_with_like, 3),
    ),
}
