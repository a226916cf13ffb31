"""How many queries of every frame chose a chunk, from the bits: what a trace wants, without a mask of all rows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .plan import Plan


@triton.jit(do_not_specialize=["bh_first", "blocks"])
def _count_frames(sel, frame, count, N, C, W, H, F, bh_first, blocks, BR: tl.constexpr):
    i_r, i_w, i_local = tl.program_id(0) % blocks, tl.program_id(0) // blocks % W, tl.program_id(0) // (blocks * W)
    o_n = i_r * BR + tl.arange(0, BR)
    b_w = tl.load(sel + (i_local.to(tl.int64) * W + i_w) * N + o_n, mask=o_n < N, other=0)
    if tl.max((b_w != 0).to(tl.int32), 0) > 0:
        o_b = tl.arange(0, 32)
        o_c = i_w * 32 + o_b
        b_on = (b_w[:, None] >> o_b[None, :]) & 1  # [BR, 32]
        b_frame = tl.load(frame + o_n, mask=o_n < N, other=-1)
        p_count = count + ((bh_first + i_local) % H).to(tl.int64) * F * C + o_c
        i_f = tl.min(tl.where(b_frame >= 0, b_frame, F), 0)
        while i_f < F:  # the frames that have rows here: mostly one
            b_n = tl.sum(tl.where(b_frame[:, None] == i_f, b_on, 0), 0)
            tl.atomic_add(p_count + i_f * C, b_n.to(tl.float32), mask=(o_c < C) & (b_n > 0), sem="relaxed")
            i_f = tl.min(tl.where(b_frame > i_f, b_frame, F), 0)


def count_frames(sel: Tensor, plan: Plan, heads: range, count: Tensor) -> None:
    """Add what sel [heads, W, N] says to count [H, F + 1, C] float32, over the batch. Last row: not video. Whole
    numbers: in whatever order they are added up, the sums are exact."""
    blocks = -(-plan.length // 256)
    _count_frames[(blocks * plan.words * len(heads),)](
        sel, plan.frame, count, plan.length, plan.chunks, plan.words, count.shape[0], count.shape[1],
        heads.start, blocks, BR=256, num_warps=4,
    )  # fmt: skip
