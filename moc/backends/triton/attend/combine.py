"""Partial outputs and how two become one: by their log-sum-exp, always in the same order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def combine(b_o, b_part, b_rest, b_acc, b_m, b_l):
    """Take a normalised partial and its log2-sum-exp2 into a running softmax. rest: share of the sum that counts."""
    b_top = tl.maximum(b_m, b_part)
    b_ref = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_old, b_new = tl.math.exp2(b_m - b_ref), tl.math.exp2(b_part - b_ref)
    b_acc = b_acc * b_old[:, None] + b_o.to(tl.float32) * b_new[:, None]
    return b_acc, b_top, b_l * b_old + b_new * b_rest


@triton.jit
def combine_slot(part, lse, o_s, o_d, m_n, m_d, b_n, i, b_acc, b_m, b_l, D: tl.constexpr, REST: tl.constexpr):
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
    return combine(b_o, b_part, b_rest, b_acc, b_m, b_l)


@dataclass(frozen=True)
class Partial:
    """Attention of rows over a part of what they see: normalised output and log2-sum-exp2.

    out    [heads, N, D]; with slots [heads, N, K, D], a part in each
    lse    [heads, N]; with slots [heads, N, K, 1], or [heads, N, K, 2] with the share of the sum that is left where the
           chunk's summary was taken off
    count  [heads, N] slots that hold something

    Of an attention library: out [heads, G, L, D] over G groups of L rows, lse [heads, G, L] in natural logarithms.
    first: row that they begin with.
    """

    out: Tensor
    lse: Tensor
    count: Tensor | None = None
    first: int = 0

    def of(self, heads: slice) -> Partial:
        count = None if self.count is None else self.count[heads]
        return Partial(self.out[heads], self.lse[heads], count, self.first)


def new_partial(q: Tensor, heads: int) -> Partial:
    """For all rows of q [..., N, D], not yet written."""
    return Partial(q.new_empty(heads, *q.shape[-2:]), q.new_empty(heads, q.shape[-2], dtype=torch.float32))


def new_slots(q: Tensor, count: Tensor, slots: int, rest: bool) -> Partial:
    """The same with so many slots a row, `count` [heads, N] of which will hold something."""
    lse = q.new_empty(*count.shape, slots, 1 + rest, dtype=torch.float32)
    return Partial(q.new_empty(*count.shape, slots, q.shape[-1]), lse, count)
