"""Rules that choose chunks by their scores, each one function; `RoutingConfig.rule` names it.

score [B, H, R, C]: q . descriptor, not yet scaled; candidate [R, C] or [B, H, R, C]: what may be chosen at all.
Every rule returns a mask [B, H, R, C] inside the candidates. Ties go to the lower chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .config import RoutingConfig
from .errors import MoCError
from .routing import select
from .table import ChunkTable

Rule = Callable[[Tensor, Tensor, ChunkTable, RoutingConfig, float], Tensor]


def choose(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """What every row reads beside what it always sees. scale: of q . k in the softmax."""
    return RULES[routing.rule](score, candidate, table, routing, scale)


def top_k(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """The k best (the paper, eq. 2); with head_density a k for every head."""
    if not routing.head_density:
        return select(score, candidate, table.top_k(routing))
    one = candidate.expand(score.shape)
    counts = k_of_heads(table, routing, score.shape[1])
    return torch.stack([select(score[:, h], one[:, h], k) for h, k in enumerate(counts)], 1)


def k_of_heads(table: ChunkTable, routing: RoutingConfig, heads: int) -> list[int]:
    """How many chunks the rows of every head choose, with head_density. Raises MoCError where it is not one each."""
    if len(routing.head_density) != heads:
        raise MoCError(
            f"head_density has {len(routing.head_density)} numbers, but this model has {heads} heads: give one each."
        )
    return [table.top_k_at(density, routing.causal) for density in routing.head_density]


def top_p(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """The fewest best chunks that hold a share p of the softmax over chunks: the cumulative rule of NABLA (2025) and
    of LongCat-Video's block-sparse attention, per query. A chunk counts by its length, since ours differ in length."""
    if routing.top_p >= 1.0:
        return candidate.expand(score.shape)
    logits = score * scale + table.tensors(score.device).lengths.to(score.dtype).log()
    share = logits.masked_fill(~candidate, -torch.inf).softmax(-1).nan_to_num(0.0)  # a row may have no candidate
    best, order = share.sort(dim=-1, descending=True, stable=True)
    before = best.cumsum(-1) - best
    return torch.zeros_like(candidate.expand(score.shape)).scatter(-1, order, before < routing.top_p) & candidate


def threshold(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """Scores above the row's mean by beta standard deviations: Sol-Attn (arXiv 2607.24027), here over the candidates.
    The spread is that of the candidates themselves (divided by their number)."""
    count = candidate.sum(-1, keepdim=True).clamp(min=1)
    mean = score.where(candidate, 0.0).sum(-1, keepdim=True) / count
    spread = ((score - mean).square().where(candidate, 0.0).sum(-1, keepdim=True) / count).sqrt()
    return (score > mean + routing.beta * spread) & candidate


def top_k_or_p(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """Whichever of both reads more, row by row: LongCat-Video's max of a fixed and a cumulative choice."""
    arguments = score, candidate, table, routing, scale
    return top_k(*arguments) | top_p(*arguments)


RULES: dict[str, Rule] = {"top-k": top_k, "top-p": top_p, "threshold": threshold, "top-k or top-p": top_k_or_p}
