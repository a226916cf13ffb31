"""Tile-major engine: a tile of query rows gathers the union of the chunks its rows chose and takes one softmax.

Rows of a tile choose alike, so the union is a few times one row's choice; a mask keeps every row to its own chunks.
Plain differentiable torch; with gradients each block is recomputed in backward instead of kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...chunks import ChunkTable
from ...routing import wide

TILE = 32  # rows
GATHERED = 2**25  # elements of gathered keys held at a time


def attend(q, k, v, mean_k, mean_v, table: ChunkTable, blocks, scale: float) -> Tensor:
    """q, k, v [B, H, N, D]; mean_k, mean_v [B, H, C, D] or None -> [B, H, N, D]. Rows in no block are left at zero."""
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    pieces, done = [], 0
    for block in blocks:
        for rows, ranges, keep, skipped in _uniform(table, block):
            pieces.append(torch.zeros_like(q[:, :, done : rows.start]))
            args = q[:, :, rows], k, v, mean_k, mean_v, table, ranges, keep, skipped, scale
            pieces.append(checkpoint(_block, *args, use_reentrant=False) if grad else _block(*args))
            done = rows.stop
    pieces.append(torch.zeros_like(q[:, :, done:]))
    return torch.cat(pieces, 2)


def _uniform(table: ChunkTable, block):
    """Split a block into runs of rows with the same dense keys: (rows, dense token ranges, keep, skipped).

    Groups smaller than a tile are taken together: their own chunks then count as chosen.
    """
    small = [g for g in block.groups if g.stop - g.start < TILE]
    if len(small) == len(block.groups) > 1:
        own = torch.zeros(block.rows.stop - block.rows.start, len(table.chunks), dtype=torch.bool)
        for g in block.groups:
            own[max(g.start - block.rows.start, 0) : g.stop - block.rows.start, g.own[0] : g.own[1]] = True
        linked = [(c.start, c.stop) for c in table.chunks if c.linked]
        own &= ~torch.tensor([c.linked for c in table.chunks])
        yield block.rows, linked, block.chosen | own.to(block.chosen.device), block.skipped
        return
    for group in block.groups:
        rows = slice(max(group.start, block.rows.start), min(group.stop, block.rows.stop))
        inside = slice(rows.start - block.rows.start, rows.stop - block.rows.start)
        skipped = None if block.skipped is None else block.skipped[..., inside, :]
        yield rows, table.mandatory(group), block.chosen[..., inside, :], skipped


def _block(q, k, v, mean_k, mean_v, table: ChunkTable, ranges, keep, skipped, scale: float) -> Tensor:
    """q [B, H, R, D], keep and skipped [B, H, R, C] -> [B, H, R, D]; rows also see the dense token ranges."""
    t = table.tensors(q.device)
    b, h, r, d = q.shape
    parts: list[tuple[Tensor, Tensor]] = []  # logits [B, H, R, J] and values [B, H, J, D]
    if ranges:
        keys, values = (torch.cat([x[:, :, i:j] for i, j in ranges], 2) for x in (k, v))
        parts.append((wide(q @ keys.mT) * scale, values))
    if skipped is not None:
        logits = wide(q @ mean_k.mT) * scale + t.lengths.to(wide(q[..., :1, :1]).dtype).log()
        parts.append((logits.masked_fill(~skipped, -torch.inf), mean_v))

    tiles = -(-r // TILE)
    pad = tiles * TILE - r
    rows = torch.nn.functional.pad(q, (0, 0, 0, pad)).reshape(b * h * tiles, TILE, d)
    mine = torch.nn.functional.pad(keep, (0, 0, 0, pad)).reshape(b * h * tiles, TILE, -1)
    tokens, valid, chunk = _union(mine, t, table)
    if tokens is None:
        return _softmax(parts).to(q.dtype)
    # token of head bh -> row of the flattened [B*H*N, D]
    base = torch.arange(b * h, device=q.device).repeat_interleave(tiles)[:, None] * table.length
    flat = (base + tokens).flatten()
    step = max(1, GATHERED // (tokens.shape[1] * d))
    tops, sums, outs = [], [], []
    k_flat, v_flat = k.reshape(-1, d), v.reshape(-1, d)
    for low in range(0, len(rows), step):
        some = slice(low, low + step)
        index = flat[low * tokens.shape[1] : (low + step) * tokens.shape[1]]
        keys = k_flat[index].unflatten(0, (-1, tokens.shape[1]))
        values = v_flat[index].unflatten(0, (-1, tokens.shape[1]))
        seen = mine[some].gather(-1, chunk[some, None].expand(-1, TILE, -1)) & valid[some, None]
        logits = (wide(rows[some] @ keys.mT) * scale).masked_fill(~seen, -torch.inf)
        top = logits.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
        p = (logits - top).exp()
        tops.append(top)
        sums.append(p.sum(-1, keepdim=True))
        outs.append(p.to(v.dtype) @ values)

    def back(x: list[Tensor]) -> Tensor:
        return torch.cat(x).view(b, h, tiles * TILE, -1)[:, :, :r]

    return _softmax(parts, (back(tops), back(sums), back(outs))).to(q.dtype)


def _softmax(parts: list[tuple[Tensor, Tensor]], routed: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
    """One softmax over all parts; `routed` is a part that is already (max, sum, unnormalised output)."""
    tops = [logits.detach().amax(-1, keepdim=True) for logits, _ in parts] + ([routed[0]] if routed else [])
    top = torch.stack(torch.broadcast_tensors(*tops)).amax(0)
    total: Tensor | float = 0.0
    out: Tensor | float = 0.0
    for logits, values in parts:
        p = (logits - top).exp()
        total, out = total + p.sum(-1, keepdim=True), out + (p.to(values.dtype) @ values)
    if routed:
        weight = (routed[0] - top).exp()
        total, out = total + routed[1] * weight, out + routed[2] * weight
    return out / total


def _union(keep: Tensor, t, table: ChunkTable) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """keep [T, R, C] -> tokens, valid, chunk [T, U*L]: the chunks any row of a tile keeps, padded to the longest."""
    tile, which = keep.any(1).nonzero(as_tuple=True)
    if not len(tile):
        return None, None, None
    count = torch.bincount(tile, minlength=len(keep))
    place = torch.arange(len(tile), device=keep.device) - (count.cumsum(0) - count)[tile]
    width, longest = int(count.max()), max(c.length for c in table.chunks if c.routable or not c.linked)
    lists = torch.zeros(len(keep), width, dtype=torch.int64, device=keep.device)
    lists[tile, place] = which
    inside = torch.arange(longest, device=keep.device)
    valid = (torch.arange(width, device=keep.device) < count[:, None])[..., None] & (
        inside < t.lengths[lists][..., None]
    )
    tokens = torch.where(valid, t.starts[lists][..., None] + inside, 0)
    return tokens.flatten(1), valid.flatten(1), lists[..., None].expand(-1, -1, longest).flatten(1)
