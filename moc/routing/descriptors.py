"""What describes a chunk where its score is asked for; `RoutingConfig.descriptor` names it.

A new descriptor is a function and an entry of `DESCRIPTORS`: every backend, tooltip, help page and the probe take it
from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32: means and scores need more digits than half precision has."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Descriptor:
    """ends      keys of a chunk [..., L, D] -> (high, low), both [..., D] and `wide`
    signed    the positive channels of a query meet `high` and the negative ones `low`, both rounded to the keys'
              precision, in which kernels multiply; else all of them meet `high`, and `low` is not looked at
    sentence  what it says, for people; source: whose idea it is, if not ours
    probed    the probe compares it always, and not only where it is asked for all rules
    """

    ends: Callable[[Tensor], tuple[Tensor, Tensor]]
    signed: bool
    sentence: str
    source: str = ""
    probed: bool = False

    @property
    def products(self) -> int:
        """Of every query with every chunk."""
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
}
