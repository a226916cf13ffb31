"""The method in one page: slow, obvious, any dtype. Every other backend is tested against this one.

It builds the full [N, N] mask, so it is for tests and small inputs only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..chunks.table import ChunkTable
from ..config import EIGHT_BITS, RoutingConfig
from ..routing.candidates import candidates, kept_shots, narrow
from ..routing.descriptors import DESCRIPTORS, wide
from ..routing.noise import disturb
from ..routing.rules import choose
from ..routing.selection import Selection
from .allowed import ANYWHERE, Allowed
from .eight_bits import in_eight_bits
from .kept import KeptChoice, nothing_kept
from .registry import Backend


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, *, scale: float, training: bool, record,
    lse: Tensor | None = None, kept: KeptChoice | None = None,
) -> Tensor:  # fmt: skip
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]; fills lse [B, H, N]."""
    t = table.tensors(q.device)
    rows = slice(0, table.length)
    mandatory, candidate = candidates(table, routing, rows, q.device)

    pieces = [(c.start, c.stop) for c in table.chunks]
    kept = nothing_kept() if kept is None else kept
    kept.begin("reference", q, table, routing)
    if kept.taken:
        chosen = kept.next()
    else:
        chosen = select(q, k, v, table, routing, scale, training, mandatory, candidate)
        kept.add(chosen.numel(), lambda: chosen)
    kept.end()
    if record is not None:
        record.add(rows, chosen)

    # One softmax over the tokens of all kept chunks (eq. 1), and over one summary of every chunk that was left out
    logits = (wide(q) @ wide(k).mT) * scale
    if routing.precision == EIGHT_BITS:  # of rows that choose
        eight, routed = in_eight_bits(q, k), t.group_routed[t.row_group]
        logits = torch.where(routed[:, None], (eight.q @ eight.k.mT + eight.offset[..., None]) * scale, logits)
    logits = logits.masked_fill(~(mandatory | chosen)[..., t.chunk_of], -torch.inf)
    values = wide(v)
    if routing.tail == "pooled":
        mean_k = torch.stack([wide(k[..., a:b, :]).mean(-2) for a, b in pieces], -2)
        mean_v = torch.stack([wide(v[..., a:b, :]).mean(-2) for a, b in pieces], -2)
        skipped = candidate & ~chosen
        summary = (wide(q) @ mean_k.mT) * scale + t.lengths.to(logits.dtype).log()
        logits = torch.cat([logits, summary.masked_fill(~skipped, -torch.inf)], -1)
        values = torch.cat([values, mean_v], -2)
    if lse is not None:
        lse.copy_(logits.detach().logsumexp(-1))
    return (logits.softmax(-1) @ values).to(q.dtype)


def select(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, training: bool,
    mandatory: Tensor, candidate: Tensor,
) -> Tensor:  # fmt: skip
    """What every row chooses [B, H, N, C]. mandatory, candidate [N, C]."""
    t, rows = table.tensors(q.device), slice(0, table.length)

    # What describes a chunk, and how well it fits each query (eq. 2 and 3)
    descriptor = DESCRIPTORS[routing.score.descriptor]  # several vectors: `selection.py`
    ends = [descriptor.ends(k[..., c.start : c.stop, :]) for c in table.chunks]
    high, low = (torch.stack(end, -2) for end in zip(*ends, strict=True))
    score = wide(q) @ high.mT
    if descriptor.signed:
        high, low = wide(high.to(k.dtype)), wide(low.to(k.dtype))
        score = wide(q).clamp(min=0) @ high.mT + wide(q).clamp(max=0) @ low.mT

    # Top-k of the candidates; a stable sort puts the lower chunk first among equals. Other rules: `rules.py`; rows that
    # choose together, and what is read because of where it stands: `selection.py`
    open_to = narrow(candidate, kept_shots(q, k, table, routing), table, rows).expand(score.shape)
    if not routing.by_row:
        chosen = Selection(q, k, table, routing, scale, v=v).of(rows).chosen
    elif routing.budget.rule == "top-k" and not routing.budget.head_density:
        best = score.masked_fill(~open_to, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        chosen = torch.zeros_like(open_to).scatter(-1, best[..., : table.top_k(routing)], True) & open_to
    else:
        chosen = choose(score, open_to, table, routing, scale)
    if training:
        chosen = disturb(chosen, open_to, routing, t.order)
    if routing.lists == "union":  # a query tile reads what any of its rows chose or owns
        own = mandatory & ~t.linked
        for start, stop in table.query_tiles():
            asked = (chosen[..., start:stop, :] | own[start:stop]).any(-2, keepdim=True)
            chosen[..., start:stop, :] = asked & open_to[..., start:stop, :]
    return chosen


BACKEND = Backend("reference", attend, Allowed(tails=("none", "pooled"), lists=("token", "union"), eight_bits=ANYWHERE))
