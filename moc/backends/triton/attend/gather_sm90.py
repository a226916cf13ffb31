"""`gather.py` for Hopper, in Gluon (`pipeline_sm90.py`): while a block is computed, the next block's query rows are
prefetched."""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
)

from ...health import watched
from ..device_table import DeviceTable
from ..lib.gluon_compat import copy_block, copy_rows, thread_barrier
from ..lib.launch import processors
from ..lib.pipeline_sm90 import (
    KEYS,
    ROWS,
    added,
    first_scores,
    last_values,
    mma_layout,
    next_scores,
    pipeline,
    row_layout,
    softmax,
    tma_descriptor,
    tma_descriptors,
)
from ..lists.csr import ChunkCSR
from . import gather as plain
from .combine import Partial, new_slots

STAGES = 2

where = gluon.jit(plain.where.fn)


@gluon.jit
def _where(tiles, i_t, C):
    tile, _, stop, most, first, slots = tiles
    return where(tile, i_t, stop, most, first, C, slots)


@gluon.jit
def _producer(
    loads, keys, values, means, chunk, tiles, H, C, bh_first,
    BN: gl.constexpr, STAGES: gl.constexpr, TAIL: gl.constexpr,
):  # fmt: skip
    k_desc, v_desc, mk_desc, mv_desc, k_b, k_h, k_c, v_b, v_h, v_c = loads
    k_smem, k_full, k_empty = keys
    v_smem, v_full, v_empty = values
    m_smem, m_full, m_empty = means
    i, turn = 0, 0
    for i_t in range(tiles[1] + gl.program_id(0), tiles[2], gl.num_programs(0)):
        i_local, i_c, _, _ = _where(tiles, i_t, C)
        i_b, i_h = (bh_first + i_local) // H, (bh_first + i_local) % H
        o_k = i_b * k_b + i_h * k_h + gl.load(chunk + i_c)
        o_v = i_b * v_b + i_h * v_h + gl.load(chunk + i_c)
        for j in range(0, gl.load(chunk + C + i_c), BN):
            stage, phase = i % STAGES, (i // STAGES) & 1
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            copy_block(k_desc, [o_k + j, i_h * k_c], k_full.index(stage), k_smem.index(stage))
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            copy_block(v_desc, [o_v + j, i_h * v_c], v_full.index(stage), v_smem.index(stage))
            i += 1
        if TAIL:
            mbarrier.wait(m_empty, turn ^ 1)
            mbarrier.expect(m_full, 2 * mk_desc.block_type.nbytes)
            o_m = (bh_first + i_local) * C + i_c
            copy_block(mk_desc, [o_m, 0], m_full, m_smem.index(0))
            copy_block(mv_desc, [o_m, 0], m_full, m_smem.index(1))
            turn ^= 1


@gluon.jit
def _entries(entry, b_from, b_to, GROUP: gl.constexpr, layout: gl.constexpr):
    """This warpgroup's entries of a tile, the first one where the list has ended -> (entries [64], valid [64])."""
    o_e = b_from + GROUP * ROWS + gl.arange(0, ROWS, layout)
    return gl.load(entry + o_e, mask=o_e < b_to, other=0), o_e < b_to


@gluon.jit
def _gather(q, q_smem, b_e, i_local, sq_b, sq_h, sq_n, H, bh_first, K: gl.constexpr, D: gl.constexpr,
            layout: gl.constexpr):  # fmt: skip
    i_b, i_h = ((bh_first + i_local) // H).to(gl.int64), ((bh_first + i_local) % H).to(gl.int64)
    o_d = gl.arange(0, D, gl.SliceLayout(0, layout))
    b_row = (b_e // K).to(gl.int64)
    p_q = q + i_b * sq_b + i_h * sq_h + b_row[:, None] * sq_n + o_d[None, :]
    copy_rows(q_smem, p_q)
    async_copy.commit_group()


@gluon.jit
def _subtract(b_q, m_smem, b_acc, b_m, b_l, scale, weight, D: gl.constexpr):
    """`gather._subtract`. m_smem [2, 16, D]: mean keys and values of this chunk and of the 15 after it, which have no
    weight: sixteen rows are the fewest that a product takes."""
    o_layout: gl.constexpr = mma_layout(D)
    x_layout: gl.constexpr = mma_layout(16)
    b_x = gl.full([ROWS, 16], 0.0, gl.float32, x_layout)
    b_x = warpgroup_mma(b_q, m_smem.index(0).permute((1, 0)), b_x, use_acc=False)
    o_x = gl.arange(0, 16, gl.SliceLayout(0, x_layout))
    b_bias = gl.where(o_x == 0, weight, float("-inf"))
    rows: gl.constexpr = gl.SliceLayout(1, x_layout)
    b_x = gl.exp2(b_x * scale + b_bias[None, :] - gl.convert_layout(b_m, rows)[:, None])
    b_rest = 1.0 - gl.sum(b_x, 1) / gl.convert_layout(b_l, rows)
    b_x = gl.convert_layout((-b_x).to(b_q.dtype), gl.DotOperandLayout(0, o_layout, 2))
    return warpgroup_mma(b_x, m_smem.index(1), b_acc), b_rest


@gluon.jit
def _consumer(
    GROUP: gl.constexpr, call, q_smem, keys, values, means,
    K: gl.constexpr, D: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, TAIL: gl.constexpr,
):  # fmt: skip
    q, weight, chunk, entry, tiles, part, lse, sq_b, sq_h, sq_n, H, N, C, bh_first, scale = call
    dtype: gl.constexpr = q.dtype.element_ty
    by_row: gl.constexpr = row_layout(D)
    s_layout: gl.constexpr = mma_layout(BN)
    o_layout: gl.constexpr = mma_layout(D)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    rows: gl.constexpr = gl.SliceLayout(1, by_row)
    s_rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    step = gl.num_programs(0)
    m_smem, m_full, m_empty = means

    # entries and query rows of the first tile, entries of the second
    i_t = tiles[1] + gl.program_id(0)
    i_local, i_c, b_from, b_to = _where(tiles, i_t, C)
    b_e, m_e = _entries(entry, b_from, b_to, GROUP, rows)
    _gather(q, q_smem.index(0), b_e, i_local, sq_b, sq_h, sq_n, H, bh_first, K, D, by_row)
    n_local, n_c, n_from, n_to = _where(tiles, i_t + step, C)
    b_next, m_next = _entries(entry, n_from, n_to, GROUP, rows)
    i, turn, m_turn = 0, 0, 0
    while i_t < tiles[2]:
        async_copy.wait_group(0)
        fence_async_shared()
        thread_barrier()
        b_q = q_smem.index(turn)
        _gather(q, q_smem.index(turn ^ 1), b_next, n_local, sq_b, sq_h, sq_n, H, bh_first, K, D, by_row)
        l_local, l_c, l_from, l_to = _where(tiles, i_t + 2 * step, C)
        b_len = gl.load(chunk + C + i_c)

        b_m = gl.full([ROWS], float("-inf"), gl.float32, s_rows)
        b_l = gl.full([ROWS], 0.0, gl.float32, s_rows)
        b_none = gl.full([ROWS, BN], 0.0, gl.float32, s_layout)
        b_acc = gl.full([ROWS, D], 0.0, gl.float32, o_layout)
        o_j = gl.arange(0, BN, gl.SliceLayout(0, s_layout))[None, :]

        stage, phase = i % STAGES, (i // STAGES) & 1
        b_s = first_scores(b_q, b_none, keys, stage, phase)
        if b_len < BN:
            b_s = gl.where(o_j < b_len, b_s, float("-inf"))
        b_w, b_alpha, b_m, b_l = softmax(b_s, b_m, b_l, scale, TAIL)
        b_p = gl.convert_layout(b_w.to(dtype), p_layout)
        for j in range(BN, b_len, BN):
            v_stage, v_phase = stage, phase
            i += 1
            stage, phase = i % STAGES, (i // STAGES) & 1
            b_s, b_acc = next_scores(b_q, b_none, b_p, b_acc, keys, values, stage, phase, v_stage, v_phase)
            if j + BN > b_len:
                b_s = gl.where(o_j < b_len - j, b_s, float("-inf"))
            b_w, b_alpha, b_m, b_l = softmax(b_s, b_m, b_l, scale, TAIL)
            b_acc = added(b_p, b_acc, values, v_stage)
            b_acc = b_acc * gl.convert_layout(b_alpha, o_rows)[:, None]
            b_p = gl.convert_layout(b_w.to(dtype), p_layout)
        b_acc = last_values(b_p, b_acc, values, stage, phase)
        n2_e, m2_e = _entries(entry, l_from, l_to, GROUP, rows)
        b_acc = added(b_p, b_acc, values, stage)
        i += 1
        if TAIL:
            mbarrier.wait(m_full, m_turn)
            b_acc, b_rest = _subtract(b_q, m_smem, b_acc, b_m, b_l, scale, gl.load(weight + i_c), D)
            mbarrier.arrive(m_empty)
            m_turn ^= 1

        # the query rows are read: their place serves to turn the output into whole rows
        b_o = b_acc * (1.0 / gl.convert_layout(b_l, o_rows))[:, None]
        thread_barrier()
        b_q.store(b_o.to(dtype))
        thread_barrier()
        o_d = gl.arange(0, D, gl.SliceLayout(0, by_row))
        o_out = i_local.to(gl.int64) * N * K + b_e
        gl.store(part + o_out[:, None] * D + o_d[None, :], b_q.load(by_row), mask=m_e[:, None])
        b_lse = gl.convert_layout(b_m + gl.log2(b_l), rows)
        if TAIL:
            o_out *= 2
            gl.store(lse + o_out + 1, gl.convert_layout(b_rest, rows), mask=m_e)
        gl.store(lse + o_out, b_lse, mask=m_e)

        i_t += step
        turn ^= 1
        i_local, i_c, b_e, m_e = n_local, n_c, b_next, m_next
        n_local, n_c, b_next, m_next = l_local, l_c, n2_e, m2_e
    async_copy.wait_group(0)


@gluon.jit(do_not_specialize=["heads", "bh_first", "most", "head"])
def moc_attend_gather_sm90(
    q, k_desc, v_desc, mk_desc, mv_desc, weight, chunk, entry, tile, border, part, lse,
    sq_b, sq_h, sq_n, k_b, k_h, k_c, v_b, v_h, v_c, H, N, C, heads, bh_first, most, head, scale,
    K: gl.constexpr, D: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, TAIL: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q.dtype.element_ty
    keys, values = pipeline(k_desc, STAGES), pipeline(v_desc, STAGES)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    q_0 = gl.allocate_shared_memory(dtype, [2, ROWS, D], q_layout)
    q_1 = gl.allocate_shared_memory(dtype, [2, ROWS, D], q_layout)
    means = keys  # stand there, not looked at
    if TAIL:  # else no barrier may be made: the place of one that nobody waits for is given away, and when the GPU
        # turns to another process and back, it holds a barrier again
        m_smem = gl.allocate_shared_memory(dtype, [2, 16, D], mk_desc.layout)
        bars: gl.constexpr = mbarrier.MBarrierLayout()
        m_full = gl.allocate_shared_memory(gl.int64, [1], bars)
        m_empty = gl.allocate_shared_memory(gl.int64, [1], bars)
        mbarrier.init(m_full, count=1)
        mbarrier.init(m_empty, count=2)
        means = m_smem, m_full, m_empty
    tiles = tile, gl.load(border + head), gl.load(border + head + heads), most, head * C, N * K
    call = q, weight, chunk, entry, tiles, part, lse, sq_b, sq_h, sq_n, H, N, C, bh_first, scale
    loads = k_desc, v_desc, mk_desc, mv_desc, k_b, k_h, k_c, v_b, v_h, v_c
    gl.warp_specialize(
        [
            (_consumer, (0, call, q_0, keys, values, means, K, D, BN, STAGES, TAIL)),
            (_consumer, (1, call, q_1, keys, values, means, K, D, BN, STAGES, TAIL)),
            (_producer, (loads, keys, values, means, chunk, tiles, H, C, bh_first, BN, STAGES, TAIL)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@watched("gather_sm90")
def gather_chunks(
    q: Tensor, k: Tensor, v: Tensor, summary: tuple[Tensor, Tensor] | None, lists: ChunkCSR, plan: DeviceTable,
    heads: range, *, scale: float,
) -> Partial:  # fmt: skip
    """As `gather.gather_chunks`; lists of BOTH rows."""
    _, h, n, d = q.shape
    slots = new_slots(q, lists.number, plan.top_k, rest=summary is not None)
    keys, stages = (KEYS // 2, 2 * STAGES) if plan.longest <= KEYS // 2 else (KEYS, STAGES)
    blocks, steps = tma_descriptors(k, v, keys)
    for x in summary or (k, v):  # without a tail they are not looked at
        shape = [x.shape[0] * x.shape[1], d] if summary else [16, d]
        blocks.append(tma_descriptor(x, shape, d, 16))
    moc_attend_gather_sm90[(min(processors(q), lists.most),)](
        q, *blocks, plan.weight, plan.chunk, lists.entry, lists.tile, lists.border, slots.out, slots.lse,
        *q.stride()[:3], *steps, h, n, plan.chunks, len(heads), heads.start, lists.tile.shape[1], lists.head, scale,
        K=plan.top_k, D=d, BN=keys, STAGES=stages, TAIL=summary is not None, num_warps=4,
    )  # fmt: skip
    return slots
