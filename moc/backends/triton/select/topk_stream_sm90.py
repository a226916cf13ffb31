"""The first pass of `topk_stream.py` for Hopper, in Gluon: products of one pass overlap the comparisons of the one
before.

As in `pipeline_sm90.py` a producer warp loads what two consumer warpgroups share, here the descriptors of G chunks at a
time.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ...health import watched
from ..device_table import DeviceTable
from ..lib.gluon_compat import copy_block, thread_barrier
from ..lib.launch import processors
from ..lib.pipeline_sm90 import ROWS, candidates, mma_layout, own_chunks, pipeline, row_layout, tma_descriptor
from . import topk_stream_heap

STAGES = 3
GROUPS = 64

settle, mark, taken = (
    gluon.jit(f.fn) for f in (topk_stream_heap.finish, topk_stream_heap.emit, topk_stream_heap.taken)
)
cumsum = gluon.jit(tl.cumsum.fn)


@gluon.jit
def _producer(
    desc_tma, blocks, tiles, work, num_blocks, D: gl.constexpr, G: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    high, low, full, empty = blocks
    i = 0
    for i_t in range(gl.program_id(0), work, gl.num_programs(0)):
        o_c = i_t // tiles * num_blocks * G
        for j in range(0, num_blocks):
            stage, phase = i % STAGES, (i // STAGES) & 1
            mbarrier.wait(empty.index(stage), phase ^ 1)
            mbarrier.expect(full.index(stage), 2 * desc_tma.block_type.nbytes)
            copy_block(desc_tma, [o_c + j * G, 0], full.index(stage), high.index(stage))
            copy_block(desc_tma, [o_c + j * G, D], full.index(stage), low.index(stage))
            i += 1


@gluon.jit
def _scores(q_high, q_low, high, low, b_none):
    """Both products of a pass, on their way."""
    b_s = warpgroup_mma(q_high, high.permute((1, 0)), b_none, use_acc=False, is_async=True)
    return warpgroup_mma(q_low, low.permute((1, 0)), b_s, is_async=True)


@gluon.jit
def _done(b_s, stage, i, full, empty, more, STAGES: gl.constexpr):
    """The products of pass i, once they are there -> (products, stage of the next pass, i + 1).

    Waiting for the next block comes first: it is a loop, across which nothing moves. Without it ptxas puts the
    comparisons of the pass before behind the wait for these products, and they no longer run side by side.
    """
    i += 1
    mbarrier.wait(full.index(i % STAGES), (i // STAGES) & 1, pred=more)
    b_s = warpgroup_mma_wait(0, deps=[b_s])
    mbarrier.arrive(empty.index(stage))
    return b_s, i % STAGES, i


@gluon.jit
def _insert(
    b_s, i, free, b_0, b_1, b_2, b_3, b_common, o_g, b_first, b_last, b_shot, own_from, own_to, shot,
    chunk, p_shot_mask, C, S, rotation, G: gl.constexpr, LOW: gl.constexpr, CAUSAL: gl.constexpr,
    SHOT_MASK: gl.constexpr,
):  # fmt: skip
    """Pass i of `topk_stream`: the scores of G chunks, each into its group's four best. free: see `closed`."""
    b_new = (((b_s - b_common[:, None]).to(gl.int32, bitcast=True) & ~LOW) | (LOW - i)).to(gl.float32, bitcast=True)
    b_new = candidates(
        b_new, i * G + ((o_g + i * rotation) & (G - 1)), i * G, i * G + G, free, b_first, b_last, b_shot, own_from,
        own_to,
        shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK,
    )  # fmt: skip
    b_3 = gl.maximum(b_3, gl.minimum(b_2, b_new))
    b_2 = gl.maximum(b_2, gl.minimum(b_1, b_new))
    b_1 = gl.maximum(b_1, gl.minimum(b_0, b_new))
    b_0 = gl.maximum(b_0, b_new)
    return b_0, b_1, b_2, b_3


@gluon.jit
def _consumer(
    GROUP: gl.constexpr, call, q_high, q_low, blocks,
    D: gl.constexpr, G: gl.constexpr, LOW: gl.constexpr, STAGES: gl.constexpr,
    BITS: gl.constexpr, SIGNED: gl.constexpr, CAUSAL: gl.constexpr, SHOT_MASK: gl.constexpr,
):  # fmt: skip
    q, desc, rules, into, s_bh, s_n, N, C, S, W, tiles, work, bh_first, k, num_blocks, rotation = call
    chunk, row, shot_mask, passes = rules
    sel, pairs, number, threshold, overflow_rows, overflow_count = into
    high, low, full, empty = blocks
    by_row: gl.constexpr = row_layout(D)
    layout: gl.constexpr = mma_layout(G)
    by_group: gl.constexpr = gl.BlockedLayout([1, G // 4], [8, 4], [4, 1], [1, 0])  # in which sums run along a row
    rows: gl.constexpr = gl.SliceLayout(1, layout)
    o_g = gl.arange(0, G, gl.SliceLayout(0, layout))
    o_d = gl.arange(0, D, gl.SliceLayout(0, by_row))
    b_none = gl.full([ROWS, G], 0.0, gl.float32, layout)
    i = 0
    for i_t in range(gl.program_id(0), work, gl.num_programs(0)):
        i_local = i_t // tiles
        i_bh = bh_first + i_local
        first = (i_t % tiles) * 2 * ROWS + GROUP * ROWS
        o_n = first + gl.arange(0, ROWS, rows)
        m_n = o_n < N
        b_first, b_last, b_shot, own_from, own_to, shot = own_chunks(row, o_n, m_n, N, C)
        p_shot_mask = shot_mask + i_bh.to(gl.int64) * S * S

        o_r = first + gl.arange(0, ROWS, gl.SliceLayout(1, by_row))
        p_q = q + i_local.to(gl.int64) * s_bh + o_r.to(gl.int64)[:, None] * s_n + o_d[None, :]
        b_q = gl.load(p_q, mask=(o_r < N)[:, None], other=0.0)
        p_typical = desc + (i_local.to(gl.int64) * num_blocks * G + C // 2) * 2 * D + o_d
        b_high, b_low = gl.load(p_typical).to(gl.float32)[None, :], gl.load(p_typical + D).to(gl.float32)[None, :]
        b_f = b_q.to(gl.float32)
        if SIGNED:
            b_up, b_down = gl.maximum(b_f, 0.0), gl.minimum(b_f, 0.0)
            b_common = gl.sum(b_up * b_high + b_down * b_low, 1)
            q_high.store(b_up.to(b_q.dtype))
            q_low.store(b_down.to(b_q.dtype))
        else:
            b_common = gl.sum(b_f * (b_high + b_low), 1)
            q_high.store(b_q)
        b_common = gl.convert_layout(b_common, rows)
        fence_async_shared()
        thread_barrier()

        b_0 = gl.full([ROWS, G], float("-inf"), gl.float32, layout)
        b_1, b_2, b_3 = b_0, b_0, b_0
        stage, phase = i % STAGES, (i // STAGES) & 1
        mbarrier.wait(full.index(stage), phase)
        b_s = _scores(q_high, q_low, high.index(stage), low.index(stage), b_none)
        for j in range(0, num_blocks, 2):  # turns is even: two sets of registers take turns
            free = gl.load(passes + j)
            free_2 = gl.load(passes + j + 1, mask=(j + 1) * G < C, other=2**31 - 1)
            b_now, stage, i = _done(b_s, stage, i, full, empty, True, STAGES)
            b_next = _scores(q_high, q_low, high.index(stage), low.index(stage), b_none)
            b_0, b_1, b_2, b_3 = _insert(
                b_now, j, free, b_0, b_1, b_2, b_3, b_common, o_g, b_first, b_last, b_shot, own_from, own_to, shot,
                chunk, p_shot_mask, C, S, rotation, G, LOW, CAUSAL, SHOT_MASK,
            )  # fmt: skip
            # the last products are for nothing: of what the next tile begins with, or of what was there before
            b_now, stage, i = _done(b_next, stage, i, full, empty, j + 2 < num_blocks, STAGES)
            b_s = _scores(q_high, q_low, high.index(stage), low.index(stage), b_none)
            b_0, b_1, b_2, b_3 = _insert(
                b_now, j + 1, free_2, b_0, b_1, b_2, b_3, b_common, o_g, b_first, b_last, b_shot, own_from, own_to,
                shot, chunk, p_shot_mask, C, S, rotation, G, LOW, CAUSAL, SHOT_MASK,
            )  # fmt: skip
        warpgroup_mma_wait(0, deps=[b_s])
        b_from, m_row = settle(
            b_0, b_1, b_2, b_3, b_3, b_3, b_3, b_3, b_common, o_g, o_n, m_n, threshold, overflow_rows, overflow_count,
            i_local, N, k,
            num_blocks, rotation, G, 4, LOW,
        )  # fmt: skip
        o_h = i_local.to(gl.int64) * N
        p_slot = pairs + o_h * k
        if not BITS:  # slots in the order of groups
            b_n = taken(b_0, b_1, b_2, b_3, b_from)
            gl.store(number + o_h + o_n, gl.sum(b_n, 1), mask=m_row)
            b_upto = gl.convert_layout(cumsum(gl.convert_layout(b_n, by_group), 1), layout)
            p_slot += o_n[:, None] * k + b_upto - b_n
        mark(b_0, b_1, b_2, b_3, b_from, p_slot, 0, o_g, o_n[:, None], sel + o_h * W, N, rotation, G, LOW, BITS)


@gluon.jit(do_not_specialize=["bh_first", "k", "S", "num_blocks", "rotation", "work"])
def moc_select_stream_sm90(
    q, desc, desc_tma, chunk, row, shot_mask, passes,
    sel, pairs, number, threshold, overflow_rows, overflow_count, s_bh, s_n, N, C, S, W, tiles, work, bh_first, k,
    num_blocks, rotation,
    D: gl.constexpr, G: gl.constexpr, LOW: gl.constexpr, STAGES: gl.constexpr,
    BITS: gl.constexpr, SIGNED: gl.constexpr, CAUSAL: gl.constexpr, SHOT_MASK: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q.dtype.element_ty
    high, full, empty = pipeline(desc_tma, STAGES)
    low = gl.allocate_shared_memory(dtype, [STAGES, G, D], desc_tma.layout)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    q_smem = gl.allocate_shared_memory(dtype, [4, ROWS, D], q_layout)
    blocks, rules = (high, low, full, empty), (chunk, row, shot_mask, passes)
    into = sel, pairs, number, threshold, overflow_rows, overflow_count
    call = q, desc, rules, into, s_bh, s_n, N, C, S, W, tiles, work, bh_first, k, num_blocks, rotation
    gl.warp_specialize(
        [
            (_consumer, (0, call, q_smem.index(0), q_smem.index(1 if SIGNED else 0), blocks,
                         D, G, LOW, STAGES, BITS, SIGNED, CAUSAL, SHOT_MASK)),
            (_consumer, (1, call, q_smem.index(2), q_smem.index(3 if SIGNED else 2), blocks,
                         D, G, LOW, STAGES, BITS, SIGNED, CAUSAL, SHOT_MASK)),
            (_producer, (desc_tma, blocks, tiles, work, num_blocks, D, G, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def rotated(desc: Tensor, num_blocks: int, rotation: int) -> Tensor:
    """pair [B*H, C, 2, D] -> [B*H, turns * G, 2, D] in the order in which the groups take the chunks."""
    place = torch.arange(num_blocks * GROUPS, device=desc.device)
    number = place // GROUPS
    index = number * GROUPS + (place % GROUPS + number * rotation) % GROUPS
    return desc.index_select(1, index.clamp(max=desc.shape[1] - 1))


@watched("topk_stream_sm90")
def select(
    q: Tensor, desc: Tensor, shot_mask: Tensor | None, sel: Tensor, pairs: Tensor, number: Tensor, threshold: Tensor,
    overflow_rows: Tensor, overflow_count: Tensor, plan: DeviceTable, heads: range,
    *, signs: bool, causal: bool, rotation: int, low: int, as_bits: bool,
) -> None:  # fmt: skip
    """The first deal of heads [heads.start, heads.stop): q [heads, N, D], not split by sign."""
    n, d = plan.length, desc.shape[-1]
    num_blocks, tiles = -(-plan.chunks // (2 * GROUPS)) * 2, -(-n // 128)
    work = tiles * len(heads)
    flat = rotated(desc[heads.start : heads.stop], num_blocks, rotation)
    block = tma_descriptor(flat, [flat.shape[0] * flat.shape[1], 2 * d], 2 * d, GROUPS)
    moc_select_stream_sm90[(min(processors(q), work),)](
        q, flat, block, plan.chunk, plan.row, sel if shot_mask is None else shot_mask,
        plan.max_shot_per_block(GROUPS), sel,
        pairs, number, threshold, overflow_rows, overflow_count, *q.stride()[:2], n, plan.chunks,
        0 if shot_mask is None else shot_mask.shape[-1], plan.words, tiles, work, heads.start, plan.top_k, num_blocks,
        rotation,
        D=d, G=GROUPS, LOW=low, STAGES=STAGES, BITS=as_bits, SIGNED=signs, CAUSAL=causal,
        SHOT_MASK=shot_mask is not None,
        num_warps=4,
    )  # fmt: skip
