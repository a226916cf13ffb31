"""One softmax for a tile of query rows over all that it sees, part by part; every part may be left out.

own     a partial made by an attention library, taken up as it is
ranges  tokens that every row of the tile sees, densely
lists   pieces that some row of the tile chose, every row masked to its own choice (or not: `shared`)
slots   the partials that `gather.py` left per row
tail    the partial of `tail.py`
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..block_sizes import BlockSize
from ..device_table import DeviceTable
from ..lib.quantise import Quantised, padded
from ..lib.sortable import attend_step
from ..lists.unions import UnionLists
from ..tiles import Tiles
from .combine import Partial, combine, combine_slot

LOG2E = 1.4426950408889634


@triton.jit(do_not_specialize=["bh_first", "tiles", "width", "own_first", "own_rows"])
def moc_attend_block(
    q, k, v, out, first, stop, span, ranges, piece, low, high, count, piece_start, piece_len,
    tail, tail_lse, part, lse, number, own, own_lse, total,
    sq_b, sq_h, sq_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n, so_b, so_h, so_n, sw_g, sw_h, sw_n, sl_g, sl_h, sl_n,
    H, N, bh_first, tiles, width, own_first, own_rows, scale,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CS: tl.constexpr, K: tl.constexpr,
    OWN: tl.constexpr, RANGES: tl.constexpr, LISTS: tl.constexpr, SHARED: tl.constexpr, SLOTS: tl.constexpr,
    REST: tl.constexpr, TAIL: tl.constexpr, TOTAL: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
    q8=None, k8=None, q_scale=None, k_scale=None, offset=None,
):  # fmt: skip
    i_t, i_local = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_bh = bh_first + i_local
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    o_n = tl.load(first + i_t) + tl.arange(0, BM)
    m_n = o_n < tl.load(stop + i_t)
    o_d, o_j = tl.arange(0, DP), tl.arange(0, BN)
    m_d = (o_d < D)[None, :]
    m_q = m_n[:, None] & m_d
    b_acc = tl.zeros([BM, DP], tl.float32)
    b_m = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)

    if RANGES or LISTS:
        if q8 is None:
            p_q = q + i_b * sq_b + i_h * sq_h + o_n.to(tl.int64)[:, None] * sq_n + o_d[None, :]
            b_q = tl.load(p_q, mask=m_q, other=0.0)  # [BM, DP]
            p_k = k + i_b * sk_b + i_h * sk_h + o_d[None, :]
        else:
            o_8 = i_bh.to(tl.int64) * N + o_n
            b_q = tl.load(q8 + o_8[:, None] * D + o_d[None, :], mask=m_q, other=0)
            scale *= tl.load(q_scale + o_8, mask=m_n, other=0.0)  # [BM]
            p_k = k8 + i_bh.to(tl.int64) * N * D + o_d[None, :]
            k_scale += i_bh * tl.cdiv(N, 64)
            sk_n = D
        p_v = v + i_b * sv_b + i_h * sv_h + o_d[None, :]

    if OWN:
        i_g = ((o_n - own_first) // own_rows).to(tl.int64)
        i_r = ((o_n - own_first) % own_rows).to(tl.int64)
        p_own = own + i_local * sw_h + i_g[:, None] * sw_g + i_r[:, None] * sw_n + o_d[None, :]
        b_acc = tl.load(p_own, mask=m_q, other=0.0).to(tl.float32)
        b_m = tl.load(own_lse + i_local * sl_h + i_g * sl_g + i_r * sl_n, mask=m_n, other=0.0) * 1.4426950408889634
        b_l = tl.full([BM], 1.0, tl.float32)

    if RANGES:
        for i_r in range(tl.load(span + 2 * i_t), tl.load(span + 2 * i_t + 1)):
            b_from, b_to = tl.load(ranges + 2 * i_r), tl.load(ranges + 2 * i_r + 1)
            b_whole = b_from + (b_to - b_from) // BN * BN
            for i in tl.range(b_from, b_whole, BN, num_stages=STAGES):
                o_s = (i + o_j).to(tl.int64)[:, None]
                if D == DP:
                    b_k, b_v = tl.load(p_k + o_s * sk_n), tl.load(p_v + o_s * sv_n)
                else:
                    b_k = tl.load(p_k + o_s * sk_n, mask=m_d, other=0.0)
                    b_v = tl.load(p_v + o_s * sv_n, mask=m_d, other=0.0)
                b_acc, b_m, b_l = attend_step(
                    b_q, b_k, b_v, None, b_acc, b_m, b_l, scale, False, PRECISION, k_scale, i + o_j, N
                )
            if b_whole < b_to:
                m_j = (b_whole + o_j) < b_to
                o_s = (b_whole + o_j).to(tl.int64)[:, None]
                b_k = tl.load(p_k + o_s * sk_n, mask=m_j[:, None] & m_d, other=0.0)
                b_v = tl.load(p_v + o_s * sv_n, mask=m_j[:, None] & m_d, other=0.0)
                b_acc, b_m, b_l = attend_step(
                    b_q, b_k, b_v, m_j[None, :], b_acc, b_m, b_l, scale, True, PRECISION, k_scale, b_whole + o_j, N
                )

    if LISTS:  # BN keys at a time: BN / CS pieces of at most CS tokens
        n_list = tl.load(count + i_local * tiles + i_t)
        p_list = (i_local.to(tl.int64) * tiles + i_t) * width
        o_e, o_o = o_j // CS, o_j % CS
        o_m = tl.arange(0, BM)[:, None]
        for i in tl.range(0, n_list, BN // CS, num_stages=STAGES):
            m_e = i + o_e < n_list
            b_p = tl.load(piece + p_list + i + o_e, mask=m_e, other=0)
            m_j = m_e & (o_o < tl.load(piece_len + b_p))
            o_t = tl.load(piece_start + b_p) + o_o
            o_s = o_t.to(tl.int64)[:, None]
            b_k = tl.load(p_k + o_s * sk_n, mask=m_j[:, None] & m_d, other=0.0)
            b_v = tl.load(p_v + o_s * sv_n, mask=m_j[:, None] & m_d, other=0.0)
            if SHARED:
                b_keep = m_j[None, :]
            else:
                b_low = tl.load(low + p_list + i + o_e, mask=m_j, other=0)[None, :]
                if BM > 32:
                    b_high = tl.load(high + p_list + i + o_e, mask=m_j, other=0)[None, :]
                    b_keep = (tl.where(o_m < 32, b_low, b_high) >> (o_m & 31)) & 1 > 0
                else:
                    b_keep = (b_low >> o_m) & 1 > 0
            b_acc, b_m, b_l = attend_step(
                b_q, b_k, b_v, b_keep, b_acc, b_m, b_l, scale, True, PRECISION, k_scale, o_t, N
            )

    if q8 is not None:
        b_m += tl.load(offset + o_8, mask=m_n, other=0.0)

    if TAIL:
        o_t = i_local.to(tl.int64) * N + o_n
        b_part = tl.load(tail_lse + o_t, mask=m_n, other=float("-inf"))
        b_o = tl.load(tail + o_t[:, None] * D + o_d[None, :], mask=m_q, other=0.0)
        b_acc, b_m, b_l = combine(b_o, b_part, 1.0, b_acc, b_m, b_l)

    if SLOTS:
        o_s = (i_local.to(tl.int64) * N + o_n) * K
        b_n = tl.load(number + i_local.to(tl.int64) * N + o_n, mask=m_n, other=0)
        if K <= 5:  # all in flight at once
            for i in tl.static_range(K):
                b_acc, b_m, b_l = combine_slot(part, lse, o_s, o_d, m_n, m_d, b_n, i, b_acc, b_m, b_l, D, REST)
        else:
            for i in range(0, tl.max(b_n, 0), 4):
                for j in tl.static_range(4):
                    b_acc, b_m, b_l = combine_slot(part, lse, o_s, o_d, m_n, m_d, b_n, i + j, b_acc, b_m, b_l, D, REST)

    b_o = b_acc * (1.0 / tl.where(b_l == 0.0, 1.0, b_l))[:, None]
    p_out = out + i_b * so_b + i_h * so_h + o_n.to(tl.int64)[:, None] * so_n + o_d[None, :]
    tl.store(p_out, b_o.to(out.dtype.element_ty), mask=m_q)
    if TOTAL:
        tl.store(total + i_bh.to(tl.int64) * N + o_n, b_m + tl.math.log2(b_l), mask=m_n)


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of a group, a head and a row of x [heads, G, L, ...]."""
    return x.stride(1), x.stride(0), x.stride(2)


def attend_tiles(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, plan: DeviceTable, tiles: Tiles, heads: range,
    *, scale: float, config: BlockSize, precision: str,
    ranges: bool = False, lists: UnionLists | None = None, shared: bool = False, tail: Partial | None = None,
    slots: Partial | None = None, own: Partial | None = None, total: Tensor | None = None,
    eight: Quantised | None = None,
) -> None:  # fmt: skip
    """Write out [B, H, N, D] at the rows of the tiles, and their log2-sum-exp2 to total [B*H, N]. eight: instead of q
    and k."""
    if not tiles.count or not len(heads):
        return
    _, h, n, d = q.shape
    none = plan.chunk  # stands where a part is left out; never read
    size = lists.pieces.size if lists else config.block_n
    listed = (lists.piece, lists.low, lists.high, lists.count, lists.pieces.start, lists.pieces.length) if lists else ()
    moc_attend_block[(tiles.count * len(heads),)](
        q, k, v, out, tiles.first, tiles.stop, tiles.span, tiles.ranges,
        *(listed or [none] * 6), *((tail.out, tail.lse) if tail else (none, none)),
        *((slots.out, slots.lse, slots.count) if slots else [none] * 3),
        *((own.out, own.lse) if own else (none, none)), none if total is None else total,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        *(_strides(own.out) if own else (0, 0, 0)), *(_strides(own.lse) if own else (0, 0, 0)),
        h, n, heads.start, tiles.count, lists.width if lists else 0,
        own.first if own else 0, own.out.shape[2] if own else 1, scale * LOG2E,
        D=d, DP=padded(d, eight), BM=config.block_m, BN=max(config.block_n, size), CS=size,
        K=slots.out.shape[2] if slots else 1,
        OWN=own is not None, RANGES=ranges, LISTS=lists is not None, SHARED=shared, SLOTS=slots is not None,
        REST=slots is not None and slots.lse.shape[3] == 2, TAIL=tail is not None,
        TOTAL=total is not None, STAGES=config.stages, PRECISION=precision, num_warps=config.warps,
        **(eight.arguments if eight and (ranges or lists) else {}),
    )  # fmt: skip
