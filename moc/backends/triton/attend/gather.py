"""Chunk-major (KV-stationary) attention, as in FlashMoBA (arXiv 2511.11571): a block of gathered query rows that chose
the same chunk attends to it once.

Every (row, slot) gets a normalised partial output and its log2-sum-exp2; `block.py` combines the partials of a row.
With a tail, the chunk's pooled key, which `tail.py` included, is subtracted here; the share of the sum that is left is
stored beside the log-sum-exp.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..block_sizes import BlockSize
from ..device_table import DeviceTable
from ..lib.quantise import Quantised, padded
from ..lib.sortable import attend_step, scores_of_8_bits
from ..lists.csr import ChunkCSR
from .combine import Partial, new_slots


@triton.jit
def _summary(mean_k, mean_v, weight, o_bh, i_c, C, o_d, m_d, D: tl.constexpr):
    """Mean key and value of a chunk as sixteen equal rows, the fewest that a product takes, each a sixteenth of it."""
    o_s = tl.arange(0, 16)[:, None] * 0 + (o_bh * C + i_c) * D + o_d[None, :]
    b_k = tl.load(mean_k + o_s, mask=m_d, other=0.0)
    b_v = tl.load(mean_v + o_s, mask=m_d, other=0.0)
    return b_k, b_v, tl.load(weight + i_c) - 4.0


@triton.jit
def _subtract(b_q, b_k, b_v, b_weight, b_acc, b_m, b_l, scale, PRECISION: tl.constexpr):
    """Take a summary off a softmax (acc, max, sum) -> acc, share of the sum that is left. The maximum is a whole
    number, as that of `tail.py` is: what is rounded off the weight is the same."""
    b_x = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale + b_weight
    b_x = -tl.math.exp2(b_x - b_m[:, None])  # [M, 16]
    b_acc = tl.dot(b_x.to(b_v.dtype), b_v, b_acc, input_precision=PRECISION)
    return b_acc, 1.0 + tl.sum(b_x, 1) / b_l


@triton.jit
def where(tile, i_t, stop, most, first, C, slots):
    """(head, chunk, first and last entry) of a tile; the entries are none where there is no such tile. first: the list
    that the first of these heads begins with."""
    there = i_t < stop
    i_list = tl.load(tile + i_t, mask=there, other=first) - first
    b_before = i_list // C * slots
    b_from = tl.load(tile + most + i_t, mask=there, other=0) + b_before
    b_to = tl.load(tile + 2 * most + i_t, mask=there, other=0) + b_before
    return i_list // C, i_list % C, b_from, b_to


@triton.jit
def _own_tile(tile, border, heads, head, most, C, slots):
    """`where`, of the tile that is this program's."""
    i_t = tl.load(border + head) + tl.program_id(0)
    return where(tile, i_t, tl.load(border + head + heads), most, head * C, C, slots)


@triton.jit(do_not_specialize=["heads", "head", "bh_first", "most"])
def moc_attend_gather(
    q, k, v, mean_k, mean_v, weight, chunk, entry, tile, border, part, lse,
    sq_b, sq_h, sq_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n, H, N, C, heads, head, most, bh_first, scale,
    K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TAIL: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
    q8=None, k8=None, q_scale=None, k_scale=None, offset=None,
):  # fmt: skip
    i_local, i_c, b_from, b_to = _own_tile(tile, border, heads, head, most, C, N * K)
    if b_from >= b_to:
        return
    i_bh = bh_first + i_local
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    b_start = tl.load(chunk + i_c).to(tl.int64)
    b_len = tl.load(chunk + C + i_c)

    o_d = tl.arange(0, DP)
    m_d = (o_d < D)[None, :]
    o_e = b_from + tl.arange(0, BM)
    m_e = o_e < b_to
    b_e = tl.load(entry + o_e, mask=m_e, other=0)
    b_row = (b_e // K).to(tl.int64)
    p_q = q + i_b * sq_b + i_h * sq_h + b_row[:, None] * sq_n + o_d[None, :]
    if q8 is None:
        b_q = tl.load(p_q, mask=m_e[:, None] & m_d, other=0.0)
    else:
        o_bh = i_bh.to(tl.int64) * N
        b_q = tl.load(q8 + (o_bh + b_row)[:, None] * D + o_d[None, :], mask=m_e[:, None] & m_d, other=0)

    o_j = tl.arange(0, BN)
    if q8 is None:
        p_k = k + i_b * sk_b + i_h * sk_h + (b_start + o_j)[:, None] * sk_n + o_d[None, :]
    else:
        p_k = k8 + (o_bh + b_start + o_j)[:, None] * D + o_d[None, :]
        k_scale += i_bh * tl.cdiv(N, 64)
        sk_n = D
    p_v = v + i_b * sv_b + i_h * sv_h + (b_start + o_j)[:, None] * sv_n + o_d[None, :]
    b_acc = tl.zeros([BM, DP], tl.float32)
    b_m = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_whole = b_len // BN * BN
    b_scale = scale
    if q8 is not None:
        b_scale *= tl.load(q_scale + o_bh + b_row, mask=m_e, other=0.0)  # [BM]
    for i in tl.range(0, b_whole, BN, num_stages=STAGES):
        if D == DP:
            b_k, b_v = tl.load(p_k), tl.load(p_v)
        else:
            b_k, b_v = tl.load(p_k, mask=m_d, other=0.0), tl.load(p_v, mask=m_d, other=0.0)
        b_acc, b_m, b_l = attend_step(
            b_q, b_k, b_v, None, b_acc, b_m, b_l, b_scale, False, PRECISION, k_scale, b_start + i + o_j, N
        )
        p_k += BN * sk_n
        p_v += BN * sv_n
    if b_whole < b_len:
        m_j = (o_j < b_len - b_whole)[:, None] & m_d
        b_k = tl.load(p_k, mask=m_j, other=0.0)
        b_v = tl.load(p_v, mask=m_j, other=0.0)
        b_keep = (o_j < b_len - b_whole)[None, :]
        b_acc, b_m, b_l = attend_step(
            b_q, b_k, b_v, b_keep, b_acc, b_m, b_l, b_scale, True, PRECISION, k_scale, b_start + b_whole + o_j, N
        )
    if q8 is not None:
        b_m += tl.load(offset + o_bh + b_row, mask=m_e, other=0.0)
        if TAIL:
            b_q = tl.load(p_q, mask=m_e[:, None] & m_d, other=0.0)

    o_out = i_local.to(tl.int64) * N * K + b_e
    if TAIL:
        b_top = tl.ceil(b_m)
        b_alpha = tl.math.exp2(b_m - b_top)
        b_acc, b_l, b_m = b_acc * b_alpha[:, None], b_l * b_alpha, b_top
        b_mk, b_mv, b_weight = _summary(mean_k, mean_v, weight, i_bh.to(tl.int64), i_c, C, o_d, m_d, D)
        b_acc, b_rest = _subtract(b_q, b_mk, b_mv, b_weight, b_acc, b_m, b_l, scale, PRECISION)
        tl.store(lse + 2 * o_out + 1, b_rest, mask=m_e)
    b_o = (b_acc * (1.0 / b_l)[:, None]).to(part.dtype.element_ty)
    tl.store(part + o_out[:, None] * D + o_d[None, :], b_o, mask=m_e[:, None] & m_d)
    if TAIL:
        o_out *= 2
    tl.store(lse + o_out, b_m + tl.math.log2(b_l), mask=m_e)


@triton.jit(do_not_specialize=["heads", "head", "bh_first", "most"])
def moc_attend_gather_short(
    q, k, v, mean_k, mean_v, weight, chunk, entry, tile, border, part, lse,
    sq_b, sq_h, sq_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n, H, N, C, heads, head, most, bh_first, scale,
    K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TILES: tl.constexpr,
    TAIL: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
    q8=None, k8=None, q_scale=None, k_scale=None, offset=None,
):  # fmt: skip
    """As `moc_attend_gather` where a chunk fits one step: its keys stay while many rows pass, BM at a time and gathered
    ahead."""
    i_local, i_c, b_from, b_to = _own_tile(tile, border, heads, head, most, C, N * K)
    if b_from >= b_to:
        return
    i_bh = bh_first + i_local
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    b_start = tl.load(chunk + i_c).to(tl.int64)
    o_d, o_j, o_m = tl.arange(0, DP), tl.arange(0, BN), tl.arange(0, BM)
    m_d = (o_d < D)[None, :]
    m_j = o_j < tl.load(chunk + C + i_c)
    if q8 is None:
        p_k = k + i_b * sk_b + i_h * sk_h + (b_start + o_j)[:, None] * sk_n + o_d[None, :]
    else:
        o_bh = i_bh.to(tl.int64) * N
        p_k = k8 + (o_bh + b_start + o_j)[:, None] * D + o_d[None, :]
        k_scale += i_bh * tl.cdiv(N, 64)
    p_v = v + i_b * sv_b + i_h * sv_h + (b_start + o_j)[:, None] * sv_n + o_d[None, :]
    b_k = tl.load(p_k, mask=m_j[:, None] & m_d, other=0.0)
    b_v = tl.load(p_v, mask=m_j[:, None] & m_d, other=0.0)
    if TAIL:
        b_mk, b_mv, b_weight = _summary(mean_k, mean_v, weight, i_bh.to(tl.int64), i_c, C, o_d, m_d, D)
    b_bias = tl.where(m_j, 0.0, float("-inf"))
    p_q = q + i_b * sq_b + i_h * sq_h + o_d[None, :]
    o_first = i_local.to(tl.int64) * N * K
    for i in tl.range(b_from, tl.minimum(b_to, b_from + TILES * BM), BM, num_stages=STAGES):
        m_e = o_m < b_to - i
        b_e = tl.load(entry + i + o_m, mask=m_e, other=0)
        b_row = (b_e // K).to(tl.int64)
        if q8 is None:
            b_q = tl.load(p_q + b_row[:, None] * sq_n, mask=m_e[:, None] & m_d, other=0.0)
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale + b_bias[None, :]
        else:
            b_q8 = tl.load(q8 + (o_bh + b_row)[:, None] * D + o_d[None, :], mask=m_e[:, None] & m_d, other=0)
            b_scale = scale * tl.load(q_scale + o_bh + b_row, mask=m_e, other=0.0)
            b_more = tl.load(offset + o_bh + b_row, mask=m_e, other=0.0)
            b_s = scores_of_8_bits(b_q8, b_k, k_scale, b_start + o_j, N) * b_scale[:, None]
            b_s += b_bias[None, :] + b_more[:, None]
            if TAIL:
                b_q = tl.load(p_q + b_row[:, None] * sq_n, mask=m_e[:, None] & m_d, other=0.0)
        b_m = tl.ceil(tl.max(b_s, 1))
        b_p = tl.math.exp2(b_s - b_m[:, None])
        b_l = tl.sum(b_p, 1)
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, input_precision=PRECISION)
        o_out = o_first + b_e
        if TAIL:
            b_acc, b_rest = _subtract(b_q, b_mk, b_mv, b_weight, b_acc, b_m, b_l, scale, PRECISION)
            tl.store(lse + 2 * o_out + 1, b_rest, mask=m_e)
        b_o = b_acc * (1.0 / b_l)[:, None]
        p_part = part + o_first * D + b_e.to(tl.int64)[:, None] * D + o_d[None, :]
        tl.store(p_part, b_o.to(part.dtype.element_ty), mask=m_e[:, None] & m_d)
        if TAIL:
            o_out *= 2
        tl.store(lse + o_out, b_m + tl.math.log2(b_l), mask=m_e)


def gather_chunks(
    q: Tensor, k: Tensor, v: Tensor, summary: tuple[Tensor, Tensor] | None, lists: ChunkCSR, plan: DeviceTable,
    heads: range, *, scale: float, config: BlockSize, precision: str, eight: Quantised | None = None,
) -> Partial:  # fmt: skip
    """Slots of every row, those written that are listed. summary: mean keys and values, to be taken off. eight: instead
    of q and k."""
    _, h, n, d = q.shape
    mean_k, mean_v = summary or (k, v)
    slots = new_slots(q, lists.number, plan.top_k, rest=summary is not None)
    inputs = q, k, v, mean_k, mean_v, plan.weight, plan.chunk, lists.entry, lists.tile, lists.border
    sizes = h, n, plan.chunks, len(heads), lists.head, lists.tile.shape[1], heads.start, scale
    strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3]
    how = dict(
        K=plan.top_k, D=d, DP=padded(d, eight), BM=config.block_m, TAIL=summary is not None,
        STAGES=config.stages, PRECISION=precision, num_warps=config.warps, maxnreg=config.registers,
        **(eight.arguments if eight else {}),
    )  # fmt: skip
    arguments = *inputs, slots.out, slots.lse, *strides, *sizes
    if plan.longest <= config.block_n:
        keys = max(16, triton.next_power_of_2(plan.longest))
        moc_attend_gather_short[(lists.most,)](*arguments, BN=keys, TILES=config.blocks_per_program, **how)
    else:
        moc_attend_gather[(lists.most,)](*arguments, BN=config.block_n, **how)
    return slots
