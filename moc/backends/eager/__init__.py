"""Any torch device, CPU and MPS included: grouped variable-length attention, never an [N, N] tensor, with gradients.

The mandatory keys, the routed chunks and the pooled tail are three partial softmaxes, merged by log-sum-exp. Two
engines for the routed part: large chunks meet the rows that chose them (`chunk_major`); tiles of query rows meet the
union of the small chunks that their rows chose (`tile_major`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...autocast import without_autocast
from ...chunks.table import ChunkTable, QueryGroup
from ...config import EIGHT_BITS, RoutingConfig
from ...routing.bits import pack, unpack
from ...routing.candidates import candidates, union
from ...routing.noise import disturb
from ...routing.scores import chunk_means
from ...routing.selection import Selection
from ..allowed import ANYWHERE, Allowed
from ..eight_bits import in_eight_bits
from ..kept import KeptChoice, nothing_kept
from ..registry import ANY, Backend, wants_gradients
from .autograd import Attend, Block
from .softmax import softmax_part

# Below this mean chunk length the many small calls of chunk_major cost more than the masked pairs of tile_major.
LARGE_CHUNK = 128
BLOCK_ELEMENTS = 2**24  # scores held at a time


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, *, scale: float, training: bool, record,
    lse: Tensor | None = None, kept: KeptChoice | None = None,
) -> Tensor:  # fmt: skip
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]; fills lse [B, H, N]."""
    # torch's kernels behind `softmax_part` take the channels of a token to lie side by side and read whatever does
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    with without_autocast(q.device):  # scores and sums keep the digits that `wide` gives them
        kept = nothing_kept() if kept is None else kept
        kept.begin("eager", q, table, routing)
        out = _attend(q, k, v, table, routing, scale, training, record, lse, kept)
        kept.end()
        return out


def _attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, training: bool, record,
    lse: Tensor | None, kept: KeptChoice,
) -> Tensor:  # fmt: skip
    blocks: Iterable[Block] = _route(q, k, v, table, routing, scale, training, record, kept)
    # else one block after the other: their masks take up much
    if wants_gradients(q, k, v) or torch.compiler.is_compiling():
        with torch.no_grad():
            blocks = tuple(blocks)
    mean_k = mean_v = q.new_zeros(0)
    if routing.tail == "pooled":
        mean_k, mean_v = chunk_means(k, table).to(q.dtype), chunk_means(v, table).to(q.dtype)
    large, eight = table.mean_chunk >= LARGE_CHUNK, None
    if routing.precision == EIGHT_BITS:
        eight = in_eight_bits(q, k)
    out = Attend.apply(q, k, v, mean_k, mean_v, table, blocks, scale, large, lse, eight)
    for group in table.groups:  # text and references see everything
        if not group.routed:
            rows = slice(group.start, group.stop)
            dense = scaled_dot_product_attention(q[:, :, rows], k, v, scale=scale)
            if lse is not None:
                lse[:, :, rows] = softmax_part(q[:, :, rows].detach(), k.detach(), v.detach(), scale)[1]
            out = torch.slice_scatter(out, dense, 2, group.start, group.stop)
    return out


def _route(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, training: bool, record,
    kept: KeptChoice,
) -> Iterator[Block]:  # fmt: skip
    selection = None if kept.taken else Selection(q, k, table, routing, scale, v=v)
    order, heads = table.tensors(q.device).order, q.shape[:2]
    limit = max(64, BLOCK_ELEMENTS // (q.shape[0] * q.shape[1] * len(table.chunks)))
    for rows, groups in _row_blocks(table, limit, routing.lists == "union"):
        if selection is None:
            candidate = candidates(table, routing, rows, q.device)[1]
            chosen = unpack(kept.next(), len(table.chunks), slice(None)).unflatten(0, heads)
        else:
            choice = selection.of(rows)
            chosen, candidate = choice.chosen, choice.candidate
            if training:
                chosen = disturb(chosen, choice.open_to, routing, order[rows])
            if routing.lists == "union":
                chosen = union(chosen, choice.open_to, table, rows)
            words = -(-len(table.chunks) // 32)
            kept.add(4 * words * chosen[..., 0].numel(), partial(pack, chosen.flatten(0, 1)))
        if record is not None:
            record.add(rows, chosen)
        yield Block(rows, groups, chosen, candidate & ~chosen if routing.tail == "pooled" else None)


def _row_blocks(table: ChunkTable, limit: int, tiles: bool) -> Iterator[tuple[slice, tuple[QueryGroup, ...]]]:
    """Runs of at most `limit` neighbouring routed rows, with their groups; with `tiles`, of whole query tiles."""
    routed = [g for g in table.groups if g.routed]
    pieces = [(a, min(a + limit, g.stop)) for g in routed for a in range(g.start, g.stop, limit)]
    start = stop = 0
    for low, high in (*(table.query_tiles() if tiles else pieces), (-1, -1)):
        if stop and (low != stop or high - start > limit):
            yield slice(start, stop), tuple(g for g in routed if g.stop > start and g.start < stop)
            stop = 0
        start, stop = (start if stop else low), high


BACKEND = Backend(
    "eager",
    attend,
    Allowed(tails=("none", "pooled"), lists=("token", "union"), eight_bits=ANYWHERE),
    devices=(ANY,),
    title="plain torch",
)
