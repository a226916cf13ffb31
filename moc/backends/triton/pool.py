"""Descriptors of every chunk: one program reads one chunk of one head once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .plan import Plan


@triton.jit
def _pool(
    x, chunk, mean, rest, low, high, exact,
    s_b, s_h, s_n, H, C,
    D: tl.constexpr, DP: tl.constexpr, BL: tl.constexpr,
    REST: tl.constexpr, RANGE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    i_c, i_bh = tl.program_id(0), tl.program_id(1)
    b_start = tl.load(chunk + i_c)
    b_len = tl.load(chunk + C + i_c)
    o_d = tl.arange(0, DP)
    m_d = o_d < D
    p_x = x + (i_bh // H).to(tl.int64) * s_b + (i_bh % H).to(tl.int64) * s_h
    b_sum = tl.zeros([BL, DP], tl.float32)
    if RANGE:
        b_low = tl.full([BL, DP], float("inf"), tl.float32)
        b_high = tl.full([BL, DP], float("-inf"), tl.float32)
    for i in range(0, b_len, BL):
        o_n = i + tl.arange(0, BL)
        m_x = (o_n < b_len)[:, None] & m_d[None, :]
        p = p_x + (b_start + o_n).to(tl.int64)[:, None] * s_n + o_d[None, :]
        b_x = tl.load(p, mask=m_x, other=0.0).to(tl.float32)  # [BL, DP]
        b_sum += b_x
        if RANGE:
            b_low = tl.minimum(b_low, tl.where(m_x, b_x, float("inf")))
            b_high = tl.maximum(b_high, tl.where(m_x, b_x, float("-inf")))
    b_mean = tl.sum(b_sum, 0) / tl.maximum(b_len, 1).to(tl.float32)
    o = (i_bh.to(tl.int64) * C + i_c) * D + o_d
    b_head = b_mean.to(mean.dtype.element_ty)
    tl.store(mean + o, b_head, mask=m_d)
    if REST:
        tl.store(rest + o, (b_mean - b_head.to(tl.float32)).to(rest.dtype.element_ty), mask=m_d)
    if RANGE:
        tl.store(low + o, tl.min(b_low, 0).to(low.dtype.element_ty), mask=m_d)
        tl.store(high + o, tl.max(b_high, 0).to(high.dtype.element_ty), mask=m_d)
    if EXACT:
        tl.store(exact + o, b_mean, mask=m_d)


def pool(x: Tensor, plan: Plan, *, rest: bool = False, ends: bool = False, exact: bool = False) -> dict[str, Tensor]:
    """x [B, H, N, D] -> tensors [B*H, C, D].

    mean   in x's dtype; rest: what rounding took from it, also in x's dtype, so that mean + rest has twice the digits
    low, high   (ends) smallest and largest value of every channel: exact in x's dtype
    exact  the mean in float32
    """
    b, h, _, d = x.shape
    c = plan.chunks
    make = {"mean": True, "rest": rest, "low": ends, "high": ends, "exact": exact}
    out = {
        name: torch.empty(b * h, c, d, dtype=torch.float32 if name == "exact" else x.dtype, device=x.device)
        for name, wanted in make.items()
        if wanted
    }
    unused = out["mean"]
    dp = max(16, triton.next_power_of_2(d))
    block = 16 if plan.typical < 32 else 32
    _pool[(c, b * h)](
        x, plan.chunk, *(out.get(name, unused) for name in make),
        *x.stride()[:3], h, c,
        D=d, DP=dp, BL=block, REST=rest, RANGE=ends, EXACT=exact, num_warps=4,
    )  # fmt: skip
    return out
