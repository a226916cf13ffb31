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
Own = Callable[[slice], Pair]  # heads -> output [1, heads, R, D] and log-sum-exp [1, heads, R] over a window's own keys
OwnOf = Callable[[int, slice], Own]  # of one prompt of a batch, and some rows
AT_ONCE = 2**25  # channels of q that are worked on at a time: what is made on the way is in 32 bits


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> OwnOf:
    """q, k, v [B, H, N, D] of windows that see all of themselves."""
    return lambda i, rows: (
        lambda heads: _part(q[i : i + 1, heads, rows], k[i : i + 1, heads], v[i : i + 1, heads], scale)
    )


def routed(out: Tensor, lse: Tensor) -> OwnOf:
    """out [B, H, N, D] and lse [B, H, N] of windows that see of themselves what they chose."""
    return lambda i, rows: lambda heads: (out[i : i + 1, heads, rows].float(), lse[i : i + 1, heads, rows])


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
