"""What the groups of `stream` keep of a row: up to eight tensors [rows, groups] of numbers, larger ones first.

A number is a score whose low bits name the pass that the chunk came in, so it stands for the chunk too; -inf: nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import flip


@triton.jit
def bits(b_x):
    return b_x.to(tl.int32, bitcast=True)


@triton.jit
def value(b_key):
    """The float whose key this is."""
    return flip(b_key).to(tl.float32, bitcast=True)


@triton.jit
def reach(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_t, R: tl.constexpr):
    """How many kept numbers of every row reach t [M]."""
    b_t = b_t[:, None]
    b_n = tl.where(b_0 >= b_t, 1.0, 0.0) + tl.where(b_1 >= b_t, 1.0, 0.0)
    b_n += tl.where(b_2 >= b_t, 1.0, 0.0) + tl.where(b_3 >= b_t, 1.0, 0.0)
    if R > 4:
        b_n += tl.where(b_4 >= b_t, 1.0, 0.0) + tl.where(b_5 >= b_t, 1.0, 0.0)
        b_n += tl.where(b_6 >= b_t, 1.0, 0.0) + tl.where(b_7 >= b_t, 1.0, 0.0)
    return tl.sum(b_n, 1).to(tl.int32)


@triton.jit
def least(b_x, b_y):
    """The smaller of two in which -inf stands for nothing."""
    b_x = tl.where(b_x > float("-inf"), b_x, float("inf"))
    return tl.minimum(b_x, tl.where(b_y > float("-inf"), b_y, float("inf")))


@triton.jit
def alike(b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_t, R: tl.constexpr, LOW: tl.constexpr):
    """How many kept numbers of every row differ from t [M] in the low bits at most."""
    b_c = (bits(b_t) & ~LOW)[:, None]
    b_n = ((bits(b_0) & ~LOW) == b_c).to(tl.int32) + ((bits(b_1) & ~LOW) == b_c).to(tl.int32)
    b_n += ((bits(b_2) & ~LOW) == b_c).to(tl.int32) + ((bits(b_3) & ~LOW) == b_c).to(tl.int32)
    if R > 4:
        b_n += ((bits(b_4) & ~LOW) == b_c).to(tl.int32) + ((bits(b_5) & ~LOW) == b_c).to(tl.int32)
        b_n += ((bits(b_6) & ~LOW) == b_c).to(tl.int32) + ((bits(b_7) & ~LOW) == b_c).to(tl.int32)
    return tl.sum(b_n, 1)


@triton.jit
def chunk_of(b_x, o_g, turn, G: tl.constexpr, LOW: tl.constexpr):
    """The chunk that a number of group g stands for."""
    b_pass = LOW - (bits(b_x) & LOW)
    return b_pass * G + ((o_g[None, :] + b_pass * turn) & (G - 1))


@triton.jit
def _mark(
    b_x, b_from, p_slot, place, o_g, o_n, p_sel, N, turn, G: tl.constexpr, LOW: tl.constexpr, BITS: tl.constexpr
):  # fmt: skip
    b_c = chunk_of(b_x, o_g, turn, G, LOW)
    if BITS:
        o = (b_c >> 5).to(tl.int64) * N + o_n
        tl.atomic_or(p_sel + o, 1 << (b_c & 31), mask=b_x >= b_from, sem="relaxed")
    else:
        tl.store(p_slot + place, b_c << 16, mask=b_x >= b_from)


@triton.jit
def mark(
    b_0, b_1, b_2, b_3, b_from, p_slot, place, o_g, o_n, p_sel, N, turn,
    G: tl.constexpr, LOW: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Rows take the numbers that reach from [M, G]: set their bits, or store their chunks at slot [M, G] + place."""
    _mark(b_0, b_from, p_slot, place, o_g, o_n, p_sel, N, turn, G, LOW, BITS)
    _mark(b_1, b_from, p_slot, place + 1, o_g, o_n, p_sel, N, turn, G, LOW, BITS)
    _mark(b_2, b_from, p_slot, place + 2, o_g, o_n, p_sel, N, turn, G, LOW, BITS)
    _mark(b_3, b_from, p_slot, place + 3, o_g, o_n, p_sel, N, turn, G, LOW, BITS)


@triton.jit
def taken(b_0, b_1, b_2, b_3, b_from):
    """How many of a group's four numbers its row takes [M, G]."""
    b_n = (b_0 >= b_from).to(tl.int32) + (b_1 >= b_from).to(tl.int32)
    return b_n + (b_2 >= b_from).to(tl.int32) + (b_3 >= b_from).to(tl.int32)
