"""What the selections for Hopper share: a producer warp for descriptors, scores of a pass, and scores cut up as the PTX
that looks at them wants them (in Gluon; `pipeline_sm90.py`)."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from .gluon_compat import copy_block, thread_barrier
from .pipeline_sm90 import ROWS, mma_layout, row_layout


@gluon.jit
def producer(
    desc_tma, blocks, tiles, work, head, chunks, passes,
    G: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The descriptors that tiles meet, `passes` times G from `head` on, each head having `chunks` of them."""
    smem, full, empty = blocks
    i = 0
    for i_t in range(gl.program_id(0), work, gl.num_programs(0)):
        o_c = (head + i_t // tiles) * chunks
        for j in range(0, passes):
            stage, phase = i % STAGES, (i // STAGES) & 1
            mbarrier.wait(empty.index(stage), phase ^ 1)
            mbarrier.expect(full.index(stage), desc_tma.block_type.nbytes)
            copy_block(desc_tma, [o_c + j * G, 0], full.index(stage), smem.index(stage))
            i += 1


@gluon.jit
def take_queries(p_q, q_smem, first, s_n, N, D: gl.constexpr, SIGNED: gl.constexpr):
    """64 query rows from `first` on, twice side by side, or their positive and their negative parts."""
    by_row: gl.constexpr = row_layout(D)
    o_r = first + gl.arange(0, ROWS, gl.SliceLayout(1, by_row))
    o_d = gl.arange(0, D, gl.SliceLayout(0, by_row))
    b_q = gl.load(p_q + o_r.to(gl.int64)[:, None] * s_n + o_d[None, :], mask=(o_r < N)[:, None], other=0.0)
    thread_barrier()
    if SIGNED:
        b_f = b_q.to(gl.float32)
        q_smem.slice(0, D, 1).store(gl.maximum(b_f, 0.0).to(b_q.dtype))
        q_smem.slice(D, D, 1).store(gl.minimum(b_f, 0.0).to(b_q.dtype))
    else:
        q_smem.slice(0, D, 1).store(b_q)
        q_smem.slice(D, D, 1).store(b_q)
    fence_async_shared()
    thread_barrier()


@gluon.jit
def scores(q_smem, blocks, i, b_none, STAGES: gl.constexpr):
    """Scores [64, G] of pass i."""
    smem, full, empty = blocks
    stage = i % STAGES
    mbarrier.wait(full.index(stage), (i // STAGES) & 1)
    b_s = warpgroup_mma(q_smem, smem.index(stage).permute((1, 0)), b_none, use_acc=False, is_async=True)
    b_s = warpgroup_mma_wait(0, deps=[b_s])
    mbarrier.arrive(empty.index(stage))
    return b_s, i + 1


@gluon.jit
def halves(b, N: gl.constexpr):
    """[64, 2 * N] -> left and right [64, N], as matrix products are laid out."""
    b_left, b_right = b.reshape([64, 2, N]).permute((0, 2, 1)).split()
    layout: gl.constexpr = mma_layout(N)
    overflow_count = gl.convert_layout(b_left, layout, assert_trivial=True)
    return overflow_count, gl.convert_layout(b_right, layout, assert_trivial=True)


@gluon.jit
def quarters(b, N: gl.constexpr):
    b_left, b_right = halves(b, 2 * N)
    b_0, b_1 = halves(b_left, N)
    b_2, b_3 = halves(b_right, N)
    return b_0, b_1, b_2, b_3


@gluon.jit
def eighths(b_s):
    """Scores [64, 64] -> eight times [64, 8]."""
    b_left, b_right = halves(b_s, 32)
    return quarters(b_left, 8) + quarters(b_right, 8)
