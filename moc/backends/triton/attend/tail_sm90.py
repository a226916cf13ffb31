"""`tail.py` for Hopper, in Gluon: as in `pipeline_sm90.py`, with rows in order and pooled keys and values as the
keys."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
)

from ...health import watched
from ..device_table import STEP, DeviceTable
from ..lib import sortable
from ..lib.gluon_compat import copy_block, thread_barrier
from ..lib.launch import processors
from ..lib.pipeline_sm90 import (
    BOTH,
    ROWS,
    added,
    first_scores,
    last_values,
    mma_layout,
    next_scores,
    own_chunks,
    pipeline,
    row_layout,
    tma_descriptor,
)
from .combine import Partial, new_partial

KEYS = STEP
STAGES = 3

closed = gluon.jit(sortable.closed.fn)


@gluon.jit
def _producer(
    k_desc, v_desc, keys, values, C, tiles, work, bh_first,
    BN: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    k_smem, k_full, k_empty = keys
    v_smem, v_full, v_empty = values
    i = 0
    for i_t in range(gl.program_id(0), work, gl.num_programs(0)):
        o_c = (bh_first + i_t // tiles) * C
        for j in range(0, C, BN):
            stage, phase = i % STAGES, (i // STAGES) & 1
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            copy_block(k_desc, [o_c + j, 0], k_full.index(stage), k_smem.index(stage))
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            copy_block(v_desc, [o_c + j, 0], v_full.index(stage), v_smem.index(stage))
            i += 1


@gluon.jit
def _ahead(weight, passes, p_any, p_first, N, W, j, o_j, BN: gl.constexpr, MASK: gl.constexpr):
    """What `_weights` wants to know of a step, asked for before its products are sent off -> (log2 lengths, what
    `closed` wants, a byte for every 32 summaries: whether any row chose one of them). p_first: the first row's bits."""
    chose = gl.to_tensor(0)
    b_bias = gl.load(weight + j + o_j)
    if MASK == "row":
        chose = gl.load(p_any + j // BN)
    if MASK == "tile":
        b_w = o_j * 0
        for w in gl.static_range(0, BN // 32):
            i_w = j // 32 + w
            b_w = gl.where(o_j // 32 == w, gl.load(p_first + i_w.to(gl.int64) * N, mask=i_w < W, other=0), b_w)
        b_bias = gl.where(((b_w >> (o_j & 31)) & 1) > 0, float("-inf"), b_bias)
    return b_bias, gl.load(passes + j // BN), chose


@gluon.jit
def _weights(
    b_s, b_bias, free, chose, j, b_m, b_l, scale, p_sel, chunk, N, C, m_n, b_first, b_last, b_shot,
    own_from, own_to, shot, BN: gl.constexpr, CAUSAL: gl.constexpr, MASK: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """A step of `tail.py`: scores of summaries j to j + BN -> (weights, factor for what came before, max, sum)."""
    o_j = gl.arange(0, BN, gl.SliceLayout(0, layout))
    o_c = j + o_j
    b_s = b_s * scale + b_bias[None, :]
    if MASK == "row":
        for w in gl.static_range(0, BN // 32):
            if (chose >> (8 * w)) & 255 != 0:
                b_w = gl.load(p_sel + (j // 32 + w) * N, mask=m_n, other=0)[:, None]
                # two shifts: the first is the same for all of a thread's columns, the second a constant in each
                b_on = ((b_w >> (o_j & 6)[None, :]) & (1 << (o_j & 25))[None, :]) != 0
                b_s = gl.where(b_on & (o_j // 32 == w)[None, :], float("-inf"), b_s)
    if closed(free, j, j + BN, own_from, own_to, shot, CAUSAL):
        b_s = gl.where((o_c[None, :] < b_first[:, None]) | (o_c[None, :] >= b_last[:, None]), b_s, float("-inf"))
        if CAUSAL:
            b_there = gl.load(chunk + 2 * C + o_c, mask=o_c < C, other=0)
            b_s = gl.where(b_there[None, :] <= b_shot[:, None], b_s, float("-inf"))
    b_top = gl.maximum(b_m, gl.ceil(gl.max(b_s, 1)))
    b_ref = gl.where(b_top == float("-inf"), 0.0, b_top)
    b_p = gl.exp2(b_s - b_ref[:, None])
    b_alpha = gl.exp2(b_m - b_ref)
    return b_p, b_alpha, b_top, b_l * b_alpha + gl.sum(b_p, 1)


@gluon.jit
def _consumer(
    GROUP: gl.constexpr, call, q_smem, keys, values,
    D: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr, MASK: gl.constexpr,
):  # fmt: skip
    q, tile_first, tile_stop, sel, some, chunk, row, weight, passes, out, lse, strides, sizes, bh_first, scale = call
    s_b, s_h, s_n = strides
    H, N, C, W, tiles, work = sizes
    dtype: gl.constexpr = q.dtype.element_ty
    by_row: gl.constexpr = row_layout(D)
    s_layout: gl.constexpr = mma_layout(BN)
    o_layout: gl.constexpr = mma_layout(D)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    s_rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    o_d = gl.arange(0, D, gl.SliceLayout(0, by_row))
    o_j = gl.arange(0, BN, gl.SliceLayout(0, s_layout))
    b_none = gl.full([ROWS, BN], 0.0, gl.float32, s_layout)
    i = 0
    for i_t in range(gl.program_id(0), work, gl.num_programs(0)):
        i_local = i_t // tiles
        i_bh = bh_first + i_local
        first, stop = gl.load(tile_first + i_t % tiles) + GROUP * ROWS, gl.load(tile_stop + i_t % tiles)
        o_r = first + gl.arange(0, ROWS, gl.SliceLayout(1, by_row))
        p_q = q + (i_bh // H).to(gl.int64) * s_b + (i_bh % H).to(gl.int64) * s_h + o_r.to(gl.int64)[:, None] * s_n
        thread_barrier()
        q_smem.store(gl.load(p_q + o_d[None, :], mask=(o_r < stop)[:, None], other=0.0))
        fence_async_shared()
        thread_barrier()

        o_n = first + gl.arange(0, ROWS, s_rows)
        m_n = o_n < stop
        b_first, b_last, b_shot, own_from, own_to, shot = own_chunks(row, o_n, m_n, N, C)
        p_sel = sel + i_local.to(gl.int64) * W * N + o_n
        p_first = sel + i_local.to(gl.int64) * W * N + gl.minimum(first, N - 1)
        p_any = some + (i_t * 2 + GROUP) * gl.cdiv(C, BN)

        b_m = gl.full([ROWS], float("-inf"), gl.float32, s_rows)
        b_l = gl.full([ROWS], 0.0, gl.float32, s_rows)
        b_acc = gl.full([ROWS, D], 0.0, gl.float32, o_layout)
        stage, phase = i % STAGES, (i // STAGES) & 1
        b_bias, free, chose = _ahead(weight, passes, p_any, p_first, N, W, 0, o_j, BN, MASK)
        b_s = first_scores(q_smem, b_none, keys, stage, phase)
        b_w, b_alpha, b_m, b_l = _weights(
            b_s, b_bias, free, chose, 0, b_m, b_l, scale, p_sel, chunk, N, C, m_n, b_first, b_last, b_shot,
            own_from, own_to, shot, BN, CAUSAL, MASK, s_layout,
        )  # fmt: skip
        b_p = gl.convert_layout(b_w.to(dtype), p_layout)
        for j in range(BN, C, BN):
            v_stage, v_phase = stage, phase
            i += 1
            stage, phase = i % STAGES, (i // STAGES) & 1
            b_bias, free, chose = _ahead(weight, passes, p_any, p_first, N, W, j, o_j, BN, MASK)
            b_s, b_acc = next_scores(q_smem, b_none, b_p, b_acc, keys, values, stage, phase, v_stage, v_phase)
            b_w, b_alpha, b_m, b_l = _weights(
                b_s, b_bias, free, chose, j, b_m, b_l, scale, p_sel, chunk, N, C, m_n, b_first, b_last, b_shot,
                own_from, own_to, shot, BN, CAUSAL, MASK, s_layout,
            )  # fmt: skip
            b_acc = added(b_p, b_acc, values, v_stage)
            b_acc = b_acc * gl.convert_layout(b_alpha, o_rows)[:, None]
            b_p = gl.convert_layout(b_w.to(dtype), p_layout)
        b_acc = added(b_p, last_values(b_p, b_acc, values, stage, phase), values, stage)
        i += 1

        b_l = gl.where(b_l == 0.0, 1.0, b_l)
        b_o = b_acc * (1.0 / gl.convert_layout(b_l, o_rows))[:, None]
        thread_barrier()
        q_smem.store(b_o.to(dtype))
        thread_barrier()
        o_out = i_local.to(gl.int64) * N
        gl.store(out + (o_out + o_r)[:, None] * D + o_d[None, :], q_smem.load(by_row), mask=(o_r < stop)[:, None])
        gl.store(lse + o_out + o_n, b_m + gl.log2(b_l), mask=m_n)


@triton.jit(do_not_specialize=["words", "W"])
def moc_attend_tail_any(sel, some, N, W, words, BW: tl.constexpr):
    """Whether 64 rows chose any of 32 chunks [heads, T, words], from bits [heads, W, N]."""
    i_t, i_h = tl.program_id(0), tl.program_id(1)
    o_n = i_t * 64 + tl.arange(0, 64)
    p_sel = sel + i_h.to(tl.int64) * W * N + o_n[None, :]
    for w in range(0, words, BW):
        o_w = w + tl.arange(0, BW)
        b_w = tl.load(p_sel + (o_w.to(tl.int64) * N)[:, None], mask=(o_n < N)[None, :] & (o_w < W)[:, None], other=0)
        b_any = tl.max((b_w != 0).to(tl.int32), 1)
        tl.store(some + (i_h * tl.num_programs(0) + i_t) * words + o_w, b_any.to(tl.int8), mask=o_w < words)


@gluon.jit(do_not_specialize=["bh_first", "work", "tiles"])
def moc_attend_tail_sm90(
    q, k_desc, v_desc, tile_first, tile_stop, sel, some, chunk, row, weight, passes, out, lse,
    s_b, s_h, s_n, H, N, C, W, tiles, work, bh_first, scale,
    D: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr, MASK: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q.dtype.element_ty
    keys, values = pipeline(k_desc, STAGES), pipeline(v_desc, STAGES)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    q_smem = gl.allocate_shared_memory(dtype, [2, ROWS, D], q_layout)
    strides, sizes = (s_b, s_h, s_n), (H, N, C, W, tiles, work)
    call = q, tile_first, tile_stop, sel, some, chunk, row, weight, passes, out, lse, strides, sizes, bh_first, scale
    gl.warp_specialize(
        [
            (_consumer, (0, call, q_smem.index(0), keys, values, D, BN, STAGES, CAUSAL, MASK)),
            (_consumer, (1, call, q_smem.index(1), keys, values, D, BN, STAGES, CAUSAL, MASK)),
            (_producer, (k_desc, v_desc, keys, values, C, tiles, work, bh_first, BN, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@watched("tail_sm90")
def tail_of(
    q: Tensor, mean_k: Tensor, mean_v: Tensor, sel: Tensor, plan: DeviceTable, heads: range, *, scale: float,
    causal: bool, mask: str,
) -> Partial:  # fmt: skip
    """As `tail.tail_of`. mask "tile": by the bits of the first of 64 rows."""
    _, h, n, d = q.shape
    tail = new_partial(q, len(heads))
    blocks = [tma_descriptor(x, [x.shape[0] * x.shape[1], d], d, KEYS) for x in (mean_k, mean_v)]
    tiles = plan.tiles(BOTH, "routed" if mask == "tile" else "all")
    work = tiles.count * len(heads)
    some = plan.chunk
    if mask == "row":
        some = torch.empty(len(heads), 2 * tiles.count, -(-plan.chunks // KEYS), 4, dtype=torch.int8, device=q.device)
        words = some.shape[2] * 4
        moc_attend_tail_any[(2 * tiles.count, len(heads))](
            sel, some, n, plan.words, words, BW=triton.next_power_of_2(min(words, 64)), num_warps=4
        )
        some = some.view(torch.int32)
    moc_attend_tail_sm90[(min(processors(q), work),)](
        q, *blocks, tiles.first, tiles.stop, sel, some, plan.chunk, plan.row, plan.weight,
        plan.max_shot_per_block(KEYS),
        tail.out, tail.lse, *q.stride()[:3], h, n, plan.chunks, plan.words, tiles.count, work, heads.start, scale,
        D=d, BN=KEYS, STAGES=STAGES, CAUSAL=causal, MASK=mask, num_warps=4,
    )  # fmt: skip
    return tail
