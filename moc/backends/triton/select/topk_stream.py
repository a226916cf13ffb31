"""Bucketed top-k, among any number of chunks, in one pass over the descriptors; scores are never stored.

A row's chunks are hashed into G buckets, and a bucket keeps its R best in registers. The k best of the row are among
the G*R kept unless one bucket holds more than R of them. Rows for which that may be are queued and retried, at most
twice, with another hash and twice the entries. The few that are left go to the exact top-k (`topk_exact.py`), which is
always right. On Hopper the first pass has a kernel of its own (`topk_stream_sm90.py`), or the threshold filter takes
its place (`topk_filter_sm90.py`), or, among few chunks, the register top-k (`topk_registers_sm90.py`), after which only
the exact top-k follows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..block_sizes import BlockSize
from ..device_table import DeviceTable
from ..lib.launch import processors
from ..lib.sortable import bounds, closed, open_to, own_of_rows, pair_columns, signed
from ..lists.csr import SelectionIndices
from .topk_exact import moc_select_exact
from .topk_stream_heap import bits, emit, finish, taken

PLACES = 4  # a group keeps at first; twice as many when rows are dealt again
RETRIES = 2  # of dealing again


@triton.jit(do_not_specialize=["bh_first", "k", "S", "num_blocks", "rotation", "share"])
def moc_select_stream(
    q, desc, chunk, row, shot_mask, passes, sel, pairs, number, threshold, retry_rows, retry_count, overflow_rows,
    overflow_count,
    s_bh, s_n, N, C, S, W, bh_first, k, num_blocks, rotation, share,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, G: tl.constexpr, R: tl.constexpr, LOW: tl.constexpr,
    RETRY: tl.constexpr, BITS: tl.constexpr,
    SIGNED: tl.constexpr, CAUSAL: tl.constexpr, SHOT_MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """share programs a head. RETRY: only the rows listed [heads, N], waiting [heads] of them; else all.

    level [heads, N]: a score a little below the k-th best, for the rows that are left.
    """
    i_local = tl.program_id(0) // share
    i_bh = bh_first + i_local
    o_g = tl.arange(0, G)
    o_k = tl.arange(0, 2 * DP)
    o_q, o_p, m_k = pair_columns(o_k, D, DP)
    p_desc = desc + i_bh.to(tl.int64) * C * 2 * D + o_p[None, :]
    p_shot_mask = shot_mask + i_bh.to(tl.int64) * S * S
    if RETRY:
        n_rows = tl.load(retry_count + i_local)
    else:
        n_rows = N
        b_typical = tl.load(desc + (i_bh.to(tl.int64) * C + C // 2) * 2 * D + o_p, mask=m_k, other=0.0).to(tl.float32)
    for i_t in range(tl.program_id(0) % share, tl.cdiv(n_rows, BM), share):
        o_n = i_t * BM + tl.arange(0, BM)
        m_n = o_n < n_rows
        if RETRY:
            o_n = tl.load(retry_rows + i_local.to(tl.int64) * N + o_n, mask=m_n, other=0)
        b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)
        own_from, own_to, shot = bounds(b_first, b_last, b_shot, m_n)
        p_q = q + i_local.to(tl.int64) * s_bh + o_n.to(tl.int64)[:, None] * s_n + o_q[None, :]
        b_q = signed(tl.load(p_q, mask=m_n[:, None] & m_k[None, :], other=0.0), o_k, DP, SIGNED)  # [BM, 2 * DP]
        # Scores of a row have much in common; without it the digits that the keys keep are those that tell chunks apart
        if RETRY:  # the best lie above zero, where equal scores need no second look
            b_common = tl.load(threshold + i_local.to(tl.int64) * N + o_n, mask=m_n, other=0.0)
        else:
            b_common = tl.sum(b_q.to(tl.float32) * b_typical[None, :], 1)

        b_none = tl.full([BM, G], float("-inf"), tl.float32)
        b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7 = b_none, b_none, b_none, b_none, b_none, b_none, b_none, b_none
        for i in range(0, num_blocks):
            # Turned from pass to pass, so that chunks one frame apart do not always meet in the same group
            o_c = i * G + ((o_g + i * rotation) & (G - 1))
            b_p = tl.load(p_desc + o_c[:, None] * 2 * D, mask=(o_c < C)[:, None] & m_k[None, :], other=0.0)
            b_s = tl.dot(b_q, tl.trans(b_p), input_precision=PRECISION)
            # The low bits name the pass: scores that agree in all other digits are equal, and the lower chunk wins
            b_new = ((bits(b_s - b_common[:, None]) & ~LOW) | (LOW - i)).to(tl.float32, bitcast=True)
            if SHOT_MASK or closed(tl.load(passes + i), i * G, i * G + G, own_from, own_to, shot, CAUSAL):
                b_cand = open_to(o_c, b_first, b_last, b_shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK)
                b_new = tl.where(b_cand, b_new, float("-inf"))
            # a group's numbers fall from 0 on: each takes the larger of itself and what the one above it lets go
            if R > 4:
                b_7 = tl.maximum(b_7, tl.minimum(b_6, b_new))
                b_6 = tl.maximum(b_6, tl.minimum(b_5, b_new))
                b_5 = tl.maximum(b_5, tl.minimum(b_4, b_new))
                b_4 = tl.maximum(b_4, tl.minimum(b_3, b_new))
            b_3 = tl.maximum(b_3, tl.minimum(b_2, b_new))
            b_2 = tl.maximum(b_2, tl.minimum(b_1, b_new))
            b_1 = tl.maximum(b_1, tl.minimum(b_0, b_new))
            b_0 = tl.maximum(b_0, b_new)

        b_from, m_row = finish(
            b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7, b_common, o_g, o_n, m_n, threshold, overflow_rows, overflow_count,
            i_local, N, k,
            num_blocks, rotation, G, R, LOW,
        )  # fmt: skip
        i_h = i_local.to(tl.int64)
        p_sel, p_slot = sel + i_h * W * N, pairs + i_h * N * k
        if not BITS:  # slots in the order of groups
            b_n = taken(b_0, b_1, b_2, b_3, b_from)
            if R > 4:
                b_n += taken(b_4, b_5, b_6, b_7, b_from)
            tl.store(number + i_h * N + o_n, tl.sum(b_n, 1), mask=m_row)
            p_slot += o_n[:, None] * k + tl.cumsum(b_n, 1) - b_n
        emit(b_0, b_1, b_2, b_3, b_from, p_slot, 0, o_g, o_n[:, None], p_sel, N, rotation, G, LOW, BITS)
        if R > 4:
            emit(b_4, b_5, b_6, b_7, b_from, p_slot, 4, o_g, o_n[:, None], p_sel, N, rotation, G, LOW, BITS)


def stream(
    queries: Tensor, desc: Tensor, shot_mask: Tensor | None, into: Tensor | SelectionIndices, plan: DeviceTable,
    heads: range,
    *, signs: bool, causal: bool, precision: str, config: BlockSize, by: str = "topk_stream",
) -> None:  # fmt: skip
    """As `route`, for any number of chunks. Into bits [heads, W, N], which are overwritten, or into a fresh choice.
    by: the file whose kernel makes the first deal."""
    n, d = plan.length, desc.shape[-1]
    rows, groups = config.block_m, config.block_n
    num_blocks, tiles = -(-plan.chunks // groups), -(-n // rows)
    in_registers = by == "topk_registers_sm90"
    if isinstance(into, Tensor):
        out = (into if in_registers else into.zero_()), into, into
    else:
        out = into.indices, into.indices, into.number
    retry_rows = out[0].new_empty(RETRIES + 1, len(heads), n)
    retry_count = out[0].new_zeros(RETRIES + 1, len(heads))
    threshold = torch.empty(len(heads), n, dtype=torch.float32, device=queries.device)
    again = min(tiles, max(1, 4 * processors(queries) // len(heads)))  # programs a head for the few that come again
    inputs = queries, desc, plan.chunk, plan.row, out[0] if shot_mask is None else shot_mask
    sizes = (
        *queries.stride()[:2],
        n,
        plan.chunks,
        0 if shot_mask is None else shot_mask.shape[-1],
        plan.words,
        heads.start,
    )
    how = dict(
        D=d, DP=max(16, triton.next_power_of_2(d)), G=groups, BITS=isinstance(into, Tensor),
        SIGNED=signs, CAUSAL=causal, SHOT_MASK=shot_mask is not None, PRECISION=precision, num_stages=config.stages,
    )  # fmt: skip
    low = max(64, triton.next_power_of_2(num_blocks + 1)) - 1  # one kernel for all common lengths
    first = PLACES if plan.top_k <= groups // 2 else 2 * PLACES
    num_retries = RETRIES
    args = queries, desc, shot_mask, *out, threshold, retry_rows[0], retry_count[0], plan, heads
    if in_registers:
        from . import topk_registers_sm90

        topk_registers_sm90.choose(
            queries,
            desc,
            shot_mask,
            out[0],
            threshold,
            retry_rows[0],
            retry_count[0],
            plan,
            heads,
            signs=signs,
            causal=causal,
        )
        num_retries = 0
    elif by == "topk_filter_sm90":
        from . import topk_filter_sm90

        topk_filter_sm90.filter_topk(*args, signs=signs, causal=causal, as_bits=how["BITS"])
    elif by == "topk_stream_sm90":
        from . import topk_stream_sm90

        topk_stream_sm90.select(
            *args, signs=signs, causal=causal, rotation=groups // 2 - 5, low=low, as_bits=how["BITS"]
        )
    else:
        moc_select_stream[(tiles * len(heads),)](
            *inputs, plan.max_shot_per_block(groups), *out, threshold,
            retry_rows[0], retry_count[0], retry_rows[0], retry_count[0],
            *sizes, plan.top_k, num_blocks, groups // 2 - 5, tiles, BM=rows, maxnreg=config.registers,
            R=first, LOW=low, RETRY=False, num_warps=config.warps, **how,
        )  # fmt: skip
    for i in range(num_retries):
        moc_select_stream[(again * len(heads),)](
            *inputs, plan.max_shot_per_block(groups), *out, threshold, retry_rows[i], retry_count[i], retry_rows[i + 1],
            retry_count[i + 1],
            *sizes, plan.top_k, num_blocks, groups // 4 + 3 + 4 * i, again, BM=rows,
            R=2 * PLACES, LOW=low, RETRY=True, num_warps=2 * config.warps, **how,
        )  # fmt: skip
    moc_select_exact[(again * len(heads),)](
        *inputs, *out, threshold, retry_rows[num_retries], retry_count[num_retries], *sizes, plan.top_k, again,
        BM=16, num_warps=4, **how | {"G": max(32, groups)},
    )  # fmt: skip
