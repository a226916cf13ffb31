"""Rules other than top-k, among any number of chunks; scores are recomputed in every pass.

threshold   one pass for mean and standard deviation of a row's scores, one that writes the mask
top-p       one pass for the softmax, passes that each narrow the interval of the score above which the share lies to
            a quarter, and one that writes; within the last interval the lower chunks win
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....config import RoutingConfig
from ..attend.block import LOG2E
from ..block_sizes import BlockSize
from ..device_table import DeviceTable
from ..lib.sortable import ones, open_to, own_of_rows, pair_columns, signed

PASSES = 10


@triton.jit
def _scored(
    b_q, p_desc, i, o_g, m_k, chunk, p_shot_mask, b_first, b_last, b_shot, C, S,
    D: tl.constexpr, CAUSAL: tl.constexpr, SHOT_MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of the i-th chunks [M, G], and which of them the rows may choose."""
    o_c = i * o_g.shape[0] + o_g
    b_p = tl.load(p_desc + o_c[:, None] * 2 * D, mask=(o_c < C)[:, None] & m_k[None, :], other=0.0)
    b_s = tl.dot(b_q, tl.trans(b_p), input_precision=PRECISION)
    return b_s, open_to(o_c, b_first, b_last, b_shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK)


@triton.jit
def _logits(b_s, b_cand, weight, i, o_g, scale, C):
    """In log2: what a chunk whose keys all were its descriptor would weigh; -inf where it may not be chosen."""
    o_c = i * o_g.shape[0] + o_g
    b_s = b_s * scale + tl.load(weight + o_c, mask=o_c < C, other=0.0)[None, :]
    return tl.where(b_cand, b_s, float("-inf"))


@triton.jit
def _write(b_sel, sel, count, b_n, i, num_blocks, o_n, m_n, i_h, N, W, G: tl.constexpr, MORE: tl.constexpr):
    """The bits of a step -> chunks that the rows have chosen up to here, which is written down after the last."""
    b_bits = tl.reshape(b_sel.to(tl.int32), [b_sel.shape[0], G // 32, 32]) << tl.arange(0, 32)[None, None, :]
    b_w = tl.sum(b_bits, 2)
    o_w = i * (G // 32) + tl.arange(0, G // 32)
    p_sel = sel + (i_h * W + o_w[None, :]) * N + o_n[:, None]
    m_w = m_n[:, None] & (o_w < W)[None, :]
    if MORE:
        b_w = b_w | tl.load(p_sel, mask=m_w, other=0)
    tl.store(p_sel, b_w, mask=m_w)
    b_n += tl.sum(ones(b_w), 1)
    if i == num_blocks - 1:  # not after the loop: Triton 3.5 does not build that
        tl.store(count + i_h * N + o_n, b_n, mask=m_n)
    return b_n


@triton.jit(do_not_specialize=["bh_first", "S", "tiles"])
def moc_select_topp_threshold(
    q, desc, chunk, row, shot_mask, weight, sel, count,
    s_bh, s_n, N, C, S, W, bh_first, tiles, bar, least, scale,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, G: tl.constexpr, TOP_P: tl.constexpr, MORE: tl.constexpr,
    PASSES: tl.constexpr, SIGNED: tl.constexpr, CAUSAL: tl.constexpr, SHOT_MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """bar: p or beta; least: log2 of the part of a softmax that a chunk may hold and yet not matter; MORE: add bits."""
    i_t, i_local = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_bh, i_h = (bh_first + i_local).to(tl.int64), i_local.to(tl.int64)
    o_n = i_t * BM + tl.arange(0, BM)
    m_n = o_n < N
    b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)
    o_g = tl.arange(0, G)
    o_k = tl.arange(0, 2 * DP)
    o_q, o_p, m_k = pair_columns(o_k, D, DP)
    p_q = q + i_h * s_bh + o_n.to(tl.int64)[:, None] * s_n + o_q[None, :]
    b_q = signed(tl.load(p_q, mask=m_n[:, None] & m_k[None, :], other=0.0), o_k, DP, SIGNED)  # [BM, 2 * DP]
    p_desc = desc + i_bh * C * 2 * D + o_p[None, :]
    p_shot_mask = shot_mask + i_bh * S * S
    num_blocks = tl.cdiv(C, G)
    b_zero = tl.zeros([BM], tl.float32)
    b_number = tl.zeros([BM], tl.int32)

    if not TOP_P:
        b_n, b_mean, b_square = b_zero, b_zero, b_zero  # candidates, their mean, squares of their distance from it
        for i in range(0, num_blocks):
            b_s, b_cand = _scored(
                b_q, p_desc, i, o_g, m_k, chunk, p_shot_mask, b_first, b_last, b_shot, C, S, D, CAUSAL, SHOT_MASK,
                PRECISION
            )  # fmt: skip
            b_m = tl.sum(tl.where(b_cand, 1.0, 0.0), 1)
            b_here = tl.sum(tl.where(b_cand, b_s, 0.0), 1) / tl.maximum(b_m, 1.0)
            b_off = tl.where(b_cand, b_s - b_here[:, None], 0.0)
            b_far, b_all = b_here - b_mean, tl.maximum(b_n + b_m, 1.0)
            b_square += tl.sum(b_off * b_off, 1) + b_far * b_far * (b_n * b_m / b_all)
            b_mean += b_far * (b_m / b_all)
            b_n += b_m
        b_bar = b_mean + bar * tl.sqrt(b_square / tl.maximum(b_n, 1.0))
        for i in range(0, num_blocks):
            b_s, b_cand = _scored(
                b_q, p_desc, i, o_g, m_k, chunk, p_shot_mask, b_first, b_last, b_shot, C, S, D, CAUSAL, SHOT_MASK,
                PRECISION
            )  # fmt: skip
            b_sel = b_cand & (b_s > b_bar[:, None])
            b_number = _write(b_sel, sel, count, b_number, i, num_blocks, o_n, m_n, i_h, N, W, G, MORE)
        return

    b_top, b_low, b_sum = b_zero - float("inf"), b_zero + float("inf"), b_zero
    for i in range(0, num_blocks):
        b_s, b_cand = _scored(
            b_q, p_desc, i, o_g, m_k, chunk, p_shot_mask, b_first, b_last, b_shot, C, S, D, CAUSAL, SHOT_MASK, PRECISION
        )  # fmt: skip
        b_x = _logits(b_s, b_cand, weight, i, o_g, scale, C)
        b_new = tl.maximum(b_top, tl.max(b_x, 1))
        b_ref = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_sum = b_sum * tl.math.exp2(b_top - b_ref) + tl.sum(tl.math.exp2(b_x - b_ref[:, None]), 1)
        b_low = tl.minimum(b_low, tl.min(tl.where(b_cand, b_x, float("inf")), 1))
        b_top = b_new
    b_ref = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_want = b_sum * bar
    # chunks from lo on hold the share, those from hi on hold less: `have`
    b_lo = tl.maximum(tl.where(b_low == float("inf"), 0.0, b_low), b_ref + least)
    b_hi, b_have = b_ref + 1.0, b_zero
    for _ in range(0, PASSES):
        b_part = (b_hi - b_lo) * 0.25
        b_at1, b_at2, b_at3 = b_lo + b_part, b_lo + 2 * b_part, b_lo + 3 * b_part
        b_1, b_2, b_3 = b_zero, b_zero, b_zero
        for i in range(0, num_blocks):
            b_s, b_cand = _scored(
                b_q, p_desc, i, o_g, m_k, chunk, p_shot_mask, b_first, b_last, b_shot, C, S, D, CAUSAL, SHOT_MASK,
                PRECISION
            )  # fmt: skip
            b_x = _logits(b_s, b_cand, weight, i, o_g, scale, C)
            b_e = tl.math.exp2(b_x - b_ref[:, None])
            b_1 += tl.sum(tl.where(b_x >= b_at1[:, None], b_e, 0.0), 1)
            b_2 += tl.sum(tl.where(b_x >= b_at2[:, None], b_e, 0.0), 1)
            b_3 += tl.sum(tl.where(b_x >= b_at3[:, None], b_e, 0.0), 1)
        b_is1, b_is2, b_is3 = b_1 >= b_want, b_2 >= b_want, b_3 >= b_want
        b_lo = tl.where(b_is3, b_at3, tl.where(b_is2, b_at2, tl.where(b_is1, b_at1, b_lo)))
        b_hi = tl.where(b_is1, tl.where(b_is2, tl.where(b_is3, b_hi, b_at3), b_at2), b_at1)
        b_have = tl.where(b_is1, tl.where(b_is2, tl.where(b_is3, b_have, b_3), b_2), b_1)
    for i in range(0, num_blocks):
        b_s, b_cand = _scored(
            b_q, p_desc, i, o_g, m_k, chunk, p_shot_mask, b_first, b_last, b_shot, C, S, D, CAUSAL, SHOT_MASK, PRECISION
        )  # fmt: skip
        b_x = _logits(b_s, b_cand, weight, i, o_g, scale, C)
        b_even = b_cand & (b_x >= b_lo[:, None]) & (b_x < b_hi[:, None])
        b_e = tl.where(b_even, tl.math.exp2(b_x - b_ref[:, None]), 0.0)
        b_before = b_have[:, None] + tl.cumsum(b_e, 1) - b_e
        b_sel = b_cand & ((b_x >= b_hi[:, None]) | (b_even & (b_before < b_want[:, None])))
        b_have += tl.sum(b_e, 1)
        b_number = _write(b_sel, sel, count, b_number, i, num_blocks, o_n, m_n, i_h, N, W, G, MORE)


def rule_bits(
    queries: Tensor, desc: Tensor, shot_mask: Tensor | None, sel: Tensor, plan: DeviceTable, heads: range,
    routing: RoutingConfig,
    *, scale: float, signs: bool, causal: bool, precision: str, config: BlockSize,
) -> Tensor:  # fmt: skip
    """As `route`, by threshold or by share. With "top-k or top-p" the k best are in sel already. scale: of q . k in the
    softmax. -> how many chunks a row chose [heads, N]."""
    n, d = plan.length, desc.shape[-1]
    top_p = routing.budget.rule != "threshold"
    bar = routing.budget.top_p if top_p else routing.budget.beta
    least = -math.inf
    if top_p and bar >= 1:  # whatever may be chosen is
        bar = math.inf
    elif top_p:
        least = math.log2((1 - bar) / plan.chunks) - 1e-3
    tiles = -(-n // config.block_m)
    count = torch.empty(len(heads), n, dtype=torch.int32, device=sel.device)
    moc_select_topp_threshold[(tiles * len(heads),)](
        queries, desc, plan.chunk, plan.row, sel if shot_mask is None else shot_mask, plan.weight, sel, count,
        *queries.stride()[:2], n, plan.chunks, 0 if shot_mask is None else shot_mask.shape[-1], plan.words,
        heads.start, tiles,
        float(bar), least, scale * LOG2E,
        D=d, DP=max(16, triton.next_power_of_2(d)), BM=config.block_m, G=max(32, config.block_n), TOP_P=top_p,
        MORE=routing.budget.rule == "top-k or top-p", PASSES=PASSES, SIGNED=signs, CAUSAL=causal,
        SHOT_MASK=shot_mask is not None,
        PRECISION=precision, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return count
