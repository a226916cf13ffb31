"""A window's queries over the bank's keys beside its own: partial softmaxes, merged by their log-sum-exps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..backends import health, library
from ..backends.eager.softmax import merge, softmax_part

Pair = tuple[Tensor, Tensor]
Part = tuple[float, Callable[[slice], Pair]]  # weight, heads -> keys and values [1, heads, J, D]
Own = Callable[[slice], Pair]  # heads -> output [1, heads, N, D] and log-sum-exp [1, heads, N] over a window's own keys
AT_ONCE = 2**25  # channels of q that are worked on at a time: what is made on the way is in 32 bits


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Own:
    """q, k, v [1, H, N, D] of a window that sees all of itself."""
    return lambda heads: _part(q[:, heads], k[:, heads], v[:, heads], scale)


def attend(q: Tensor, own: Own, bank: Sequence[Part], scale: float) -> tuple[Tensor, Tensor]:
    """q [1, H, N, D], no gradients -> ([1, H, N, D], how much of what it reads lies in the bank: a share, one number).

    Every key of the bank counts `weight` times: log(weight) is added to its score, which for keys of one weight is the
    same as adding it to their log-sum-exp.
    """
    out, share = torch.empty_like(q), torch.zeros((), device=q.device)
    heads = max(AT_ONCE // (q.shape[-2] * q.shape[-1]), 1)
    for low in range(0, q.shape[1], heads):
        some = slice(low, min(low + heads, q.shape[1]))
        whole, own_lse = own(some)
        lse = own_lse
        for weight, keys in bank:
            part, part_lse = _part(q[:, some], *keys(some), scale)
            whole, lse = merge(whole, lse, part, part_lse + math.log(weight))
        out[:, some] = whole
        share += (1 - (own_lse - lse).exp()).sum(dtype=torch.float32)
    return out, share / q[..., 0].numel()


def _part(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Pair:
    """(out, log-sum-exp), in 32 bits."""
    if library.usable(q):
        try:
            out, lse = library.attention(q, k, v, scale)
            return out.float(), lse
        except health.VariantError:
            pass
    return softmax_part(q, k, v, scale)
