"""Descriptors of every chunk (mean or min-max pooling): one program reads a few chunks of one head once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....routing.scores import describe
from .. import DESCRIPTORS as FUSED
from ..device_table import DeviceTable


@triton.jit
def moc_pool(
    x, chunk, mean, desc, exact,
    s_b, s_h, s_n, H, C,
    D: tl.constexpr, DP: tl.constexpr, BL: tl.constexpr, CHUNKS: tl.constexpr,
    REST: tl.constexpr, RANGE: tl.constexpr, HALFWAY: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    i_bh = tl.program_id(1)
    o_d = tl.arange(0, DP)
    m_d = o_d < D
    p_x = x + (i_bh // H).to(tl.int64) * s_b + (i_bh % H).to(tl.int64) * s_h
    for i_c in range(tl.program_id(0) * CHUNKS, tl.minimum(tl.program_id(0) * CHUNKS + CHUNKS, C)):
        b_start = tl.load(chunk + i_c)
        b_len = tl.load(chunk + C + i_c)
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
        # not "/", which is a last digit off at times: halfway between two numbers of few digits that rounds another way
        b_mean = tl.div_rn(tl.sum(b_sum, 0), tl.maximum(b_len, 1).to(tl.float32) + tl.zeros([DP], tl.float32))
        o = (i_bh.to(tl.int64) * C + i_c) * D + o_d
        b_head = b_mean.to(mean.dtype.element_ty)
        tl.store(mean + o, b_head, mask=m_d)
        o_desc = (i_bh.to(tl.int64) * C + i_c) * 2 * D + o_d
        if REST:
            tl.store(desc + o_desc, b_head, mask=m_d)
            tl.store(desc + o_desc + D, (b_mean - b_head.to(tl.float32)).to(desc.dtype.element_ty), mask=m_d)
        if RANGE:
            b_top, b_bottom = tl.max(b_high, 0), tl.min(b_low, 0)
            if HALFWAY:
                b_top, b_bottom = (b_top + b_mean) * 0.5, (b_bottom + b_mean) * 0.5
            tl.store(desc + o_desc, b_top.to(desc.dtype.element_ty), mask=m_d)
            tl.store(desc + o_desc + D, b_bottom.to(desc.dtype.element_ty), mask=m_d)
        if EXACT:
            tl.store(exact + o, b_mean, mask=m_d)


def pool(x: Tensor, plan: DeviceTable, *, desc: str | None = None, exact: bool = False) -> dict[str, Tensor]:
    """x [B, H, N, D] -> tensors per chunk.

    mean   [B*H, C, D] in x's dtype
    pair   [B*H, C, 2, D] in x's dtype. "mean": mean and what rounding took from it, together twice the digits;
           "minmax": largest and smallest value of every channel, exact; "mean+max+min": halfway from the mean to them;
           another of `DESCRIPTORS`: made by torch, as the first or the second
    exact  [B*H, C, D] the mean in float32
    """
    b, h, _, d = x.shape
    c = plan.chunks
    out = {"mean": torch.empty(b * h, c, d, dtype=x.dtype, device=x.device)}
    fused = desc if desc in FUSED else None
    if fused:
        out["desc"] = torch.empty(b * h, c, 2, d, dtype=x.dtype, device=x.device)
    if exact:
        out["exact"] = torch.empty(b * h, c, d, dtype=torch.float32, device=x.device)
    unused = out["mean"]
    small = plan.typical <= 64
    at_once = 4 if small else 1
    moc_pool[(-(-c // at_once), b * h)](
        x, plan.chunk, unused, out.get("desc", unused), out.get("exact", unused), *x.stride()[:3], h, c,
        D=d, DP=max(16, triton.next_power_of_2(d)), BL=16 if small else 32, CHUNKS=at_once,
        REST=fused == "mean", RANGE=fused in ("minmax", "mean+max+min"), HALFWAY=fused == "mean+max+min", EXACT=exact,
        num_warps=2 if small else 4,
    )  # fmt: skip
    if desc and not fused:
        out["desc"] = _desc_by_torch(x, plan, desc)
    return out


def _desc_by_torch(x: Tensor, plan: DeviceTable, descriptor: str) -> Tensor:
    """[B*H, C, 2, D] of a descriptor that the kernel does not make."""
    made = describe(x, plan.table, descriptor)
    first = made.high.to(x.dtype)
    second = (made.high - first) if made.low is None else made.low  # without signs: what rounding took
    return torch.stack((first, second.to(x.dtype)), -2).flatten(0, 1)
