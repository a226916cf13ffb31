"""What the kernels for Hopper share: warp-specialised, persistent programs. A producer warp loads K/V blocks by TMA
into a circular shared-memory buffer (full and empty mbarriers); two consumer warpgroups of 64 rows each compute.

Both consumers read the same block, so the L2 cache is read half as often as with 64-row blocks, and one's softmax
overlaps the other's products. Within a consumer the next Q K^T is issued before the last P V is waited for.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from . import sortable

shared = sortable.bounds, sortable.closed, sortable.open_to, sortable.own_of_rows
bounds, closed, open_to, own_of_rows = (gluon.jit(f.fn) for f in shared)
ROWS = gl.constexpr(64)  # of a warpgroup
BOTH = 128  # rows of a tile
KEYS = 128  # of a step


@gluon.constexpr_function
def row_layout(d):
    """Rows of d numbers over a warpgroup, 16 bytes a thread."""
    return gl.BlockedLayout([1, 8], [32 * 8 // d, d // 8], [4, 1], [1, 0])


@gluon.constexpr_function
def mma_layout(n):
    """What a warpgroup's matrix product [64, n] leaves in registers."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, n, 16])


@gluon.jit
def own_chunks(row, o_n, m_n, N, C):
    """Of every row: its own chunks' first and last + 1, and its shot; of all of them: what `sortable.bounds` says."""
    b_first, b_last, b_shot = own_of_rows(row, o_n, m_n, N, C)
    own_from, own_to, shot = bounds(b_first, b_last, b_shot, m_n)
    return b_first, b_last, b_shot, own_from, own_to, shot


@gluon.jit
def candidates(
    b_s, o_c, low, high, free, b_first, b_last, b_shot, own_from, own_to, shot, chunk, p_shot_mask, C, S,
    CAUSAL: gl.constexpr, SHOT_MASK: gl.constexpr,
):  # fmt: skip
    """Scores of the chunks o_c, all of them in [low, high), -inf where a row may not choose. free: see `closed`."""
    if SHOT_MASK or closed(free, low, high, own_from, own_to, shot, CAUSAL):
        b_own = (o_c[None, :] >= b_first[:, None]) & (o_c[None, :] < b_last[:, None])
        b_s = gl.where(b_own, float("-inf"), b_s)
        if SHOT_MASK or CAUSAL or free == 2**31 - 1:  # else nothing but own chunks is shut, and no chunk is looked up
            b_cand = open_to(o_c, b_first, b_last, b_shot, chunk, p_shot_mask, C, S, CAUSAL, SHOT_MASK)
            b_s = gl.where(b_cand, b_s, float("-inf"))
    return b_s


@gluon.jit
def pipeline(desc, STAGES: gl.constexpr, READERS: gl.constexpr = 2):
    """Places for STAGES blocks of a descriptor, a barrier each that says it is full, and one that says that all
    warpgroups have done with it."""
    bars: gl.constexpr = mbarrier.MBarrierLayout()
    smem = gl.allocate_shared_memory(desc.dtype, [STAGES] + desc.block_type.shape, desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bars)
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bars)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=READERS)
    return smem, full, empty


@gluon.jit
def first_scores(q_smem, b_none, keys, stage, phase):
    """Queries [64, D] by the keys of a step -> [64, BN]."""
    smem, full, empty = keys
    mbarrier.wait(full.index(stage), phase)
    b_s = warpgroup_mma(q_smem, smem.index(stage).permute((1, 0)), b_none, use_acc=False, is_async=True)
    b_s = warpgroup_mma_wait(0, deps=[b_s])
    mbarrier.arrive(empty.index(stage))
    return b_s


@gluon.jit
def next_scores(q_smem, b_none, b_p, b_acc, keys, values, stage, phase, v_stage, v_phase):
    """As `first_scores`, while the values of the step before are being added: until `added` nobody may touch them."""
    k_smem, k_full, k_empty = keys
    v_smem, v_full, _ = values
    mbarrier.wait(k_full.index(stage), phase)
    b_s = warpgroup_mma(q_smem, k_smem.index(stage).permute((1, 0)), b_none, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(v_stage), v_phase)
    b_acc = warpgroup_mma(b_p, v_smem.index(v_stage), b_acc, is_async=True)
    b_s = warpgroup_mma_wait(1, deps=[b_s])
    mbarrier.arrive(k_empty.index(stage))
    return b_s, b_acc


@gluon.jit
def last_values(b_p, b_acc, values, stage, phase):
    smem, full, _ = values
    mbarrier.wait(full.index(stage), phase)
    return warpgroup_mma(b_p, smem.index(stage), b_acc, is_async=True)


@gluon.jit
def added(b_p, b_acc, values, stage):
    """The sum over values, and the place of this step's is free."""
    _, _, empty = values
    b_acc, b_p = warpgroup_mma_wait(0, deps=[b_acc, b_p])
    mbarrier.arrive(empty.index(stage))
    return b_acc


@gluon.jit
def pass_by(blocks, stage, phase):
    """A block that this warpgroup has no use for: it waits all the same, or it would be a round ahead of the other."""
    _, full, empty = blocks
    mbarrier.wait(full.index(stage), phase)
    mbarrier.arrive(empty.index(stage))


@gluon.jit
def softmax(b_s, b_m, b_l, scale, WHOLE: gl.constexpr):
    """Scores [64, BN] of one step -> (weights, factor for what came before, new max, new sum). WHOLE: max is a
    whole power of two, see `tail`."""
    b_top = gl.max(b_s, 1) * scale
    if WHOLE:
        b_top = gl.ceil(b_top)
    b_top = gl.maximum(b_m, b_top)
    b_p = gl.exp2(b_s * scale - b_top[:, None])
    b_alpha = gl.exp2(b_m - b_top)
    return b_p, b_alpha, b_top, b_l * b_alpha + gl.sum(b_p, 1)


def rows_of(x: Tensor) -> tuple[list[int], tuple[int, int, int]] | None:
    """x [B, H, N, D] as one matrix, because the copy engine wants one.

    -> its shape and (rows from sample to sample, rows from head to head, columns from head to head), or None where
    the strides do not allow it.
    """
    b, h, n, d = x.shape
    s_b, s_h, s_n, s_d = x.stride()
    s_b, s_h = s_b if b > 1 else 0, s_h if h > 1 else 0
    if s_d != 1 or s_n < d or s_b % s_n or s_n * x.element_size() % 16 or x.data_ptr() % 16:
        return None
    if s_h % s_n == 0:
        return [((b - 1) * s_b + (h - 1) * s_h) // s_n + n, d], (s_b // s_n, s_h // s_n, 0)
    if (h - 1) * s_h + d <= s_n and s_h * x.element_size() % 16 == 0:
        return [(b - 1) * s_b // s_n + n, (h - 1) * s_h + d], (s_b // s_n, 0, s_h)
    return None


def tma_descriptor(x: Tensor, shape: list[int], pitch: int, rows: int) -> TensorDescriptor:
    """x as a matrix of that shape and row pitch, for the copy engine to take `rows` rows of a vector x[..., :] from."""
    width = x.shape[-1]
    return TensorDescriptor(x, shape, [pitch, 1], [rows, width], _block(rows, width, x.dtype == torch.bfloat16))


@cache
def _block(rows: int, width: int, brain: bool) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([rows, width], gl.bfloat16 if brain else gl.float16)


def tma_descriptors(k: Tensor, v: Tensor, *sizes: int) -> tuple[list[TensorDescriptor], list[int]]:
    """k and v [B, H, N, D] for blocks of every size -> k and v for the first size, then for the next, and the steps of
    `rows_of`, which takes them both."""
    places = [(x, *rows_of(x)) for x in (k, v)]  # type: ignore[misc]
    blocks = [tma_descriptor(x, shape, x.stride(2), rows) for rows in sizes for x, shape, _ in places]
    return blocks, [step for _, _, steps in places for step in steps]
