"""Query blocks and their hot chunks, those that many neighbouring rows chose (`hot_chunks.py`), for Hopper, in Gluon.

As in `pipeline_sm90.py`: the producer warp loads the chunks of 128 rows, and each consumer warpgroup computes those
that its own 64 rows chose, masked for rows that did not. The running softmax starts from the row's tail.
"""

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
from ..dataflow import HOT_KEYS
from ..device_table import DeviceTable
from ..lib.gluon_compat import copy_block, copy_rows, thread_barrier
from ..lib.launch import processors
from ..lib.pipeline_sm90 import ROWS, mma_layout, pipeline, row_layout, tma_descriptors
from ..lists.hot_chunks import HotChunks
from .combine import Partial, new_partial

KEYS = HOT_KEYS
STAGES = 4


@gluon.jit
def _producer(
    loads, blocks, entry, count, H, tiles, work, width, bh_first, STAGES: gl.constexpr,
):  # fmt: skip
    k_desc, v_desc, k_b, k_h, k_c, v_b, v_h, v_c = loads
    k_smem, v_smem, full, empty = blocks
    i = 0
    for i_w in range(gl.program_id(0), work, gl.num_programs(0)):
        i_b, i_h = (bh_first + i_w // tiles) // H, (bh_first + i_w // tiles) % H
        p_entry = entry + gl.cast(i_w, gl.int64) * width * 8
        for j in range(0, gl.load(count + i_w)):
            stage, phase = i % STAGES, (i // STAGES) & 1
            o_s = gl.load(p_entry + 8 * j)
            mbarrier.wait(empty.index(stage), phase ^ 1)
            mbarrier.expect(full.index(stage), 2 * k_desc.block_type.nbytes)
            copy_block(k_desc, [i_b * k_b + i_h * k_h + o_s, i_h * k_c], full.index(stage), k_smem.index(stage))
            copy_block(v_desc, [i_b * v_b + i_h * v_h + o_s, i_h * v_c], full.index(stage), v_smem.index(stage))
            i += 1


@gluon.jit
def _chose(low, high, o_r):
    """Bits of 64 rows, one after another."""
    return (gl.where(o_r < 32, low, high) >> (o_r & 31)) & 1 > 0


@gluon.jit
def _subtract(
    q_smem, m_smem, means, p_entry, n, i_bh, b_acc, b_m, b_l, scale, C,
    GROUP: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    """Take the summaries of what a row chose off again, sixteen chunks at a time, as `gather._subtract` does."""
    mean_k, mean_v, weight = means
    by_row: gl.constexpr = row_layout(D)
    o_layout: gl.constexpr = mma_layout(D)
    x_layout: gl.constexpr = mma_layout(16)
    rows: gl.constexpr = gl.SliceLayout(1, x_layout)
    o_r = gl.arange(0, ROWS, rows)[:, None]
    o_x = gl.arange(0, 16, gl.SliceLayout(0, x_layout))
    o_e = gl.arange(0, 16, gl.SliceLayout(1, by_row))
    o_d = gl.arange(0, D, gl.SliceLayout(0, by_row))
    b_none = gl.full([ROWS, 16], 0.0, gl.float32, x_layout)
    b_top = gl.convert_layout(b_m, rows)
    b_top = gl.where(b_top == float("-inf"), 0.0, b_top)
    for j in range(0, n, 16):
        b_c = gl.load(p_entry + (j + o_e) * 8 + 2, mask=j + o_e < n, other=0).to(gl.int64)
        o_m = ((gl.cast(i_bh, gl.int64) * C + b_c) * D)[:, None] + o_d[None, :]
        thread_barrier()
        copy_rows(m_smem.index(0), mean_k + o_m)
        copy_rows(m_smem.index(1), mean_v + o_m)
        async_copy.commit_group()
        p_x = p_entry + (j + o_x) * 8
        m_x = j + o_x < n
        b_bias = gl.load(weight + gl.load(p_x + 2, mask=m_x, other=0), mask=m_x, other=float("-inf"))
        b_low = gl.load(p_x + 4 + 2 * GROUP, mask=m_x, other=0)
        b_high = gl.load(p_x + 5 + 2 * GROUP, mask=m_x, other=0)
        b_on = _chose(b_low[None, :], b_high[None, :], o_r)
        async_copy.wait_group(0)
        fence_async_shared()
        thread_barrier()
        b_x = warpgroup_mma(q_smem, m_smem.index(0).permute((1, 0)), b_none, use_acc=False)
        b_x = gl.where(b_on, gl.exp2(b_x * scale + b_bias[None, :] - b_top[:, None]), 0.0)
        b_l -= gl.convert_layout(gl.sum(b_x, 1), b_l.type.layout)
        b_x = gl.convert_layout((-b_x).to(q_smem.dtype), gl.DotOperandLayout(0, o_layout, 2))
        b_acc = warpgroup_mma(b_x, m_smem.index(1), b_acc)
    return b_acc, b_l


@gluon.jit
def _consumer(
    GROUP: gl.constexpr, call, q_smem, blocks, m_smem,
    D: gl.constexpr, BN: gl.constexpr, TAIL: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    q, means, entry, count, out, lse, sq_b, sq_h, sq_n, H, N, C, tiles, work, width, bh_first, scale = call
    k_smem, v_smem, full, empty = blocks
    dtype: gl.constexpr = q.dtype.element_ty
    by_row: gl.constexpr = row_layout(D)
    s_layout: gl.constexpr = mma_layout(BN)
    o_layout: gl.constexpr = mma_layout(D)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    s_rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    o_d = gl.arange(0, D, gl.SliceLayout(0, by_row))
    o_j = gl.arange(0, BN, gl.SliceLayout(0, s_layout))[None, :]
    o_s = gl.arange(0, ROWS, s_rows)
    b_none = gl.full([ROWS, BN], 0.0, gl.float32, s_layout)
    i = 0
    for i_w in range(gl.program_id(0), work, gl.num_programs(0)):
        i_t, i_local = i_w % tiles, i_w // tiles
        n = gl.load(count + i_w)
        if n > 0 or not TAIL:  # else the tail stays as it is
            i_b, i_h = ((bh_first + i_local) // H).to(gl.int64), ((bh_first + i_local) % H).to(gl.int64)
            first = i_t * 2 * ROWS + GROUP * ROWS
            o_r = first + gl.arange(0, ROWS, gl.SliceLayout(1, by_row))
            m_r = (o_r < N)[:, None]
            p_entry = entry + gl.cast(i_w, gl.int64) * width * 8
            p_out = out + (i_local.to(gl.int64) * N + o_r)[:, None] * D + o_d[None, :]
            p_lse = lse + i_local.to(gl.int64) * N + first + o_s
            b_m = gl.full([ROWS], float("-inf"), gl.float32, s_rows)
            b_l = gl.full([ROWS], 0.0, gl.float32, s_rows)
            b_acc = gl.full([ROWS, D], 0.0, gl.float32, o_layout)
            thread_barrier()
            if TAIL:  # whole powers of two, as in `tail.py`
                b_part = gl.load(p_lse, mask=first + o_s < N, other=float("-inf"))
                b_m = gl.ceil(b_part)
                b_l = gl.where(b_part == float("-inf"), 0.0, gl.exp2(b_part - b_m))
                q_smem.store(gl.load(p_out, mask=m_r, other=0.0))
                thread_barrier()
                b_acc = q_smem.load(o_layout).to(gl.float32) * gl.convert_layout(b_l, o_rows)[:, None]
                thread_barrier()
            p_q = q + i_b * sq_b + i_h * sq_h + o_r.to(gl.int64)[:, None] * sq_n + o_d[None, :]
            q_smem.store(gl.load(p_q, mask=m_r, other=0.0))
            fence_async_shared()
            thread_barrier()

            p_rows = p_entry + 4 + 2 * GROUP
            next_len = gl.load(p_entry + 1)
            next_low, next_high = gl.load(p_rows), gl.load(p_rows + 1)
            for j in range(0, n):
                b_len, low, high = next_len, next_low, next_high
                more = j + 1 < n
                next_len = gl.load(p_entry + 8 * j + 9, mask=more, other=0)
                next_low = gl.load(p_rows + 8 * j + 8, mask=more, other=0)
                next_high = gl.load(p_rows + 8 * j + 9, mask=more, other=0)
                stage, phase = i % STAGES, (i // STAGES) & 1
                mbarrier.wait(full.index(stage), phase)
                if low | high != 0:
                    b_s = warpgroup_mma(q_smem, k_smem.index(stage).permute((1, 0)), b_none, use_acc=False)
                    if b_len < BN:
                        b_s = gl.where(o_j < b_len, b_s, float("-inf"))
                    b_on = _chose(low, high, o_s)
                    b_top = gl.max(b_s, 1) * scale
                    if TAIL:
                        b_top = gl.ceil(b_top)
                    b_top = gl.where(b_on, gl.maximum(b_m, b_top), b_m)
                    b_w = gl.exp2(b_s * scale - gl.where(b_on, b_top, float("inf"))[:, None])
                    b_alpha = gl.where(b_top == b_m, 1.0, gl.exp2(b_m - b_top))
                    b_l = b_l * b_alpha + gl.sum(b_w, 1)
                    b_m = b_top
                    b_acc = b_acc * gl.convert_layout(b_alpha, o_rows)[:, None]
                    b_p = gl.convert_layout(b_w.to(dtype), p_layout)
                    b_acc = warpgroup_mma(b_p, v_smem.index(stage), b_acc)
                mbarrier.arrive(empty.index(stage))
                i += 1
            if TAIL:
                b_acc, b_l = _subtract(
                    q_smem, m_smem, means, p_entry, n, bh_first + i_local, b_acc, b_m, b_l, scale, C, GROUP, D,
                )  # fmt: skip

            b_one = gl.where(b_l == 0.0, 1.0, b_l)
            b_o = b_acc * (1.0 / gl.convert_layout(b_one, o_rows))[:, None]
            thread_barrier()
            q_smem.store(b_o.to(dtype))
            thread_barrier()
            gl.store(p_out, q_smem.load(by_row), mask=m_r)
            gl.store(p_lse, b_m + gl.log2(b_one), mask=first + o_s < N)


@gluon.jit(do_not_specialize=["bh_first", "work", "tiles"])
def moc_attend_hot_chunks_sm90(
    q, k_desc, v_desc, mean_k, mean_v, weight, entry, count, out, lse,
    sq_b, sq_h, sq_n, k_b, k_h, k_c, v_b, v_h, v_c, H, N, C, tiles, work, width, bh_first, scale,
    D: gl.constexpr, BN: gl.constexpr, TAIL: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q.dtype.element_ty
    k_smem, full, empty = pipeline(k_desc, STAGES)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, BN, D], v_desc.layout)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    q_smem = gl.allocate_shared_memory(dtype, [2, ROWS, D], q_layout)
    m_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([16, D], dtype)
    m_0 = gl.allocate_shared_memory(dtype, [2, 16, D], m_layout)
    m_1 = gl.allocate_shared_memory(dtype, [2, 16, D], m_layout)
    blocks = k_smem, v_smem, full, empty
    means = mean_k, mean_v, weight
    call = q, means, entry, count, out, lse, sq_b, sq_h, sq_n, H, N, C, tiles, work, width, bh_first, scale
    loads = k_desc, v_desc, k_b, k_h, k_c, v_b, v_h, v_c
    gl.warp_specialize(
        [
            (_consumer, (0, call, q_smem.index(0), blocks, m_0, D, BN, TAIL, STAGES)),
            (_consumer, (1, call, q_smem.index(1), blocks, m_1, D, BN, TAIL, STAGES)),
            (_producer, (loads, blocks, entry, count, H, tiles, work, width, bh_first, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@watched("hot_chunks_sm90")
def attend(
    q: Tensor, k: Tensor, v: Tensor, summary: tuple[Tensor, Tensor] | None, popular: HotChunks, plan: DeviceTable,
    heads: range, tail: Partial | None, *, scale: float,
) -> Partial:  # fmt: skip
    """A partial per row over what it chose of the popular chunks, with its tail (which is overwritten), from which the
    summaries of those chunks are taken off. scale in log2 units."""
    _, h, n, d = q.shape
    assert (summary is None) == (tail is None)
    tail = tail or new_partial(q, len(heads))
    blocks, steps = tma_descriptors(k, v, KEYS)
    tiles = popular.count.shape[1]
    work = tiles * len(heads)
    moc_attend_hot_chunks_sm90[(min(processors(q), work),)](
        q, *blocks, *(summary or (q, q)), plan.weight, popular.entry, popular.count, tail.out, tail.lse,
        *q.stride()[:3], *steps, h, n, plan.chunks, tiles, work, popular.entry.shape[2], heads.start, scale,
        D=d, BN=KEYS, TAIL=summary is not None, STAGES=STAGES, num_warps=4,
    )  # fmt: skip
    return tail
