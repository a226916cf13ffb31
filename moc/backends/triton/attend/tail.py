"""The pooled tail: every candidate chunk that a row did not choose enters its softmax once, as one key (mean K, mean V,
weight log of its length; Sol-Attn's zeroth-order correction). Writes one partial per row.

Chunk-major, chosen chunks are included too and `gather.py` subtracts each where it was chosen: masking by the bits of
every score costs more. A pooled key weighs no more than the tokens that it stands for (exp is convex), so nothing large
cancels. Query-major, chosen chunks are masked by their bits, of every row or, with shared lists, of a block's first
row.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..block_sizes import BlockSize
from ..device_table import DeviceTable
from ..lib.sortable import bounds, closed, own_of_rows
from ..tiles import Tiles
from .combine import Partial, new_partial


@triton.jit(do_not_specialize=["bh_first", "tiles"])
def moc_attend_tail(
    q, mean_k, mean_v, sel, chunk, row, weight, passes, first, stop, out, lse,
    s_b, s_h, s_n, H, N, C, W, bh_first, tiles, scale,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, MASK: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_t, i_local = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_bh = bh_first + i_local
    i_n = tl.load(first + i_t)
    o_n = i_n + tl.arange(0, BM)
    m_n = o_n < tl.load(stop + i_t)
    o_d, o_j = tl.arange(0, DP), tl.arange(0, BN)
    m_d = (o_d < D)[None, :]
    p_q = q + (i_bh // H).to(tl.int64) * s_b + (i_bh % H).to(tl.int64) * s_h + o_n.to(tl.int64)[:, None] * s_n
    b_q = tl.load(p_q + o_d[None, :], mask=m_n[:, None] & m_d, other=0.0)  # [BM, DP]
    b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)
    own_from, own_to, shot = bounds(b_first, b_last, b_shot, m_n)
    p_sel = sel + i_local.to(tl.int64) * W * N
    p_mean = i_bh.to(tl.int64) * C * D + o_d[None, :]
    b_acc = tl.zeros([BM, DP], tl.float32)
    b_m = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    for i in tl.range(0, C, BN, num_stages=STAGES):
        o_c = i + o_j
        o_r = tl.minimum(o_c, C - 1)[:, None] * D  # what is beyond the last chunk has no weight
        if D == DP:
            b_k, b_v = tl.load(mean_k + p_mean + o_r), tl.load(mean_v + p_mean + o_r)
        else:
            b_k = tl.load(mean_k + p_mean + o_r, mask=m_d, other=0.0)
            b_v = tl.load(mean_v + p_mean + o_r, mask=m_d, other=0.0)
        b_bias = tl.load(weight + o_c, mask=o_c < C, other=float("-inf"))
        free = tl.load(passes + i // BN)
        if MASK == "tile":
            b_w = tl.load(p_sel + (o_c >> 5).to(tl.int64) * N + i_n, mask=o_c < C, other=0)
            b_bias = tl.where((b_w >> (o_c & 31)) & 1 > 0, float("-inf"), b_bias)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale + b_bias[None, :]
        if MASK == "row":
            p_w = p_sel + (o_n * 0 + i // 32).to(tl.int64)[:, None] * N + o_n[:, None]
            b_w = tl.load(p_w, mask=m_n[:, None], other=0)
            if BN >= 64:
                b_next = tl.load(p_w + N, mask=m_n[:, None] & (i + 32 < C), other=0)
                b_w = tl.where(o_j[None, :] < 32, b_w, b_next)
            b_s = tl.where((b_w & (1 << (o_c & 31))[None, :]) == 0, b_s, float("-inf"))
        if closed(free, i, i + BN, own_from, own_to, shot, CAUSAL):
            b_s = tl.where((o_c[None, :] < b_first[:, None]) | (o_c[None, :] >= b_last[:, None]), b_s, float("-inf"))
            if CAUSAL:
                b_there = tl.load(chunk + 2 * C + o_c, mask=o_c < C, other=0)
                b_s = tl.where(b_there[None, :] <= b_shot[:, None], b_s, float("-inf"))
        # Whole powers of two: the weights that `gather.py` takes off are rounded just as these are
        b_top = tl.maximum(b_m, tl.ceil(tl.max(b_s, 1)))
        b_ref = tl.where(b_top == float("-inf"), 0.0, b_top)
        b_p = tl.math.exp2(b_s - b_ref[:, None])
        b_alpha = tl.math.exp2(b_m - b_ref)
        b_l = b_l * b_alpha + tl.sum(b_p, 1)
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_alpha[:, None], input_precision=PRECISION)
        b_m = b_top
    o_out = i_local.to(tl.int64) * N + o_n
    b_o = b_acc * (1.0 / tl.where(b_l == 0.0, 1.0, b_l))[:, None]
    tl.store(out + o_out[:, None] * D + o_d[None, :], b_o.to(out.dtype.element_ty), mask=m_n[:, None] & m_d)
    tl.store(lse + o_out, b_m + tl.math.log2(tl.where(b_l == 0.0, 1.0, b_l)), mask=m_n)


def tail_of(
    q: Tensor, mean_k: Tensor, mean_v: Tensor, sel: Tensor, plan: DeviceTable, tiles: Tiles, heads: range,
    *, scale: float, config: BlockSize, precision: str, causal: bool, mask: str, by: str | None = "tail",
) -> Partial:  # fmt: skip
    """mean_k, mean_v [B*H, C, D], sel [heads, W, N]. scale is in log2 units. Rows with nothing left get -inf.

    mask: chosen chunks are left out by the bits of every "row", by those of the first row of a "tile", or by "none".
    by: the file whose kernel does it.
    """
    if by == "tail_sm90":
        from . import tail_sm90

        return tail_sm90.tail_of(q, mean_k, mean_v, sel, plan, heads, scale=scale, causal=causal, mask=mask)
    _, h, n, d = q.shape
    tail = new_partial(q, len(heads))
    moc_attend_tail[(tiles.count * len(heads),)](
        q, mean_k, mean_v, sel, plan.chunk, plan.row, plan.weight,
        plan.max_shot_per_block(config.block_n), tiles.first, tiles.stop,
        tail.out, tail.lse, *q.stride()[:3], h, n, plan.chunks, plan.words, heads.start, tiles.count, scale,
        D=d, DP=max(16, triton.next_power_of_2(d)), BM=config.block_m, BN=config.block_n, CAUSAL=causal, MASK=mask,
        STAGES=config.stages, PRECISION=precision, num_warps=config.warps,
    )  # fmt: skip
    return tail
