"""The call as a function that autograd knows: what the forward pass keeps, and the backward pass (`backward.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...chunks.table import ChunkTable
from ...config import RoutingConfig
from .attend import own
from .attend.backward import moc_bwd_delta, moc_bwd_kv, moc_bwd_q, moc_bwd_tail_kv, moc_bwd_tail_q
from .attend.block import LOG2E
from .block_sizes import BlockSize, block_sizes_of
from .device_table import DeviceTable, device_table_of
from .forward import SavedForBackward, precision_of, run
from .lib.head_ranges import split_heads
from .lib.launch import on_its_device
from .lib.pool import pool
from .lists.csr import SelectionIndices, listed
from .lists.csr_from_bits import SelectionMask

SEGMENT = 512  # rows that a program takes for some keys


class Attend(torch.autograd.Function):
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]. Keeps q, k, v, the output, its log-sum-exp, the choice."""

    @staticmethod
    def forward(
        ctx, q, k, v, table: ChunkTable, routing: RoutingConfig, scale: float, record, training: bool,
        lse: Tensor | None,
    ):  # fmt: skip
        kept = SavedForBackward.of(q, choices=True)
        out = run(q, k, v, table, routing, scale, record, keep=kept, training=training)
        kept.hand_over(lse)
        ctx.save_for_backward(q, k, v, out)
        ctx.call = kept, device_table_of(table, routing, q.device), routing, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, out = ctx.saved_tensors
        return *gradients(q, k, v, out, grad, *ctx.call), None, None, None, None, None, None


@on_its_device
def gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, kept: SavedForBackward, plan: DeviceTable,
    routing: RoutingConfig,
    scale: float,
) -> list[Tensor]:  # fmt: skip
    """dq, dk, dv like q, k, v."""
    q, k, v, out, grad = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, out, grad))
    call = _Backward(q, k, v, out, grad, kept.lse, plan, routing, scale)
    call.delta_of_rows()
    call.seen()
    for heads, choice in kept.choices or ():
        bits = plan.words if routing.tail == "pooled" else 0
        for some in split_heads(heads, plan.length * 4 * (choice.size[2] + bits)):
            call.chosen(some, choice.of(slice(some.start - heads.start, some.stop - heads.start)))
    if not kept.choices and routing.tail == "pooled":
        for some in split_heads(range(len(kept.lse)), plan.length * 4 * plan.words):
            call.skipped(some, torch.zeros(len(some), plan.words, plan.length, dtype=torch.int32, device=q.device))
    return call.done()


@dataclass
class _Backward:
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    grad: Tensor
    lse: Tensor
    plan: DeviceTable
    routing: RoutingConfig
    scale: float
    sums: list[Tensor] = field(init=False)  # float32 gradients by q (set by `seen`), k, v, mean keys and mean values

    def __post_init__(self) -> None:
        b, h, n, d = self.q.shape
        rows, summaries = (b * h, n, d), (b * h, self.plan.chunks, d)
        new: dict[str, Any] = dict(dtype=torch.float32, device=self.q.device)
        self.sums = [torch.empty(rows, **new), torch.zeros(rows, **new), torch.zeros(rows, **new)]
        self.delta = torch.empty(rows[:2], **new)
        self.means: tuple[Tensor, ...] = ()
        if self.routing.tail == "pooled":
            self.means = tuple(pool(x, self.plan)["mean"] for x in (self.k, self.v))
            self.sums += [torch.zeros(summaries, **new), torch.zeros(summaries, **new)]
        self.strides = tuple(s for x in (self.q, self.k, self.v, self.grad) for s in x.stride()[:3])
        self.config = block_sizes_of(self.q)

    def _how(self, config: BlockSize, keys: int | None = None, stages: int | None = None) -> dict:
        d = self.q.shape[3]
        return dict(
            D=d, DP=max(16, triton.next_power_of_2(d)), BM=config.block_m, BN=keys or config.block_n,
            STAGES=stages or config.stages,
            PRECISION=precision_of(self.q), num_warps=config.warps,
        )  # fmt: skip

    def delta_of_rows(self) -> None:
        b, h, n, d = self.q.shape
        moc_bwd_delta[(-(-n // 64), b * h)](
            self.out, self.grad, self.delta, *self.out.stride()[:3], *self.grad.stride()[:3], h, n,
            D=d, DP=max(16, triton.next_power_of_2(d)), BM=64, num_warps=4,
        )  # fmt: skip

    def seen(self) -> None:
        """What rows see without choosing it."""
        plan, none = self.plan, self.plan.chunk
        b, h, n, _ = self.q.shape
        dq, dk, dv = self.sums[:3]
        sizes = h, n, plan.chunks, 0, 0, 0
        inputs = self.q, self.k, self.v, self.grad, self.lse, self.delta, dq
        some = split_heads(range(h), 8 * n * self.q.shape[3])
        done = own.gradients(self.q, self.k, self.v, self.out, self.grad, self.lse, plan, self.scale, dq, dk, dv, some)
        for which in ("unrouted",) if done else ("routed", "unrouted"):
            how = self._how(self.config.of_rows)
            tiles = plan.tiles(how["BM"], which)
            if tiles.count:
                moc_bwd_q[(tiles.count, b * h)](
                    *inputs, plan.chunk, none, none, none, tiles.first, tiles.stop, tiles.span, tiles.ranges,
                    *self.strides, *sizes, 0, self.scale * LOG2E, self.scale, K=1, ROWS=1, LISTED=False, **how,
                )  # fmt: skip
        how = self._how(self.config.of_keys)
        items = seen_items(plan, SEGMENT, how["BN"], all_rows=not done)
        if not items.shape[1]:
            return
        moc_bwd_kv[(items.shape[1], b * h)](
            *inputs, dk, dv, plan.chunk, none, none, none, items, *self.strides, *sizes, items.shape[1],
            self.scale * LOG2E, self.scale, K=1, ROWS=1, LISTED=False, ROWS_TOO=False, **how,
        )  # fmt: skip

    def chosen(self, heads: range, choice: SelectionIndices | SelectionMask) -> None:
        plan, none = self.plan, self.plan.chunk
        _, h, n, _ = self.q.shape
        dq, dk, dv = self.sums[:3]
        lists = listed(choice, plan, SEGMENT).of(slice(0, len(heads)))
        inputs = self.q, self.k, self.v, self.grad, self.lse, self.delta, dq
        sizes = h, n, plan.chunks, heads.start, len(heads), lists.head, lists.tile.shape[1]
        rest = *self.strides, *sizes, self.scale * LOG2E, self.scale
        lists_of = plan.chunk, lists.entry, lists.tile, lists.border
        of_lists = dict(K=choice.size[2], ROWS=SEGMENT, LISTED=True)
        keys = _keys(self.config.of_keys, plan.longest)
        alone = plan.longest <= keys
        how = self._how(self.config.of_keys, keys, 1 if alone else None)
        moc_bwd_kv[(lists.most, -(-plan.longest // keys))](
            *inputs, dk, dv, *lists_of, none, *rest, ROWS_TOO=alone, **of_lists, **how
        )
        if not alone:
            how = self._how(self.config.of_rows)
            moc_bwd_q[(lists.most, -(-SEGMENT // how["BM"]))](
                *inputs, *lists_of, none, none, none, none, *rest, **of_lists, **how
            )
        if self.means:
            self.skipped(heads, choice.bits(plan))

    def skipped(self, heads: range, sel: Tensor) -> None:
        """Summaries of what the rows of some heads left out. sel [heads, W, N]: what they chose."""
        plan = self.plan
        _, h, n, _ = self.q.shape
        dq, _, _, dmean_k, dmean_v = self.sums
        inputs = self.q, *self.means, self.grad, self.lse, self.delta
        geometry = sel, plan.weight, plan.chunk, plan.row
        strides = *self.strides[:3], *self.strides[9:]
        sizes = h, n, plan.chunks, plan.words, heads.start
        how = self._how(self.config.of_keys, _keys(self.config.of_keys, plan.chunks), 1)
        segment = 4 * SEGMENT
        moc_bwd_tail_kv[(-(-plan.chunks // how["BN"]), -(-n // segment), len(heads))](
            *inputs, dmean_k, dmean_v, *geometry, *strides, *sizes, segment, self.scale * LOG2E, self.scale,
            CAUSAL=self.routing.candidates.causal, **how,
        )  # fmt: skip
        how = self._how(self.config.of_rows)
        moc_bwd_tail_q[(-(-n // how["BM"]), len(heads))](
            *inputs, dq, *geometry, *strides, *sizes, self.scale * LOG2E, self.scale,
            CAUSAL=self.routing.candidates.causal, **how,
        )  # fmt: skip

    def done(self) -> list[Tensor]:
        dq, dk, dv, *of_means = self.sums
        t = self.plan.table.tensors(self.q.device)
        for total, of_mean in zip((dk, dv), of_means, strict=False):
            for head in range(len(total)):  # one at a time: spread over tokens they are as large as the gradients
                total[head] += (of_mean[head] / t.lengths[:, None]).index_select(0, t.chunk_of)
        like = self.q, self.k, self.v
        return [x.view(y.shape).to(y.dtype) for x, y in zip((dq, dk, dv), like, strict=True)]


def seen_items(plan: DeviceTable, rows: int, keys: int, all_rows: bool) -> Tensor:
    """Who sees what without choosing it: [4, I] first key, keys (at most `keys`), first row, last row + 1 (at most
    `rows`). Without `all_rows` only those of groups that choose nothing."""
    if (rows, keys, all_rows) not in plan.items:
        items = [
            (j, min(keys, b - j), i, min(i + rows, g.stop))
            for g in plan.table.groups
            if all_rows or not g.routed
            for a, b in plan.ranges(g)
            for j in range(a, b, keys)
            for i in range(g.start, g.stop, rows)
        ]
        plan.items[rows, keys, all_rows] = plan.on_device(np.array(items).reshape(-1, 4).T)
    return plan.items[rows, keys, all_rows]


def _keys(config: BlockSize, longest: int) -> int:
    return max(16, min(config.block_n, triton.next_power_of_2(longest)))
