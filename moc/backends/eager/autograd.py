"""The autograd function around all parts. Backward recomputes each from the merged log-sum-exp, so that only q, k, v,
the output and the choice are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...autocast import without_autocast
from ...chunks.table import ChunkTable, QueryGroup
from ...routing.descriptors import wide
from ..eight_bits import EightBits
from . import chunk_major, tile_major
from .softmax import ROWS, merge, never, part_gradients, softmax_part


@dataclass(frozen=True)
class Block:
    """Consecutive routed query rows. chosen [B, H, R, C]; skipped [B, H, R, C] where the tail stands in, or None."""

    rows: slice
    groups: tuple[QueryGroup, ...]
    chosen: Tensor
    skipped: Tensor | None


class Attend(torch.autograd.Function):
    """q, k, v [B, H, N, D]; mean_k, mean_v [B, H, C, D] or empty -> [B, H, N, D]. Rows in no block are left at zero.

    wanted: [B, H, N], filled with the log-sum-exp of the rows in blocks. eight: instead of q and k, but for the tail;
    without gradients."""

    @staticmethod
    def forward(
        ctx, q, k, v, mean_k, mean_v, table: ChunkTable, blocks: tuple[Block, ...], scale: float, large: bool,
        wanted: Tensor | None = None, eight: EightBits | None = None,
    ):  # fmt: skip
        engine = chunk_major if large else tile_major
        out = torch.zeros(q.shape, dtype=wide(q[..., :1, :1]).dtype, device=q.device)
        lse = out.new_full(q.shape[:-1], -torch.inf)
        exact_q, exact_k, exact_v = (q, k, v) if eight is None else (eight.q, eight.k, wide(v))
        for block in blocks:
            for rows, ranges in _dense(table, block, engine):
                keys, values = _gather(exact_k, ranges), _gather(exact_v, ranges)
                out[:, :, rows], lse[:, :, rows] = softmax_part(exact_q[:, :, rows], keys, values, scale)
            engine.forward(exact_q, exact_k, exact_v, table, block, scale, out, lse)
            if eight is not None:
                lse[:, :, block.rows] += eight.offset[:, :, block.rows] * scale
            if block.skipped is not None:
                rows, bias = block.rows, _tail_bias(table, block.skipped, q.dtype)
                part = softmax_part(q[:, :, rows], mean_k, mean_v, scale, bias)
                out[:, :, rows], lse[:, :, rows] = merge(out[:, :, rows], lse[:, :, rows], *part)
        result = out.to(q.dtype)
        if wanted is not None:
            wanted.copy_(lse)
        ctx.save_for_backward(q, k, v, mean_k, mean_v, result, lse)
        ctx.plan = table, blocks, scale, engine
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with without_autocast(grad.device):
            return Attend._backward(ctx, grad)

    @staticmethod
    def _backward(ctx, grad):
        q, k, v, mean_k, mean_v, out, lse = ctx.saved_tensors
        table, blocks, scale, engine = ctx.plan
        dq, dk, dv, dmean_k, dmean_v = (x.new_zeros(x.shape, dtype=lse.dtype) for x in (q, k, v, mean_k, mean_v))
        delta = (wide(grad) * wide(out)).sum(-1)
        for block in blocks:
            for span, ranges in _dense(table, block, engine):
                keys, values = _gather(k, ranges), _gather(v, ranges)
                for low in range(span.start, span.stop, ROWS):
                    rows = slice(low, min(low + ROWS, span.stop))
                    mine = q[:, :, rows], lse[:, :, rows], delta[:, :, rows], grad[:, :, rows]
                    gq, gk, gv = part_gradients(*mine, keys, values, scale)
                    dq[:, :, rows] += gq
                    lengths = [b - a for a, b in ranges]
                    for (a, b), one_k, one_v in zip(ranges, gk.split(lengths, 2), gv.split(lengths, 2), strict=True):
                        dk[:, :, a:b] += one_k
                        dv[:, :, a:b] += one_v
            engine.backward(q, k, v, table, block, scale, lse, delta, grad, dq, dk, dv)
            if block.skipped is not None:
                rows, bias = block.rows, _tail_bias(table, block.skipped, lse.dtype)
                mine = q[:, :, rows], lse[:, :, rows], delta[:, :, rows], grad[:, :, rows]
                gq, gk, gv = part_gradients(*mine, mean_k, mean_v, scale, bias)
                dq[:, :, rows] += gq
                dmean_k += gk
                dmean_v += gv
        inputs = (q, k, v, mean_k, mean_v)
        grads = (g.to(x.dtype) for g, x in zip((dq, dk, dv, dmean_k, dmean_v), inputs, strict=True))
        return *grads, None, None, None, None, None, None


def _dense(table: ChunkTable, block: Block, engine) -> Iterator[tuple[slice, list[tuple[int, int]]]]:
    """(rows, token ranges that all of them see). Own chunks of few rows are left to the tile engine."""
    if engine is tile_major and tile_major.takes_own(block):
        linked = [(c.start, c.stop) for c in table.chunks if c.linked]
        if linked:
            yield block.rows, linked
        return
    for group in block.groups:
        seen = table.mandatory(group)
        if seen:
            yield slice(max(group.start, block.rows.start), min(group.stop, block.rows.stop)), seen


def _gather(x: Tensor, ranges: list[tuple[int, int]]) -> Tensor:
    parts = [x[:, :, a:b] for a, b in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _tail_bias(table: ChunkTable, skipped: Tensor, dtype: torch.dtype) -> Tensor:
    """log(length) where the summary of a chunk stands in for it."""
    weight = table.tensors(skipped.device).lengths.to(dtype).log()
    return torch.where(skipped, weight, torch.tensor(never(dtype), dtype=dtype, device=skipped.device))
