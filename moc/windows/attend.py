"""A window's queries over the bank's keys beside its own: partial softmaxes, merged by their log-sum-exps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..backends import health, library
from ..backends.eager.softmax import merge, softmax_part
from ..trace.bank_reads import Watch

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


def attend(
    q: Tensor, own: Own, bank: Sequence[Part], scale: float, watch: Watch | None = None
) -> tuple[Tensor, Tensor]:
    """q [1, H, N, D], no gradients -> (out [1, H, N, D], how much of what every row reads lies in the bank [1, H, N]).

    Every key of the bank counts `weight` times: log(weight) is added to its score, which for keys of one weight is the
    same as adding it to their log-sum-exp. watch: wants to know which of them were read.
    """
    out, share = torch.empty_like(q), torch.empty(q.shape[:-1], device=q.device)
    heads = max(AT_ONCE // (q.shape[-2] * q.shape[-1]), 1)
    for low in range(0, q.shape[1], heads):
        some = slice(low, min(low + heads, q.shape[1]))
        whole, own_lse = own(some)
        lse = own_lse
        for number, (weight, keys) in enumerate(bank):
            k, v = keys(some)
            part, part_lse = _part(q[:, some], k, v, scale)
            whole, lse = merge(whole, lse, part, part_lse + math.log(weight))
            if watch is not None:
                watch.see(some, q[:, some], number, k, weight, scale)
        out[:, some] = whole
        share[:, some] = 1 - (own_lse - lse).exp()
    if watch is not None:
        watch.done(share)
    return out, share


def _part(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Pair:
    """(out, log-sum-exp), in 32 bits."""
    if library.usable(q):
        try:
            out, lse = library.attention(q, k, v, scale)
            return out.float(), lse
        except health.VariantError:
            pass
    return softmax_part(q, k, v, scale)
