"""Chunk-major attention: a tile of rows that chose the same chunk meets it once.

Every (row, slot) leaves a normalised partial output and its log2-sum-exp2; `tile.py` adds the partials of a row up.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .common import attend_step
from .configs import Config
from .lists import RowLists
from .plan import Plan


@triton.jit(do_not_specialize=["bh_first", "lists"])
def _routed(
    q, k, v, chunk, entry, end, tile_end, tile, part, lse,
    sq_b, sq_h, sq_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n, H, N, C, lists, bh_first, scale,
    K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_list = tl.load(tile + tl.program_id(0))
    if i_list >= lists:
        return
    i_first = tl.load(tile_end + i_list - 1, mask=i_list > 0, other=0)
    b_from = tl.load(end + i_list - 1, mask=i_list > 0, other=0) + (tl.program_id(0) - i_first) * BM
    b_to = tl.load(end + i_list)
    i_local, i_c = i_list // C, i_list % C
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
    b_q = tl.load(
        q + i_b * sq_b + i_h * sq_h + b_row[:, None] * sq_n + o_d[None, :], mask=m_e[:, None] & m_d, other=0.0
    )

    o_j = tl.arange(0, BN)
    p_k = k + i_b * sk_b + i_h * sk_h + (b_start + o_j)[:, None] * sk_n + o_d[None, :]
    p_v = v + i_b * sv_b + i_h * sv_h + (b_start + o_j)[:, None] * sv_n + o_d[None, :]
    b_acc = tl.zeros([BM, DP], tl.float32)
    b_m = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_whole = b_len // BN * BN
    for _ in tl.range(0, b_whole, BN, num_stages=STAGES):
        if D == DP:
            b_k, b_v = tl.load(p_k), tl.load(p_v)
        else:
            b_k, b_v = tl.load(p_k, mask=m_d, other=0.0), tl.load(p_v, mask=m_d, other=0.0)
        b_acc, b_m, b_l = attend_step(b_q, b_k, b_v, None, None, b_acc, b_m, b_l, scale, False, False, PRECISION)
        p_k += BN * sk_n
        p_v += BN * sv_n
    if b_whole < b_len:
        m_j = (o_j < b_len - b_whole)[:, None] & m_d
        b_k = tl.load(p_k, mask=m_j, other=0.0)
        b_v = tl.load(p_v, mask=m_j, other=0.0)
        b_keep = (o_j < b_len - b_whole)[None, :]
        b_acc, b_m, b_l = attend_step(b_q, b_k, b_v, b_keep, None, b_acc, b_m, b_l, scale, True, False, PRECISION)

    o_out = i_local.to(tl.int64) * N * K + b_e
    b_o = (b_acc / b_l[:, None]).to(part.dtype.element_ty)
    tl.store(part + o_out[:, None] * D + o_d[None, :], b_o, mask=m_e[:, None] & m_d)
    tl.store(lse + o_out, b_m + tl.math.log2(b_l), mask=m_e)


def routed(
    q: Tensor, k: Tensor, v: Tensor, lists: RowLists, plan: Plan, heads: range, part: Tensor, lse: Tensor,
    *, scale: float, config: Config, precision: str,
) -> None:  # fmt: skip
    """Fill part [heads, N, K, D] and lse [heads, N, K] at every (row, slot) that is listed."""
    _, h, n, d = q.shape
    _routed[(lists.most,)](
        q, k, v, plan.chunk, lists.entry, lists.end, lists.tile_end, lists.tile, part, lse,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        h, n, plan.chunks, len(heads) * plan.chunks, heads.start, scale,
        K=part.shape[2], D=d, DP=max(16, triton.next_power_of_2(d)), BM=lists.rows, BN=config.keys,
        STAGES=config.stages, PRECISION=precision, num_warps=config.warps,
    )  # fmt: skip
