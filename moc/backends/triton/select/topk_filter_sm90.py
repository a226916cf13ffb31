"""Top-k of every row among many chunks for Hopper, in Gluon: a threshold filter, then an exact top-k over its
survivors.

`topk_stream.py` keeps the best of every bucket in registers, at seven comparisons a score. Here the scores of a sample
of the chunks give a threshold that somewhat more than k of all chunks exceed. A second pass over all chunks compacts
the scores above it to memory, with their places, at one comparison a score; `topk_filter_finish_sm90.py` takes the k
best of these. They are the k best of all where at least k survived and none was dropped for want of slots; other rows
are retried through the buckets of `topk_stream.py`.

As in `pipeline_sm90.py` a producer warp loads what the consumer warpgroups share, here descriptors. There are three
consumers, so that some have products in flight while another writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ...health import watched
from ..dataflow import FILTER_CHUNKS, PASS
from ..device_table import DeviceTable
from ..lib import sortable
from ..lib.launch import processors
from ..lib.pipeline_sm90 import ROWS, mma_layout, own_chunks, pipeline, tma_descriptor
from ..lib.select_sm90 import eighths, producer, scores, take_queries
from .topk_filter_finish_sm90 import SLOTS, SURVIVORS, finish_topk

CHUNKS = PASS
STAGES = 4
TURN = CHUNKS // 2 - 5
WORKSPACE = 3 * 2**29  # bytes written
BOTH = 192  # rows of a tile: three warpgroups
SHARE = 5  # one chunk of so many is in the sample, at least

closed, open_to = gluon.jit(sortable.closed.fn), gluon.jit(sortable.open_to.fn)
least_of_few = gluon.jit(sortable.least_of_few.fn)


def _writing() -> tuple[str, str]:
    """PTX of a thread that looks at 8 x 4 scores, two neighbours each of two rows: those above the row's level go to
    the row's place, which moves on by eight bytes. A row that is full goes on from slot WRITTEN over and over: one pass
    writes 16 at most.

    Operands: 4 places out; 32 scores, 4 levels, 4 places in, 4 numbers of the first column.
    """
    threshold, place, column = 4 + 32, 4 + 36, 4 + 40
    full = 8 * SURVIVORS
    lines = [".reg .pred p; .reg .b32 n, s, t, h0, h2, l0, l2; .reg .b64 a;"]
    lines += [f"mov.b64 {{l{row}, h{row}}}, ${place + row};" for row in (0, 2)]
    for i in range(8):
        for e in range(4):
            row = e & 2
            lines += [
                f"setp.gt.f32 p, ${4 + 4 * i + e}, ${threshold + e};",
                f"mov.b32 s, ${4 + 4 * i + e};",
                f"add.u32 n, ${column + e}, {8 * i};",
                f"mov.b64 a, {{l{row}, h{row}}};",
                "@p st.global.v2.b32 [a], {s, n};",
                f"@p add.u32 l{row}, l{row}, 8;",
            ]
    for row in (0, 2):
        lines += [
            f"and.b32 t, l{row}, {full};",
            "setp.ne.u32 p, t, 0;",
            f"@p and.b32 l{row}, l{row}, {~(full - 1) & 0xFFFFFFFF};",
            f"mov.b64 ${row}, {{l{row}, h{row}}};",
            f"mov.b64 ${row + 1}, {{l{row}, h{row}}};",
        ]
    return "{\n" + "\n".join(lines) + "\n}", ",".join(["=l"] * 4 + ["f"] * 36 + ["l"] * 4 + ["r"] * 4)


WRITING, OPERANDS = (gl.constexpr(x) for x in _writing())


@gluon.jit
def _write(b_s, b_level, b_place, b_at):
    """Scores [64, 64] above the level [64, 8] go to where b_place [64, 8] points, with b_at [64, 8] + column."""
    args = eighths(b_s) + (b_level, b_place, b_at)
    return gl.inline_asm_elementwise(WRITING, OPERANDS, args, gl.int64, False, 4)


@gluon.jit
def _consumer(
    GROUP: gl.constexpr, call, q_smem, blocks,
    D: gl.constexpr, G: gl.constexpr, SLOTS: gl.constexpr, STAGES: gl.constexpr,
    SIGNED: gl.constexpr, CAUSAL: gl.constexpr, SHOT_MASK: gl.constexpr,
):  # fmt: skip
    q, rules, sampled, written, number, threshold, s_bh, s_n, N, C, S, tiles, work, bh_first = call
    sample, sample_range, seen, rank, num_blocks, rotation = sampled
    layout: gl.constexpr = mma_layout(G)
    eight: gl.constexpr = mma_layout(8)
    rows: gl.constexpr = gl.SliceLayout(1, layout)
    o_g = gl.arange(0, G, gl.SliceLayout(0, layout))
    o_e = gl.arange(0, 8, gl.SliceLayout(0, eight))
    o_m = gl.arange(0, ROWS, gl.SliceLayout(1, eight))
    b_none = gl.full([ROWS, G], 0.0, gl.float32, layout)
    chunk, row, shot_mask, free = rules
    i = 0
    for i_t in range(gl.program_id(0), work, gl.num_programs(0)):
        i_local = i_t // tiles
        i_bh = bh_first + i_local
        first = (i_t % tiles) * 3 * ROWS + GROUP * ROWS
        o_n = first + gl.arange(0, ROWS, rows)
        m_n = o_n < N
        b_first, b_last, b_shot, own_from, own_to, shot = own_chunks(row, o_n, m_n, N, C)
        p_shot_mask = shot_mask + i_bh.to(gl.int64) * S * S

        take_queries(q + i_local.to(gl.int64) * s_bh, q_smem, first, s_n, N, D, SIGNED)
        b_max = gl.full([ROWS, G], float("-inf"), gl.float32, layout)
        for j in range(0, seen):
            low, high = gl.load(sample_range + 3 * j), gl.load(sample_range + 3 * j + 1)
            shut = gl.load(sample_range + 3 * j + 2)
            b_s, i = scores(q_smem, blocks, i, b_none, STAGES)
            if SHOT_MASK or closed(shut, low, high, own_from, own_to, shot, CAUSAL):
                o_c = gl.load(sample + j * G + o_g)
                b_cand = open_to(o_c, b_first, b_last, b_shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK)
                b_s = gl.where(b_cand, b_s, float("-inf"))
            b_max = gl.maximum(b_max, b_s)
        b_level, _ = least_of_few(b_max, rank)
        b_level = gl.where(m_n, gl.where(b_level == float("-inf"), -3.0e38, b_level), float("inf"))
        b_level_8 = gl.convert_layout(b_level, gl.SliceLayout(1, eight), assert_trivial=True)
        b_level_8 = gl.expand_dims(b_level_8, 1).broadcast_to([ROWS, 8])

        o_row = i_local.to(gl.int64) * N + first
        p_first = written + (o_row + o_m)[:, None] * (4 * SLOTS) + (o_e // 2)[None, :] * SLOTS
        b_place = p_first.to(gl.int64, bitcast=True)
        for j in range(0, num_blocks):
            shut = gl.load(free + j)
            b_s, i = scores(q_smem, blocks, i, b_none, STAGES)
            if SHOT_MASK or closed(shut, j * G, j * G + G, own_from, own_to, shot, CAUSAL):
                o_c = j * G + ((o_g + j * rotation) & (G - 1))
                b_cand = open_to(o_c, b_first, b_last, b_shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK)
                b_s = gl.where(b_cand, b_s, float("-inf"))
            b_place = _write(b_s, b_level_8, b_place, j * G + o_e[None, :] + o_m[:, None] * 0)
        gl.store(threshold + i_local.to(gl.int64) * N + o_n, b_level, mask=m_n)
        m_8 = (first + o_m < N)[:, None] & (o_e % 2 == 0)[None, :]
        p_number = number + (o_row + o_m)[:, None] * 4 + (o_e // 2)[None, :]
        gl.store(p_number, (b_place >> 3).to(gl.int32) & (SLOTS - 1), mask=m_8)


@gluon.jit(do_not_specialize=["bh_first", "S", "num_blocks", "rotation", "seen", "rank", "work", "tiles"])
def moc_select_filter_sm90(
    q, desc_tma, chunk, row, shot_mask, free, sample, sample_range, written, number, threshold,
    s_bh, s_n, N, C, S, tiles, work, bh_first, seen, rank, num_blocks, rotation,
    D: gl.constexpr, G: gl.constexpr, SLOTS: gl.constexpr, STAGES: gl.constexpr,
    SIGNED: gl.constexpr, CAUSAL: gl.constexpr, SHOT_MASK: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = desc_tma.dtype
    blocks = pipeline(desc_tma, STAGES, 3)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, 2 * D], dtype)
    q_smem = gl.allocate_shared_memory(dtype, [3, ROWS, 2 * D], q_layout)
    rules, sampled = (chunk, row, shot_mask, free), (sample, sample_range, seen, rank, num_blocks, rotation)
    call = q, rules, sampled, written, number, threshold, s_bh, s_n, N, C, S, tiles, work, bh_first
    gl.warp_specialize(
        [
            (_consumer, (0, call, q_smem.index(0), blocks, D, G, SLOTS, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
            (_consumer, (1, call, q_smem.index(1), blocks, D, G, SLOTS, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
            (_consumer, (2, call, q_smem.index(2), blocks, D, G, SLOTS, STAGES, SIGNED, CAUSAL, SHOT_MASK)),
            (producer, (desc_tma, blocks, tiles, work, 0, (seen + num_blocks) * G, seen + num_blocks, G, STAGES)),
        ],
        [4, 4, 1],
        [160, 160, 24],
    )  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Which chunks a row meets, in the order of the passes: those of the sample, rising, then all."""

    index: Tensor  # [(passes + turns) * CHUNKS]
    chunk: Tensor  # [passes * CHUNKS] those of the sample
    range: Tensor  # [passes, 3]: first chunk, last one + 1, highest shot
    passes: int  # of the sample; 0: there are too few chunks for one
    num_blocks: int  # passes of all chunks
    rank: int  # of the score used as threshold, among the bucket maxima


def threshold_rank(top_k: int, share: float) -> int:
    """Rank, among the maxima of the sample's buckets, of the score used as the filter's threshold. share: of all
    chunks, that the sample holds.

    More than k chunks should exceed it: by 2.3 standard deviations of their number when chunks are in random order.
    """
    stray = 2.3 * math.sqrt((1 - share) / share)
    wanted = ((stray + math.sqrt(stray**2 + 4 * top_k)) / 2) ** 2 * share  # of the sample
    return max(1, round(CHUNKS * (1 - math.exp(-wanted / CHUNKS))))  # groups with one of them at least


def sample_of(plan: DeviceTable) -> Sample:
    """Chunks that anybody may choose, equally far apart; then all chunks, turned from pass to pass so that those one
    frame apart do not always meet the same thread."""
    if plan.sample is None:
        free = np.array([i for i, c in enumerate(plan.table.chunks) if c.routable and not c.linked])
        passes = max(2, round(len(free) / (SHARE * CHUNKS))) if len(free) >= FILTER_CHUNKS else 0
        chunk = free[np.arange(passes * CHUNKS) * len(free) // (passes * CHUNKS)].reshape(passes, CHUNKS)
        shot = np.array([c.shot for c in plan.table.chunks])[chunk].max(1)
        num_blocks = -(-plan.chunks // CHUNKS)
        number, place = np.divmod(np.arange(num_blocks * CHUNKS), CHUNKS)
        every = np.minimum(number * CHUNKS + (place + number * TURN) % CHUNKS, plan.chunks - 1)
        plan.sample = Sample(
            plan.on_device(np.concatenate([chunk.flatten(), every])), plan.on_device(chunk.flatten()),
            plan.on_device(np.stack([chunk[:, 0], chunk[:, -1] + 1, shot], 1)),
            passes, num_blocks, threshold_rank(plan.top_k, passes * CHUNKS / len(free)) if passes else 0,
        )  # fmt: skip
    return plan.sample


def slots(threads: int, device: torch.device) -> Tensor:
    """Room for what so many threads write, int64. Each begins at a multiple of its size: an address tells the slot."""
    space = torch.empty((threads + 1) * SLOTS, dtype=torch.int64, device=device)
    skip = -(space.data_ptr() // space.element_size()) % SLOTS
    return space[skip : skip + threads * SLOTS]


@watched("topk_filter_sm90")
def filter_topk(
    q: Tensor, desc: Tensor, shot_mask: Tensor | None, sel: Tensor, pairs: Tensor, number: Tensor, threshold: Tensor,
    overflow_rows: Tensor, overflow_count: Tensor, plan: DeviceTable, heads: range,
    *, signs: bool, causal: bool, as_bits: bool,
) -> None:  # fmt: skip
    """As `topk_stream_sm90.deal`."""
    n, d = plan.length, desc.shape[-1]
    tiles, sample = -(-n // BOTH), sample_of(plan)
    some = max(1, min(len(heads), WORKSPACE // (n * 32 * SLOTS)))
    written = slots(some * n * 4, q.device)
    count = torch.empty(some, n, 4, dtype=torch.int32, device=q.device)
    for first in range(0, len(heads), some):
        part = slice(first, min(first + some, len(heads)))
        work = tiles * (part.stop - first)
        flat = desc[heads.start + first : heads.start + part.stop].index_select(1, sample.index).flatten(2)
        block = tma_descriptor(flat, [flat.shape[0] * flat.shape[1], 2 * d], 2 * d, CHUNKS)
        moc_select_filter_sm90[(min(processors(q), work),)](
            q[part], block, plan.chunk, plan.row, pairs if shot_mask is None else shot_mask,
            plan.max_shot_per_block(CHUNKS),
            sample.chunk,
            sample.range, written, count, threshold[part], *q.stride()[:2], n, plan.chunks,
            0 if shot_mask is None else shot_mask.shape[-1], tiles, work, heads.start + first,
            sample.passes, sample.rank, sample.num_blocks, TURN,
            D=d, G=CHUNKS, SLOTS=SLOTS, STAGES=STAGES, SIGNED=signs, CAUSAL=causal, SHOT_MASK=shot_mask is not None,
            num_warps=4,
        )  # fmt: skip
        finish_topk(
            written, count, sel[part], pairs[part], number[part], threshold[part], overflow_rows[part],
            overflow_count[part], plan,
            groups=CHUNKS, rotation=TURN, as_bits=as_bits,
        )  # fmt: skip
