"""A window's queries over its own keys and the bank's: partial softmaxes, merged by their log-sum-exps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..backends import health, library
from ..backends.eager.softmax import merge, softmax_part

Part = tuple[float, Callable[[slice], tuple[Tensor, Tensor]]]  # weight, heads -> keys and values [1, heads, J, D]
AT_ONCE = 2**25  # channels of q that are worked on at a time: what is made on the way is in 32 bits


def attend(q: Tensor, k: Tensor, v: Tensor, bank: Sequence[Part], scale: float) -> Tensor:
    """q, k, v [1, H, N, D], no gradients -> [1, H, N, D].

    Every key of the bank counts `weight` times: log(weight) is added to its score, which for keys of one weight is the
    same as adding it to their log-sum-exp.
    """
    out = torch.empty_like(q)
    heads = max(AT_ONCE // (q.shape[-2] * q.shape[-1]), 1)
    for low in range(0, q.shape[1], heads):
        some = slice(low, min(low + heads, q.shape[1]))
        whole, lse = _part(q[:, some], k[:, some], v[:, some], scale)
        for weight, keys in bank:
            part, part_lse = _part(q[:, some], *keys(some), scale)
            whole, lse = merge(whole, lse, part, part_lse + math.log(weight))
        out[:, some] = whole
    return out


def _part(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(out, log-sum-exp), in 32 bits."""
    if library.usable(q):
        try:
            out, lse = library.attention(q, k, v, scale)
            return out.float(), lse
        except health.VariantError:
            pass
    return softmax_part(q, k, v, scale)
