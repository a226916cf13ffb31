"""Query blocks whose rows share a list (`lists="union"`) for Hopper, in Gluon.

As in `pipeline_sm90.py`; here the two consumer warpgroups are neighbouring query blocks, whose lists overlap mostly.
Steps that only one of them listed the other skips (`unions.Steps`).
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
)

from ...health import watched
from ..device_table import DeviceTable
from ..lib.gluon_compat import copy_block, thread_barrier
from ..lib.launch import processors
from ..lib.pipeline_sm90 import (
    BOTH,
    KEYS,
    ROWS,
    added,
    first_scores,
    last_values,
    mma_layout,
    next_scores,
    pass_by,
    pipeline,
    row_layout,
    softmax,
    tma_descriptors,
)
from ..lists.unions import UnionLists, steps_of
from ..tiles import Blocks, Tiles
from .combine import Partial

STAGES = 3


@gluon.jit
def _pieces(desc, p_start, o_row, o_col, full, to, step, BN: gl.constexpr, CS: gl.constexpr):
    for e in gl.static_range(BN // CS):
        o_s = gl.load(p_start + step * (BN // CS) + e)
        copy_block(desc, [o_row + o_s, o_col], full, to.slice(e * CS, CS))


@gluon.jit
def _producer(
    loads, keys, values, span, block, start, count, H, tiles, work, most, bh_first,
    BN: gl.constexpr, CS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    k_desc, v_desc, k_piece, v_piece, k_b, k_h, k_c, v_b, v_h, v_c = loads
    k_smem, k_full, k_empty = keys
    v_smem, v_full, v_empty = values
    i = 0
    for i_w in range(gl.program_id(0), work, gl.num_programs(0)):
        i_t, i_bh = i_w % tiles, bh_first + i_w // tiles
        i_b, i_h = i_bh // H, i_bh % H
        o_k, o_v, c_k, c_v = i_b * k_b + i_h * k_h, i_b * v_b + i_h * v_h, i_h * k_c, i_h * v_c
        i_first, i_last = gl.load(span + 2 * i_t), gl.load(span + 2 * i_t + 1)
        n_list = gl.load(count + i_w)
        p_start = start + gl.cast(i_w, gl.int64) * (most * (BN // CS))
        n_seen = i_last - i_first
        for j in range(0, n_seen + n_list):
            stage, phase = i % STAGES, (i // STAGES) & 1
            k_to, v_to = k_smem.index(stage), v_smem.index(stage)
            o_s = gl.load(block + 2 * (i_first + j), mask=j < n_seen, other=0)
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            if j < n_seen:
                copy_block(k_desc, [o_k + o_s, c_k], k_full.index(stage), k_to)
            else:
                _pieces(k_piece, p_start, o_k, c_k, k_full.index(stage), k_to, j - n_seen, BN, CS)
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            if j < n_seen:
                copy_block(v_desc, [o_v + o_s, c_v], v_full.index(stage), v_to)
            else:
                _pieces(v_piece, p_start, o_v, c_v, v_full.index(stage), v_to, j - n_seen, BN, CS)
            i += 1


@gluon.jit
def _limit(block, step, j, i_first, n_seen, n_steps, BN: gl.constexpr, CS: gl.constexpr):
    """How many tokens of every piece of step j this warpgroup may see, 8 bits a piece."""
    limit = gl.load(step + 2 * (j - n_seen), mask=(j >= n_seen) & (j < n_steps), other=0)
    if j < n_seen:  # a range's step
        tokens = gl.load(block + 2 * (i_first + j) + 1)
        for e in gl.static_range(BN // CS):
            limit |= gl.minimum(gl.maximum(tokens - e * CS, 0), CS).to(gl.int64) << (8 * e)
    return limit


@gluon.jit
def _weigh(b_s, limit, b_m, b_l, scale, BN: gl.constexpr, CS: gl.constexpr, layout: gl.constexpr):
    """`softmax` of what may be seen."""
    whole: gl.constexpr = CS * (256 ** (BN // CS) - 1) // 255
    if limit != whole:
        o_j = gl.arange(0, BN, gl.SliceLayout(0, layout))
        b_len = ((limit >> (8 * (o_j // CS))) & 255).to(gl.int32)
        b_s = gl.where((o_j % CS < b_len)[None, :], b_s, float("-inf"))
    return softmax(b_s, b_m, b_l, scale, False)


@gluon.jit
def _consumer(
    GROUP: gl.constexpr, call, q_smem, keys, values,
    D: gl.constexpr, BN: gl.constexpr, CS: gl.constexpr, TAIL: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    q, first, stop, span, block, step, count, out, tail, tail_lse, strides, sizes, bh_first, scale = call
    sq_b, sq_h, sq_n, so_b, so_h, so_n = strides
    H, N, tiles, work, most = sizes
    dtype: gl.constexpr = q.dtype.element_ty
    by_row: gl.constexpr = row_layout(D)
    s_layout: gl.constexpr = mma_layout(BN)
    o_layout: gl.constexpr = mma_layout(D)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    rows: gl.constexpr = gl.SliceLayout(1, by_row)
    s_rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    o_d = gl.arange(0, D, gl.SliceLayout(0, by_row))
    b_none = gl.full([ROWS, BN], 0.0, gl.float32, s_layout)
    i = 0
    for i_w in range(gl.program_id(0), work, gl.num_programs(0)):
        i_t, i_local = i_w % tiles, i_w // tiles
        i_b, i_h = ((bh_first + i_local) // H).to(gl.int64), ((bh_first + i_local) % H).to(gl.int64)
        o_n = gl.load(first + i_t) + GROUP * ROWS + gl.arange(0, ROWS, rows)
        m_n = (o_n < gl.load(stop + i_t))[:, None]
        p_q = q + i_b * sq_b + i_h * sq_h + o_n.to(gl.int64)[:, None] * sq_n + o_d[None, :]
        thread_barrier()
        q_smem.store(gl.load(p_q, mask=m_n, other=0.0))
        fence_async_shared()
        thread_barrier()
        i_first, i_last = gl.load(span + 2 * i_t), gl.load(span + 2 * i_t + 1)
        n_list, n_seen = gl.load(count + i_w), i_last - i_first
        n_steps = n_seen + n_list
        p_step = step + gl.cast(i_w, gl.int64) * (most * 2) + GROUP

        b_m = gl.full([ROWS], float("-inf"), gl.float32, s_rows)
        b_l = gl.full([ROWS], 0.0, gl.float32, s_rows)
        b_acc = gl.full([ROWS, D], 0.0, gl.float32, o_layout)
        limit = _limit(block, p_step, 0, i_first, n_seen, n_steps, BN, CS)
        after = _limit(block, p_step, 1, i_first, n_seen, n_steps, BN, CS)
        stage, phase = i % STAGES, (i // STAGES) & 1
        b_s = first_scores(q_smem, b_none, keys, stage, phase)
        b_w, b_alpha, b_m, b_l = _weigh(b_s, limit, b_m, b_l, scale, BN, CS, s_layout)
        b_p = gl.convert_layout(b_w.to(dtype), p_layout)
        idle = False
        for j in range(1, n_steps):
            limit = after
            after = _limit(block, p_step, j + 1, i_first, n_seen, n_steps, BN, CS)
            v_stage, v_phase = stage, phase
            i += 1
            stage, phase = i % STAGES, (i // STAGES) & 1
            if limit == 0:  # only the other's: from here on nothing waits to be added
                pass_by(keys, stage, phase)
                if idle:
                    pass_by(values, v_stage, v_phase)
                else:
                    b_acc = added(b_p, last_values(b_p, b_acc, values, v_stage, v_phase), values, v_stage)
                    b_p = gl.full([ROWS, BN], 0.0, dtype, p_layout)
                idle = True
            else:
                b_s, b_acc = next_scores(q_smem, b_none, b_p, b_acc, keys, values, stage, phase, v_stage, v_phase)
                b_w, b_alpha, b_m, b_l = _weigh(b_s, limit, b_m, b_l, scale, BN, CS, s_layout)
                b_acc = added(b_p, b_acc, values, v_stage)
                b_acc = b_acc * gl.convert_layout(b_alpha, o_rows)[:, None]
                b_p = gl.convert_layout(b_w.to(dtype), p_layout)
                idle = False
        b_acc = added(b_p, last_values(b_p, b_acc, values, stage, phase), values, stage)
        i += 1

        b_o = b_acc * (1.0 / gl.convert_layout(b_l, o_rows))[:, None]
        thread_barrier()
        q_smem.store(b_o.to(dtype))
        thread_barrier()
        b_o = q_smem.load(by_row)
        if TAIL:
            b_lse = gl.convert_layout(b_m + gl.log2(b_l), rows)
            o_out = i_local.to(gl.int64) * N + o_n
            b_part = gl.load(tail_lse + o_out, mask=o_n < gl.load(stop + i_t), other=float("-inf"))
            b_t = gl.load(tail + o_out[:, None] * D + o_d[None, :], mask=m_n, other=0.0)
            b_new = 1.0 / (1.0 + gl.exp2(b_lse - b_part))  # share of the tail
            b_o = (b_o.to(gl.float32) * (1.0 - b_new)[:, None] + b_t.to(gl.float32) * b_new[:, None]).to(dtype)
        p_out = out + i_b * so_b + i_h * so_h + o_n.to(gl.int64)[:, None] * so_n + o_d[None, :]
        gl.store(p_out, b_o, mask=m_n)


@gluon.jit(do_not_specialize=["bh_first", "work", "tiles", "most"])
def moc_attend_union_sm90(
    q, k_desc, v_desc, k_piece, v_piece, first, stop, span, block, start, step, count, out, tail, tail_lse,
    sq_b, sq_h, sq_n, k_b, k_h, k_c, v_b, v_h, v_c, so_b, so_h, so_n, H, N, tiles, work, most, bh_first, scale,
    D: gl.constexpr, BN: gl.constexpr, CS: gl.constexpr, TAIL: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q.dtype.element_ty
    keys, values = pipeline(k_desc, STAGES), pipeline(v_desc, STAGES)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    q_smem = gl.allocate_shared_memory(dtype, [2, ROWS, D], q_layout)
    strides, sizes = (sq_b, sq_h, sq_n, so_b, so_h, so_n), (H, N, tiles, work, most)
    call = q, first, stop, span, block, step, count, out, tail, tail_lse, strides, sizes, bh_first, scale
    loads = k_desc, v_desc, k_piece, v_piece, k_b, k_h, k_c, v_b, v_h, v_c
    gl.warp_specialize(
        [
            (_consumer, (0, call, q_smem.index(0), keys, values, D, BN, CS, TAIL, STAGES)),
            (_consumer, (1, call, q_smem.index(1), keys, values, D, BN, CS, TAIL, STAGES)),
            (_producer, (loads, keys, values, span, block, start, count, H, tiles, work, most, bh_first,
                         BN, CS, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@watched("union_sm90")
def attend(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, plan: DeviceTable, tiles: Tiles, blocks: Blocks, lists: UnionLists,
    heads: range, tail: Partial | None, *, scale: float,
) -> None:  # fmt: skip
    """Write out [B, H, N, D] at the rows of tiles of BOTH rows. lists: from `union_lists` with `pairs`; scale in log2
    units."""
    _, h, n, d = q.shape
    sources, steps = tma_descriptors(k, v, KEYS, lists.pieces.size)
    work = tiles.count * len(heads)
    listed = steps_of(lists, KEYS // lists.pieces.size)
    moc_attend_union_sm90[(min(processors(q), work),)](
        q, *sources, tiles.first, tiles.stop, blocks.span, blocks.block, listed.start, listed.seen, listed.number, out,
        *((tail.out, tail.lse) if tail else (q, q)), *q.stride()[:3], *steps, *out.stride()[:3], h, n, tiles.count,
        work, listed.most, heads.start, scale,
        D=d, BN=KEYS, CS=lists.pieces.size, TAIL=tail is not None, STAGES=STAGES, num_warps=4,
    )  # fmt: skip


assert BOTH == 2 * ROWS.value
