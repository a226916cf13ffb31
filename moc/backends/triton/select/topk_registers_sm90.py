"""Register top-k for Hopper, in Gluon: all scores of 64 rows stay in a warpgroup's registers.

As in `pipeline_sm90.py` a producer warp loads what the warpgroups share, here descriptors. What a warp does with the
scores of its 16 rows is in `topk_registers_sm90_ptx.py`. Rows with equal scores at the border are left to the exact
top-k.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ...health import watched
from ..dataflow import PASS, REGISTERS_PASSES
from ..device_table import DeviceTable
from ..lib.launch import processors
from ..lib.pipeline_sm90 import ROWS, candidates, mma_layout, own_chunks, pipeline, tma_descriptor
from ..lib.select_sm90 import eighths, producer, scores, take_queries
from .topk_registers_sm90_ptx import choosing

CHUNKS = PASS
MOST = REGISTERS_PASSES
STAGES = 4

CHOOSING = tuple(choosing(p) for p in range(1, MOST + 1))
CHOOSE, OPERANDS = (tuple(x) for x in zip(*CHOOSING, strict=True))
CHOOSE, OPERANDS = gl.constexpr(CHOOSE), gl.constexpr(OPERANDS)


@gluon.jit
def _consumer(
    GROUP: gl.constexpr, GROUPS: gl.constexpr, call, q_smem, blocks,
    D: gl.constexpr, G: gl.constexpr, PASSES: gl.constexpr, STAGES: gl.constexpr,
    SIGNED: gl.constexpr, CAUSAL: gl.constexpr, SHOT_MASK: gl.constexpr,
):  # fmt: skip
    q, rules, sel, threshold, overflow_rows, overflow_count, s_bh, s_n, N, C, S, W, tiles, work, bh_first, k = call
    layout: gl.constexpr = mma_layout(G)
    eight: gl.constexpr = mma_layout(8)
    rows: gl.constexpr = gl.SliceLayout(1, layout)
    rows_8: gl.constexpr = gl.SliceLayout(1, eight)
    o_g = gl.arange(0, G, gl.SliceLayout(0, layout))
    o_m = gl.arange(0, ROWS, rows_8)
    b_none = gl.full([ROWS, G], 0.0, gl.float32, layout)
    b_zero = gl.full([ROWS, 8], 0, gl.int32, eight)
    chunk, row, shot_mask, free = rules
    i = 0
    for i_t in range(gl.program_id(0), work, gl.num_programs(0)):
        i_local = i_t // tiles
        i_bh = bh_first + i_local
        first = (i_t % tiles) * GROUPS * ROWS + GROUP * ROWS
        o_n = first + gl.arange(0, ROWS, rows)
        b_first, b_last, b_shot, own_from, own_to, shot = own_chunks(row, o_n, o_n < N, N, C)
        p_shot_mask = shot_mask + i_bh.to(gl.int64) * S * S

        take_queries(q + i_local.to(gl.int64) * s_bh, q_smem, first, s_n, N, D, SIGNED)
        args = ()
        for j in gl.static_range(PASSES):
            b_s, i = scores(q_smem, blocks, i, b_none, STAGES)
            b_s = candidates(
                b_s, j * G + o_g, j * G, j * G + G, gl.load(free + j), b_first, b_last, b_shot, own_from, own_to, shot,
                chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK,
            )  # fmt: skip
            args = args + eighths(b_s)
        o_n8 = first + o_m
        o_row = i_local.to(gl.int64) * N + o_n8
        p_sel = sel + i_local.to(gl.int64) * W * N + o_n8
        b_place = p_sel.to(gl.int64, bitcast=True)[:, None] + b_zero.to(gl.int64)
        b_words = gl.where(o_n8 < N, W, 0)[:, None] + b_zero
        args = args + (b_place, b_words, b_zero + k, b_zero + 4 * N)  # type: ignore[assignment]
        b_t, b_n = gl.inline_asm_elementwise(
            CHOOSE[PASSES - 1], OPERANDS[PASSES - 1], args, (gl.float32, gl.int32), False, 4
        )
        b_t, b_n = gl.max(b_t, 1), gl.max(b_n, 1)
        m_lost = (b_n != k) & (b_t > -2.9e38) & (o_n8 < N)
        if gl.max(m_lost.to(gl.int32), 0) > 0:  # which place of the list a row gets does not show
            o_overflow = gl.atomic_add(
                overflow_count + i_local + o_n8 * 0, m_lost.to(gl.int32), mask=m_lost, sem="relaxed"
            )
            gl.store(overflow_rows + i_local.to(gl.int64) * N + o_overflow, o_n8, mask=m_lost)
            gl.store(threshold + o_row, b_t, mask=m_lost)


@gluon.jit(do_not_specialize=["bh_first", "S", "W", "k", "work", "tiles"])
def moc_select_registers_sm90(
    q, desc_tma, chunk, row, shot_mask, free, sel, threshold, overflow_rows, overflow_count,
    s_bh, s_n, N, C, S, W, tiles, work, bh_first, k,
    D: gl.constexpr, G: gl.constexpr, GROUPS: gl.constexpr, PASSES: gl.constexpr, STAGES: gl.constexpr,
    SIGNED: gl.constexpr, CAUSAL: gl.constexpr, SHOT_MASK: gl.constexpr,
):  # fmt: skip
    blocks = pipeline(desc_tma, STAGES, GROUPS)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, 2 * D], desc_tma.dtype)
    q_smem = gl.allocate_shared_memory(desc_tma.dtype, [GROUPS, ROWS, 2 * D], q_layout)
    rules = chunk, row, shot_mask, free
    call = q, rules, sel, threshold, overflow_rows, overflow_count, s_bh, s_n, N, C, S, W, tiles, work, bh_first, k
    loads = desc_tma, blocks, tiles, work, bh_first, C, PASSES, G, STAGES
    if GROUPS == 3:
        gl.warp_specialize(
            [
                (_consumer, (0, 3, call, q_smem.index(0), blocks, D, G, PASSES, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
                (_consumer, (1, 3, call, q_smem.index(1), blocks, D, G, PASSES, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
                (_consumer, (2, 3, call, q_smem.index(2), blocks, D, G, PASSES, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
                (producer, loads),
            ],
            [4, 4, 1],
            [160, 160, 24],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (_consumer, (0, 2, call, q_smem.index(0), blocks, D, G, PASSES, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
                (_consumer, (1, 2, call, q_smem.index(1), blocks, D, G, PASSES, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
                (producer, loads),
            ],
            [4, 1],
            [240, 24],
        )  # fmt: skip


@watched("topk_registers_sm90")
def choose(
    q: Tensor, desc: Tensor, shot_mask: Tensor | None, sel: Tensor, threshold: Tensor, overflow_rows: Tensor,
    overflow_count: Tensor,
    plan: DeviceTable, heads: range, *, signs: bool, causal: bool,
) -> None:  # fmt: skip
    """Bits sel [heads, W, N] of heads [heads.start, heads.stop): q [heads, N, D], not split by sign."""
    n, d, passes = plan.length, desc.shape[-1], -(-plan.chunks // CHUNKS)
    groups = 3 if passes <= 3 else 2
    tiles = -(-n // (groups * 64))
    work = tiles * len(heads)
    # the last pass of a head reaches into the next one: those chunks are shut
    block = tma_descriptor(desc.flatten(2), [desc.shape[0] * plan.chunks, 2 * d], 2 * d, CHUNKS)
    moc_select_registers_sm90[(min(processors(q), work),)](
        q, block, plan.chunk, plan.row, sel if shot_mask is None else shot_mask,
        plan.max_shot_per_block(CHUNKS), sel, threshold,
        overflow_rows, overflow_count, *q.stride()[:2], n, plan.chunks,
        0 if shot_mask is None else shot_mask.shape[-1], plan.words, tiles, work,
        heads.start, plan.top_k, D=d, G=CHUNKS, GROUPS=groups, PASSES=passes, STAGES=STAGES,
        SIGNED=signs, CAUSAL=causal, SHOT_MASK=shot_mask is not None, num_warps=4,
    )  # fmt: skip
