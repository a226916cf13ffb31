"""8 bits: queries and keys as whole numbers from -127 to 127, each a scale apart. `reference` and `eager` compute with
these numbers in plain torch, the GPU kernels with 8-bit products; values and softmax weights keep their precision.

After SageAttention (Zhang et al., arXiv 2410.02367): the mean of all keys, which adds the same to every score of a row,
is taken off them first, since it is most of their length, and its product with the query added again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..routing.descriptors import wide

KEYS = 64  # neighbouring keys, in the table's order, that share a scale
MOST = 127.0


@dataclass(frozen=True)
class EightBits:
    """q, k [B, H, N, D] `wide`: whole numbers times their scales. offset [B, H, N]: what every q . k lacks."""

    q: Tensor
    k: Tensor
    offset: Tensor


def in_eight_bits(q: Tensor, k: Tensor) -> EightBits:
    """q, k [B, H, N, D] in sorted order. A scale for every query, and for every KEYS keys of a head."""
    q, mean = wide(q), smoothed(wide(k).mean(-2, keepdim=True))
    k = wide(k) - mean
    groups = pad(k.abs().amax(-1), (0, -k.shape[-2] % KEYS)).unflatten(-1, (-1, KEYS)).amax(-1)
    of_key = groups.repeat_interleave(KEYS, -1)[..., : k.shape[-2], None]
    return EightBits(_rounded(q, q.abs().amax(-1, keepdim=True)), _rounded(k, of_key), (q @ mean.mT)[..., 0])


def smoothed(mean: Tensor) -> Tensor:
    """A mean as it is taken off: in so few digits that it is the same however it was summed up."""
    return mean.to(torch.bfloat16).to(mean.dtype)


def _rounded(x: Tensor, most: Tensor) -> Tensor:
    """most: largest magnitude of those that share a scale. Halves go up."""
    return torch.floor(x * torch.where(most > 0, MOST / most, 0.0) + 0.5) * (most / MOST)
