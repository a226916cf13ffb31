"""Rows permuted into another order: torch's index_select reaches half the memory bandwidth here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .launch import on_its_device


@triton.jit
def moc_permute(
    x, out, index, s_b, s_h, s_n, so_b, so_h, so_n, H, N, heads,
    D: tl.constexpr, DP: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    # heads run fastest: a token's heads lie side by side on the model's side
    i_bh = tl.program_id(0) % heads
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    o_n = tl.program_id(0) // heads * BR + tl.arange(0, BR)
    o_d = tl.arange(0, DP)
    b_from = tl.load(index + o_n, mask=o_n < N, other=0).to(tl.int64)
    m = (o_n < N)[:, None] & (o_d < D)[None, :]
    b_x = tl.load(x + i_b * s_b + i_h * s_h + b_from[:, None] * s_n + o_d[None, :], mask=m)
    tl.store(out + i_b * so_b + i_h * so_h + o_n.to(tl.int64)[:, None] * so_n + o_d[None, :], b_x, mask=m)


@on_its_device
def moved(x: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """out[:, :, i] = x[:, :, index[i]] for x [B, H, N, D], out [B, H, M, D], index [M]."""
    b, h, n, d = out.shape
    moc_permute[(-(-n // 32) * b * h,)](
        x, out, index, *x.stride()[:3], *out.stride()[:3], h, n, b * h,
        D=d, DP=triton.next_power_of_2(d), BR=32, num_warps=4,
    )  # fmt: skip
    return out


class Move(torch.autograd.Function):
    """x [B, H, N, D] with its rows in another order, and their gradients back in the first one."""

    @staticmethod
    def forward(ctx, x, index, inverse, like=None):
        """like: whose order in memory the rows take."""
        ctx.inverse = inverse
        plain = like is None or like.stride(-1) != 1
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if plain else torch.empty_like(like)
        return moved(x, index, out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        back = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)
        return moved(grad, ctx.inverse, back), None, None, None
