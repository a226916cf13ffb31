"""Choices made in torch, which ask the device how long lists got: drop-off and drop-in on what the kernels chose, for
training, and rules other than the k best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...config import RoutingConfig
from ...routing import candidates, describe, disturb, narrow, scores
from ...rules import choose
from .plan import Plan, plan_of

BLOCK_ELEMENTS = 2**24  # choices looked at at a time
ROUND = 8  # places of a row, above 32 of them powers of two: few kernels have to be made


def unpack(sel: Tensor, chunks: int, rows: slice) -> Tensor:
    """sel [heads, W, N] -> what the rows chose, [heads, R, C] bool."""
    bit = torch.arange(32, device=sel.device, dtype=torch.int32)
    words = sel[:, :, rows].mT  # [heads, R, W]
    return ((words[..., None] >> bit) & 1).bool().flatten(-2)[..., :chunks]


def pack(chosen: Tensor) -> Tensor:
    """chosen [heads, R, C] -> [heads, W, R]."""
    bit = torch.arange(32, device=chosen.device)
    words = pad(chosen, (0, -chosen.shape[-1] % 32)).unflatten(-1, (-1, 32)).long() << bit
    return words.sum(-1).to(torch.int32).mT


def disturbed(sel: Tensor, shots: Tensor | None, plan: Plan, routing: RoutingConfig, heads: tuple[int, ...]) -> Plan:
    """`routing.disturb` of the bits of all heads [B, H], in place -> a plan with places for the longest list.

    shots [B*H, S, S]: what the outer loop left.
    """
    order = plan.table.tensors(sel.device).order

    def chosen(rows: slice, open_to: Tensor) -> Tensor:
        return disturb(unpack(sel, plan.chunks, rows).unflatten(0, heads), open_to, routing, order[rows])

    return _rewritten(sel, shots, plan, routing, heads, chosen)


def by_rule(
    q: Tensor, k: Tensor, sel: Tensor, shots: Tensor | None, plan: Plan, routing: RoutingConfig, scale: float,
    training: bool,
) -> Plan:  # fmt: skip
    """The same for what a rule other than the k best chooses for q, k [B, H, N, D], with noise where it is wanted."""
    table = plan.table
    order, described = table.tensors(q.device).order, describe(k, table, routing.descriptor)

    def chosen(rows: slice, open_to: Tensor) -> Tensor:
        out = choose(scores(q[:, :, rows], described), open_to, table, routing, scale)
        return disturb(out, open_to, routing, order[rows]) if training else out

    with torch.autocast(q.device.type, enabled=False):
        return _rewritten(sel, shots, plan, routing, tuple(q.shape[:2]), chosen)


def _rewritten(
    sel: Tensor, shots: Tensor | None, plan: Plan, routing: RoutingConfig, heads: tuple[int, ...],
    choice: Callable[[slice, Tensor], Tensor],
) -> Plan:  # fmt: skip
    """choice(rows, what they may choose [B, H, R, C]) -> what they do, which becomes the bits."""
    keep = None if shots is None else shots.bool().unflatten(0, heads)
    most = torch.zeros((), dtype=torch.int64, device=sel.device)
    step = max(64, BLOCK_ELEMENTS // (len(sel) * plan.chunks))
    for low in range(0, plan.length, step):
        rows = slice(low, min(low + step, plan.length))
        chosen = choice(rows, narrow(candidates(plan.table, routing, rows, sel.device)[1], keep, plan.table, rows))
        most = torch.maximum(most, chosen.sum(-1).max())
        sel[:, :, rows] = pack(chosen.flatten(0, 1))
    places = -(-max(int(most), 1) // ROUND) * ROUND
    places = places if places <= 4 * ROUND else 1 << (places - 1).bit_length()
    return plan_of(plan.table, replace(routing, top_k=places, density=None), sel.device)
