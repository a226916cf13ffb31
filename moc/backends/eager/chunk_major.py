"""Chunk-major engine: every chunk meets the rows that chose it; partial softmaxes are merged by log-sum-exp.

The same softmax either way: sum_j exp(lse_j) out_j / sum_j exp(lse_j). Backward recomputes each part from the merged
log-sum-exp, as FlashAttention does, so only q, k, v, the output and the choice are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...chunks import ChunkTable
from ...routing import wide

ROWS = 4096  # query rows whose probabilities backward and the plain path hold at a time


def attend(q, k, v, mean_k, mean_v, table: ChunkTable, blocks, scale: float) -> Tensor:
    """q, k, v [B, H, N, D]; mean_k, mean_v [B, H, C, D] or None -> [B, H, N, D]. Rows in no block are left at zero."""
    if mean_k is None:
        mean_k = mean_v = q.new_zeros(0)
    return _Attend.apply(q, k, v, mean_k, mean_v, table, blocks, scale)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, mean_k, mean_v, table, blocks, scale):
        out = torch.zeros(q.shape, dtype=wide(q[..., :1, :1]).dtype, device=q.device)
        lse = out.new_full(q.shape[:-1], -torch.inf)
        for block in blocks:
            for rows, ranges in _mandatory(table, block):
                keys, values = _gather(k, ranges), _gather(v, ranges)
                out[:, :, rows], lse[:, :, rows] = softmax_part(q[:, :, rows], keys, values, scale)
            for b, h, rows, keys in _routed(table, block):
                part = softmax_part(
                    q[b, h, rows][None, None], k[None, None, b, h, keys], v[None, None, b, h, keys], scale
                )
                old_out, old_lse = out[b, h, rows], lse[b, h, rows]
                out[b, h, rows], lse[b, h, rows] = merge(old_out, old_lse, part[0][0, 0], part[1][0, 0])
            if block.skipped is not None:
                rows = block.rows
                logits = _tail_logits(q[:, :, rows], mean_k, table, block.skipped, scale)
                part_lse = logits.logsumexp(-1)
                safe = part_lse.masked_fill(part_lse == -torch.inf, 0.0)
                part_out = (logits - safe[..., None]).exp() @ wide(mean_v)
                out[:, :, rows], lse[:, :, rows] = merge(out[:, :, rows], lse[:, :, rows], part_out, part_lse)
        result = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, mean_k, mean_v, result, lse)
        ctx.table, ctx.blocks, ctx.scale = table, blocks, scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, mean_k, mean_v, out, lse = ctx.saved_tensors
        table, scale = ctx.table, ctx.scale
        dq, dk, dv, dmean_k, dmean_v = (torch.zeros_like(wide(x)) for x in (q, k, v, mean_k, mean_v))
        delta = (wide(grad) * wide(out)).sum(-1)

        def part(rows, keys, values):
            """Gradients of one part: rows = (query, lse, delta, grad) slices, already gathered."""
            query, row_lse, row_delta, row_grad = rows
            p = (query @ keys.mT * scale - row_lse[..., None]).exp()
            ds = p * (row_grad @ values.mT - row_delta[..., None]) * scale
            return ds @ keys, ds.mT @ query, p.mT @ row_grad

        for block in ctx.blocks:
            for span, ranges in _mandatory(table, block):
                keys, values = wide(_gather(k, ranges)), wide(_gather(v, ranges))
                for low in range(span.start, span.stop, ROWS):
                    rows = slice(low, min(low + ROWS, span.stop))
                    picked = wide(q[:, :, rows]), lse[:, :, rows], delta[:, :, rows], wide(grad[:, :, rows])
                    gq, gk, gv = part(picked, keys, values)
                    dq[:, :, rows] += gq
                    offset = 0
                    for a, b in ranges:
                        dk[:, :, a:b] += gk[:, :, offset : offset + b - a]
                        dv[:, :, a:b] += gv[:, :, offset : offset + b - a]
                        offset += b - a
            for b, h, rows, keys in _routed(table, block):
                for index in rows.split(ROWS):
                    picked = wide(q[b, h, index]), lse[b, h, index], delta[b, h, index], wide(grad[b, h, index])
                    gq, gk, gv = part(picked, wide(k[b, h, keys]), wide(v[b, h, keys]))
                    dq[b, h].index_add_(0, index, gq)
                    dk[b, h, keys] += gk
                    dv[b, h, keys] += gv
            if block.skipped is not None:
                rows = block.rows
                logits = _tail_logits(q[:, :, rows], mean_k, table, block.skipped, scale)
                p = (logits - lse[:, :, rows, None]).exp()
                row_grad = wide(grad[:, :, rows])
                ds = p * (row_grad @ wide(mean_v).mT - delta[:, :, rows, None]) * scale
                dq[:, :, rows] += ds @ wide(mean_k)
                dmean_k += ds.mT @ wide(q[:, :, rows])
                dmean_v += p.mT @ row_grad
        grads = (g.to(x.dtype) for g, x in zip((dq, dk, dv, dmean_k, dmean_v), (q, k, v, mean_k, mean_v), strict=True))
        return *grads, None, None, None


def softmax_part(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over some of the keys: (out [B, H, R, D], log-sum-exp [B, H, R]), both wide."""
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
        return wide(out), lse
    if q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)[:2]
        return wide(out), lse[..., : q.shape[-2]]
    outs, sums = [], []
    for rows in q.split(ROWS, -2):
        logits = wide(rows @ k.mT) * scale
        sums.append(logits.logsumexp(-1))
        outs.append((logits - sums[-1][..., None]).exp() @ wide(v))
    return torch.cat(outs, -2), torch.cat(sums, -1)


def merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Two partial softmaxes over different keys as one. A part over no keys has log-sum-exp -inf and weighs nothing."""
    total = torch.logaddexp(lse, part_lse)
    old, new = (lse - total).exp()[..., None], (part_lse - total).exp()[..., None]
    return out * old + part * new, total


def _mandatory(table: ChunkTable, block) -> Iterator[tuple[slice, list[tuple[int, int]]]]:
    for group in block.groups:
        yield slice(max(group.start, block.rows.start), min(group.stop, block.rows.stop)), table.mandatory(group)


def _routed(table: ChunkTable, block) -> Iterator[tuple[int, int, Tensor, slice]]:
    """(batch, head, rows that chose the chunk, the chunk's tokens), empty ones left out."""
    chosen = block.chosen.transpose(-1, -2)  # [B, H, C, R]
    counts = chosen.sum(-1).flatten().tolist()
    rows = chosen.nonzero()[:, -1] + block.rows.start
    heads, chunks = chosen.shape[1], len(table.chunks)
    for index, mine in enumerate(rows.split(counts)):
        if len(mine):
            bh, c = divmod(index, chunks)
            yield bh // heads, bh % heads, mine, slice(table.chunks[c].start, table.chunks[c].stop)


def _gather(x: Tensor, ranges: list[tuple[int, int]]) -> Tensor:
    parts = [x[:, :, a:b] for a, b in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _tail_logits(q: Tensor, mean_k: Tensor, table: ChunkTable, skipped: Tensor, scale: float) -> Tensor:
    lengths = table.tensors(q.device).lengths
    logits = wide(q) @ wide(mean_k).mT * scale
    return (logits + lengths.to(logits.dtype).log()).masked_fill(~skipped, -torch.inf)
