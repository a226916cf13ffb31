"""Rules that choose chunks by their scores, each one function; `RoutingConfig.rule` names it.

A new rule is a function and an entry of `RULES`: every backend, tooltip, help page and the probe take it from there.

score [B, H, R, C]: q . descriptor, not yet scaled; candidate [R, C] or [B, H, R, C]: what may be chosen at all.
Every rule returns a mask [B, H, R, C] inside the candidates. Ties go to the lower chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..chunks.table import ChunkTable
    from ..config import RoutingConfig


@dataclass(frozen=True)
class Rule:
    """choose      (score, candidate, table, routing, scale) -> mask, as said above; scale: of q . k in the softmax
    parameters  the settings of `RoutingConfig` that it looks at
    sentence    what it reads, for people; source: whose idea it is, if not ours
    probed      settings that the probe compares where it is asked for all rules
    same_k      every row takes `ChunkTable.top_k` chunks, where it has so many
    whole       it looks at all rows of a head at once: R is all that choose
    by_error    it gets one more argument: [B, H, R, C], `scores.summary_errors`
    """

    choose: Callable[..., Tensor]
    parameters: tuple[str, ...]
    sentence: str
    source: str = ""
    probed: tuple[Mapping[str, float], ...] = ()
    same_k: bool = False
    whole: bool = False
    by_error: bool = False


def choose(
    score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float,
    error: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """What every row reads beside what it always sees. scale: of q . k in the softmax."""
    rule, arguments = RULES[routing.budget.rule], (score, candidate, table, routing, scale)
    chosen = rule.choose(*arguments, error) if rule.by_error else rule.choose(*arguments)
    chosen = chosen & candidate
    if not routing.links.nothing_sure:
        return chosen
    return chosen | (select(score, candidate, 1) & ~chosen.any(-1, keepdim=True))


def top_k(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """The k best (the paper, eq. 2); with head_density a k for every head."""
    if not routing.budget.head_density:
        return select(score, candidate, table.top_k(routing))
    one = candidate.expand(score.shape)
    counts = k_of_heads(table, routing, score.shape[1])
    return torch.stack([select(score[:, h], one[:, h], k) for h, k in enumerate(counts)], 1)


def k_of_heads(table: ChunkTable, routing: RoutingConfig, heads: int) -> list[int]:
    """How many chunks the rows of every head choose, with head_density. Raises MoCError where it is not one each."""
    routing.budget.check_heads(heads)
    return [table.top_k_at(density, routing.candidates.causal) for density in routing.budget.head_density]


def top_p(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """The fewest best chunks that hold a share p of the softmax over chunks: the cumulative rule of NABLA (2025) and
    of LongCat-Video's block-sparse attention, per query. A chunk counts by its length, since ours differ in length."""
    if routing.budget.top_p >= 1.0:
        return candidate.expand(score.shape)
    logits = score * scale + table.tensors(score.device).lengths.to(score.dtype).log()
    share = logits.masked_fill(~candidate, -torch.inf).softmax(-1).nan_to_num(0.0)  # a row may have no candidate
    best, order = share.sort(dim=-1, descending=True, stable=True)
    before = best.cumsum(-1) - best
    return torch.zeros_like(candidate.expand(score.shape)).scatter(-1, order, before < routing.budget.top_p) & candidate


def top_p_from(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """As top-p, and at least the top_k that hold most: a chunk's length counts for both (SVG 2, arXiv 2505.18875)."""
    one = candidate.expand(score.shape)
    if routing.budget.top_p >= 1.0:
        return one
    kept, order = _holding_most(score, one, table, scale, routing.budget.top_p, table.top_k(routing))
    return torch.zeros_like(one).scatter(-1, order, kept) & one


def _holding_most(
    score: Tensor, one: Tensor, table: ChunkTable, scale: float, share: float, least: int
) -> tuple[Tensor, Tensor]:
    """(kept, chunk) [B, H, R, C], those that hold most of the softmax first: what holds the share, and so many."""
    logits = score * scale + table.tensors(score.device).lengths.to(score.dtype).log()
    best, order = logits.masked_fill(~one, -torch.inf).sort(dim=-1, descending=True, stable=True)
    held = best.softmax(-1).nan_to_num(0.0)  # a row may have no candidate
    return (held.cumsum(-1) - held < share) | (torch.arange(score.shape[-1], device=score.device) < least), order


def error_per_cost(
    score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, error: Tensor
) -> Tensor:
    """SVG-EAR (arXiv 2603.08982), as its code has it. The top_k best are read anyway; of the others those whose summary
    errs most for a token read, until as many tokens are read as top-p would, or twice the top_k if that is more."""
    one = candidate.expand(score.shape)
    if routing.budget.top_p >= 1.0:
        return one
    tokens = table.tensors(score.device).lengths.to(score.dtype).expand(score.shape)
    k, rank = table.top_k(routing), torch.arange(score.shape[-1], device=score.device)
    kept, order = _holding_most(score, one, table, scale, routing.budget.top_p, 2 * k)
    sure = torch.zeros_like(one).scatter(-1, order, (rank < k).expand(score.shape)) & one
    free = (tokens.gather(-1, order) * (kept & one.gather(-1, order))).sum(-1, keepdim=True)
    free = free - (tokens * sure).sum(-1, keepdim=True)
    worth = (error - tokens.log()).masked_fill(~one | sure, -torch.inf)
    order = worth.sort(dim=-1, descending=True, stable=True).indices
    cost = tokens.gather(-1, order)
    taken = cost.cumsum(-1) - cost < free
    return (torch.zeros_like(one).scatter(-1, order, taken) | sure) & one


def threshold(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """Scores above the row's mean by beta standard deviations: Sol-Attn (arXiv 2607.24027), here over the candidates.
    The spread is that of the candidates themselves (divided by their number)."""
    count = candidate.sum(-1, keepdim=True).clamp(min=1)
    mean = score.where(candidate, 0.0).sum(-1, keepdim=True) / count
    spread = ((score - mean).square().where(candidate, 0.0).sum(-1, keepdim=True) / count).sqrt()
    return (score > mean + routing.budget.beta * spread) & candidate


def top_k_or_p(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """Whichever of both reads more, row by row: LongCat-Video's max of a fixed and a cumulative choice."""
    arguments = score, candidate, table, routing, scale
    return top_k(*arguments) | top_p(*arguments)


def best_of_head(score: Tensor, candidate: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    """The best (row, chunk) pairs of a head until their scores, spread over 0 to 1, hold a share p of their sum: VMoBA
    (arXiv 2506.23858, section 3.3). Ties go to the higher row, then to the lower chunk."""
    one = candidate.expand(score.shape)
    if routing.budget.top_p >= 1.0:  # the worst pair, which weighs nothing, too
        return one
    low = score.masked_fill(~one, torch.inf).flatten(-2).amin(-1)[..., None, None]
    high = score.masked_fill(~one, -torch.inf).flatten(-2).amax(-1)[..., None, None]
    weight = ((score - low) / (high - low)).nan_to_num(1.0).where(one, -1.0).flatten(-2)  # all alike: all count
    best, order = weight.sort(dim=-1, descending=True, stable=True)
    held = best.clamp(min=0).double()
    before = held.cumsum(-1) - held
    taken = before < routing.budget.top_p * held.sum(-1, keepdim=True)
    return torch.zeros_like(taken).scatter(-1, order, taken).view(score.shape) & one


def select(score: Tensor, candidate: Tensor, k: int) -> Tensor:
    """The k best candidates of every row as a mask [..., R, C]. Ties go to the lower chunk; too few all win."""
    k = min(k, score.shape[-1])
    if k == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    if k == score.shape[-1]:
        return candidate.expand(score.shape)
    score = score.masked_fill(~candidate, -torch.inf)
    best, index = score.topk(k + 1, dim=-1)
    last, next_best = best[..., k - 1 : k], best[..., k:]
    if not ((last == next_best) & (last > -torch.inf)).any():
        return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, index[..., :k], True) & candidate
    above, level = score > last, (score == last) & candidate
    free = k - above.sum(-1, keepdim=True)
    return above | (level & (level.cumsum(-1) <= free))


K = ("top_k", "density", "head_density")
RULES: dict[str, Rule] = {
    "top-k": Rule(
        top_k, K, "the k best chunks, the same k for all heads or a density for each", "the paper, eq. 2", same_k=True
    ),
    "top-p": Rule(
        top_p,
        ("top_p",),
        "the fewest best chunks that hold the share top_p of a token's interest, so few where it is sure",
        "cumulative rules of NABLA (2025) and LongCat-Video, here on the softmax over chunks, weighted by length",
        probed=tuple({"top_p": share} for share in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)),
    ),
    "threshold": Rule(
        threshold,
        ("beta",),
        "all chunks that stand out from the others by beta standard deviations",
        "Sol-Attn (arXiv 2607.24027)",
        probed=tuple({"beta": deviations} for deviations in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)),
    ),
    "top-k or top-p": Rule(top_k_or_p, (*K, "top_p"), "what top-k or top-p reads, whichever is more", "LongCat-Video"),
    "best of head": Rule(
        best_of_head,
        ("top_p",),
        "the best (token, chunk) pairs of a head, until they hold the share top_p of all scores: one budget for all",
        "VMoBA (arXiv 2506.23858)",
        whole=True,
    ),
    "top-p from top-k on": Rule(
        top_p_from, ("top_k", "density", "top_p"), "as top-p, and at least the top_k that hold most", "SVG 2 (2025)"
    ),
    "error per cost": Rule(
        error_per_cost,
        ("top_k", "density", "top_p"),
        "the top_k that hold most and, up to what top-p would read, those that a pooled tail would get most wrong",
        "SVG-EAR (arXiv 2603.08982)",
        by_error=True,
    ),
}
