"""Partial outputs and how two become one: by their log-sum-exp, always in the same order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add(b_o, b_part, b_rest, b_acc, b_m, b_l):
    """Take a normalised partial and its log2-sum-exp2 into a running softmax. rest: share of the sum that counts."""
    b_top = tl.maximum(b_m, b_part)
    b_ref = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_old, b_new = tl.math.exp2(b_m - b_ref), tl.math.exp2(b_part - b_ref)
    b_acc = b_acc * b_old[:, None] + b_o.to(tl.float32) * b_new[:, None]
    return b_acc, b_top, b_l * b_old + b_new * b_rest


@triton.jit
def _slot(part, lse, o_s, o_d, m_n, m_d, b_n, i, b_acc, b_m, b_l, D: tl.constexpr, REST: tl.constexpr):
    """Add partial i of every row that has one."""
    m_s = m_n & (i < b_n)
    if REST:  # two numbers in one load; 0xFF800000 is -inf
        b_both = tl.load(lse.to(tl.pointer_type(tl.int64)) + o_s + i, mask=m_s, other=0xFF800000)
        b_part = b_both.to(tl.int32).to(tl.float32, bitcast=True)
        b_rest = (b_both >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    else:
        b_part = tl.load(lse + o_s + i, mask=m_s, other=float("-inf"))
        b_rest = 1.0
    b_o = tl.load(part + (o_s + i)[:, None] * D + o_d[None, :], mask=m_s[:, None] & m_d, other=0.0)
    return _add(b_o, b_part, b_rest, b_acc, b_m, b_l)


@dataclass(frozen=True)
class Slots:
    part: Tensor  # [heads, N, K, D]
    lse: Tensor  # [heads, N, K, 1], log2, or [heads, N, K, 2] with the share of the sum that is left, where the chunk's
    # summary was taken off
    number: Tensor  # [heads, N] slots that hold something

    def of(self, heads: slice) -> Slots:
        return Slots(self.part[heads], self.lse[heads], self.number[heads])


@dataclass(frozen=True)
class Own:
    """A partial over the rows from `first` on: out [G, heads, L, D] and natural log-sum-exp [G, heads, L]."""

    out: Tensor
    lse: Tensor
    first: int

    def of(self, heads: slice) -> Own:
        return Own(self.out[:, heads], self.lse[:, heads], self.first)


def new_slots(x: Tensor, number: Tensor, places: int, rest: bool) -> Slots:
    shape = *number.shape, places
    lse = torch.empty(*shape, 1 + rest, dtype=torch.float32, device=x.device)
    part = torch.empty(*shape, x.shape[-1], dtype=x.dtype, device=x.device)
    return Slots(part, lse, number)
