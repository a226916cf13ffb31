"""Dense attention with its log-sum-exp, through the fastest library at hand that returns it: cuDNN on Hopper,
FlashAttention 2 on other cards where this torch has it."""

from __future__ import annotations

import torch
from torch import Tensor

from . import health


def usable(q: Tensor) -> bool:
    """Whether a library takes such queries here, and has not failed yet."""
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16) or q.shape[-1] not in (64, 128):
        return False
    there = torch.backends.cudnn.is_available if by_cudnn(q) else torch.backends.cuda.is_flash_attention_available
    return health.reason(q.device, health.LIBRARY) is None and there()


def by_cudnn(q: Tensor) -> bool:
    return torch.cuda.get_device_capability(q.device) == (9, 0)


@health.watched(health.LIBRARY)
def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """q [B, H, R, D]; k, v [B, H, J, D] -> (out [B, H, R, D], natural log-sum-exp of every row, in 32 bits).

    Raises VariantError should it fail: then it is usable no longer. Want of memory is raised as it is.
    """
    out, lse = _attention(q, k, v, scale)
    return out, lse.reshape(q.shape[:-1])


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    ops = torch.ops.aten
    if by_cudnn(q):
        found = ops._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False, scale=scale)
    else:
        found = ops._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)
    return found[0], found[1]


def gradients(
    q: Tensor, out: Tensor, grad: Tensor, lse: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of `attention`; lse [B, H, R]. Raises whatever the library raises."""
    nothing = torch.zeros((), dtype=torch.int64, device=q.device)  # seeds of a dropout that is off
    if not by_cudnn(q):
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, None, None, q.shape[2], k.shape[2], 0.0, False, nothing, nothing, scale=scale
        )
    return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        grad, q, k, v, out, lse[..., None], nothing, nothing, None, None, None, q.shape[2], k.shape[2], 0.0, False,
        scale=scale,
    )  # fmt: skip
