"""Register top-k, among at most 256 chunks: all scores of a query block stay in registers, and only a mask is
written."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..block_sizes import BlockSize
from ..device_table import DeviceTable
from ..lib.sortable import least_chosen, least_of_few, open_to, own_of_rows, pair_columns, signed

LARGEST_FIRST = 8  # choices up to which taking the largest again and again is faster than a search


@triton.jit(do_not_specialize=["bh_first", "tiles", "k", "S"])
def moc_select_registers(
    q, desc, chunk, row, shot_mask, sel,
    s_bh, s_n, N, C, S, W, bh_first, tiles, k,
    D: tl.constexpr, DB: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, CP: tl.constexpr, FEW: tl.constexpr,
    SIGNED: tl.constexpr, CAUSAL: tl.constexpr, SHOT_MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_t, i_local = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_bh = bh_first + i_local
    o_n = i_t * BM + tl.arange(0, BM)
    m_n = o_n < N
    b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)

    o_c = tl.arange(0, CP)
    p_q = q + i_local.to(tl.int64) * s_bh + o_n.to(tl.int64)[:, None] * s_n
    p_desc = desc + i_bh.to(tl.int64) * C * 2 * D + o_c[:, None] * 2 * D
    b_s = tl.zeros([BM, CP], tl.float32)
    for i_k in tl.static_range(0, 2 * DP, DB):
        o_k = i_k + tl.arange(0, DB)
        o_q, o_p, m_k = pair_columns(o_k, D, DP)
        b_q = tl.load(p_q + o_q[None, :], mask=m_n[:, None] & m_k[None, :], other=0.0)  # [BM, DB]
        b_q = signed(b_q, o_k, DP, SIGNED)
        b_p = tl.load(p_desc + o_p[None, :], mask=(o_c < C)[:, None] & m_k[None, :], other=0.0)  # [CP, DB]
        b_s = tl.dot(b_q, tl.trans(b_p), b_s, input_precision=PRECISION)

    b_cand = open_to(
        o_c, b_first, b_last, b_shot, chunk, shot_mask + i_bh.to(tl.int64) * S * S, C, S, CAUSAL, SHOT_MASK
    )
    b_s = tl.where(b_cand, b_s, float("-inf"))  # [BM, CP]
    b_k = tl.full([BM], 0, tl.int32) + k
    if FEW:
        b_t, b_at = least_of_few(b_s, k)
        too_low = tl.sum((tl.sum((b_s > b_t[:, None]).to(tl.int32), 1) > k).to(tl.int32), 0) > 0
        if too_low:
            b_t, b_at = least_chosen(b_s, b_k)
    else:
        b_t, b_at = least_chosen(b_s, b_k)
    b_sel = b_cand & (b_s >= b_t[:, None])
    if tl.sum((b_at > k).to(tl.int32), 0) > 0:  # equal scores at the border: the lower chunks win
        b_above = b_cand & (b_s > b_t[:, None])
        b_level = b_cand & (b_s == b_t[:, None])
        b_free = k - tl.sum(b_above.to(tl.int32), 1)
        b_rank = tl.cumsum(b_level.to(tl.int32), 1)
        b_sel = b_above | (b_level & (b_rank <= b_free[:, None]))

    o_bit = tl.arange(0, 32)
    b_bits = tl.reshape(b_sel.to(tl.int32), [BM, CP // 32, 32]) << o_bit[None, None, :]
    b_w = tl.sum(b_bits, 2)  # [BM, CP / 32]
    o_w = tl.arange(0, CP // 32)
    p_sel = sel + (i_local.to(tl.int64) * W + o_w[None, :]) * N + o_n[:, None]
    tl.store(p_sel, b_w, mask=m_n[:, None] & (o_w < W)[None, :])


def route(
    queries: Tensor, desc: Tensor, shot_mask: Tensor | None, sel: Tensor, plan: DeviceTable, heads: range,
    *, signs: bool, causal: bool, precision: str, config: BlockSize,
) -> None:  # fmt: skip
    """Write the choice of heads [heads.start, heads.stop) of the flattened batch into sel [heads, W, N].

    queries [heads, N, D]; with `split_heads` their positive and negative parts meet different descriptors.
    Bit c % 32 of word c // 32 says that the row chose chunk c.
    """
    n, d = plan.length, desc.shape[-1]
    dp = max(16, triton.next_power_of_2(d))
    tiles = -(-n // config.block_m)
    shots = 0 if shot_mask is None else shot_mask.shape[-1]
    moc_select_registers[(tiles * len(heads),)](
        queries, desc, plan.chunk, plan.row, sel if shot_mask is None else shot_mask, sel,
        *queries.stride()[:2], n, plan.chunks, shots, plan.words, heads.start, tiles, plan.top_k,
        D=d, DB=min(2 * dp, 64), DP=dp, BM=config.block_m, CP=max(32, triton.next_power_of_2(plan.chunks)),
        FEW=plan.top_k <= LARGEST_FIRST,
        SIGNED=signs, CAUSAL=causal, SHOT_MASK=shot_mask is not None, PRECISION=precision,
        num_warps=4, num_stages=1,
    )  # fmt: skip
