"""Queries and keys in 8 bits, as `backends/eight_bits.py` says: made once a call, read by `attend/gather.py` and
`attend/block.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...eight_bits import KEYS, smoothed


@dataclass(frozen=True)
class Quantised:
    """q8, k8 [B*H, N, D] int8; q_scale [B*H, N] and k_scale [B*H, groups of 64 keys]: of a unit, in float32.

    offset [B*H, N]: what the scores of a row lack since keys are without their mean, in log2 units
    """

    q8: Tensor
    k8: Tensor
    q_scale: Tensor
    k_scale: Tensor
    offset: Tensor

    @property
    def arguments(self) -> dict[str, Tensor]:
        """As kernels name them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def padded(dim: int, eight: Quantised | None) -> int:
    """The channels that a product takes: a power of two, and 32 at least of 8-bit numbers."""
    return max(16 if eight is None else 32, triton.next_power_of_2(dim))


@triton.jit
def moc_quantise(
    x, mean, x8, x_scale, offset, s_b, s_h, s_n, H, N, scale,
    D: tl.constexpr, DP: tl.constexpr, BR: tl.constexpr, KEY: tl.constexpr,
):  # fmt: skip
    """KEY: rows are keys, less their mean, all of them with one scale; else queries, each with its own."""
    i_bh = tl.program_id(1).to(tl.int64)
    o_n, o_d = tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, DP)
    m_d = o_d < D
    m_x = (o_n < N)[:, None] & m_d[None, :]
    p_x = x + i_bh // H * s_b + i_bh % H * s_h
    b_x = tl.load(p_x + o_n.to(tl.int64)[:, None] * s_n + o_d[None, :], mask=m_x, other=0.0).to(tl.float32)
    b_mean = tl.load(mean + i_bh * D + o_d, mask=m_d, other=0.0)[None, :]
    if KEY:
        b_x = tl.where(m_x, b_x - b_mean, 0.0)
    b_most = tl.max(tl.abs(b_x), 1)  # [BR]
    if KEY:
        b_most = tl.zeros([BR], tl.float32) + tl.max(b_most, 0)
    b_most = tl.where(b_most > 0.0, b_most, 1.0)  # no scale is 0: masked scores, -inf, meet it
    b_127 = tl.full([BR], 127.0, tl.float32)
    if KEY:
        p_scale = x_scale + i_bh * tl.num_programs(0) + tl.program_id(0) + o_n * 0
        tl.store(p_scale, tl.div_rn(b_most, b_127), mask=o_n == tl.program_id(0) * BR)
    else:
        tl.store(x_scale + i_bh * N + o_n, tl.div_rn(b_most, b_127), mask=o_n < N)
        tl.store(offset + i_bh * N + o_n, tl.sum(b_x * b_mean, 1) * scale, mask=o_n < N)
    b_x = tl.floor(b_x * tl.div_rn(b_127, b_most)[:, None] + 0.5)
    tl.store(x8 + (i_bh * N + o_n)[:, None] * D + o_d[None, :], b_x.to(tl.int8), mask=m_x)


def quantised(q: Tensor, k: Tensor, scale: float) -> Quantised:
    """q, k [B, H, N, D]; scale of q . k, in log2 units."""
    b, h, n, d = q.shape
    groups = triton.cdiv(n, KEYS)
    mean = smoothed(k.mean(-2, dtype=torch.float32)).contiguous()
    q8, k8 = (torch.empty(b * h, n, d, device=q.device, dtype=torch.int8) for _ in "qk")
    sizes = (n, groups, n)
    q_scale, k_scale, offset = (torch.empty(b * h, x, device=q.device, dtype=torch.float32) for x in sizes)
    out = Quantised(q8, k8, q_scale, k_scale, offset)
    for x, x8, x_scale, key in ((q, out.q8, out.q_scale, False), (k, out.k8, out.k_scale, True)):
        moc_quantise[(groups, b * h)](
            x, mean, x8, x_scale, out.offset, *x.stride()[:3], h, n, scale,
            D=d, DP=triton.next_power_of_2(d), BR=KEYS, KEY=key, num_warps=4,
        )  # fmt: skip
    return out
