"""Partial softmaxes: attention over some of the keys with its log-sum-exp, their merge, and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ...routing.descriptors import wide

ROWS = 4096  # query rows whose probabilities the plain path holds at a time


def never(dtype: torch.dtype) -> float:
    """Bias of a masked pair: finite, so that a row without any key gets weight 0 in the merge instead of NaN."""
    return max(torch.finfo(dtype).min / 2, -1e30)


def softmax_part(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """q [B, H, R, D]; k, v [B, H, J, D]; bias [B, H, R, J] -> (out [B, H, R, D], log-sum-exp [B, H, R]), both wide."""
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
        return wide(out), lse
    if bias is None and q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)[:2]
        return wide(out), lse[..., : q.shape[-2]]
    outs, sums = [], []
    for low in range(0, q.shape[-2], ROWS):
        rows = slice(low, low + ROWS)
        logits = wide(q[..., rows, :] @ k.mT) * scale
        if bias is not None:
            logits = logits + bias[..., rows, :]
        sums.append(logits.logsumexp(-1))
        outs.append(wide((logits - sums[-1][..., None]).exp().to(v.dtype) @ v))
    return torch.cat(outs, -2), torch.cat(sums, -1)


def merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Two partial softmaxes over different keys as one."""
    total = torch.logaddexp(lse, part_lse)
    return torch.lerp(out, part, (part_lse - total).exp()[..., None]), total


def part_gradients(
    q: Tensor, lse: Tensor, delta: Tensor, grad: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) of one part, from the merged log-sum-exp, as FlashAttention's backward does.

    q, grad [..., R, D]; lse, delta [..., R] with delta = sum(grad * out); k, v [..., J, D]; bias [..., R, J].
    """
    q, grad, k, v = (wide(x) for x in (q, grad, k, v))
    logits = q @ k.mT * scale
    if bias is not None:
        logits = logits + bias
    p = (logits - lse[..., None]).exp()
    ds = p * (grad @ v.mT - delta[..., None]) * scale
    return ds @ k, ds.mT @ q, p.mT @ grad
