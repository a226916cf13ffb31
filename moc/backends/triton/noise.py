"""Drop-off and drop-in, for training: torch changes what the kernels chose."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...config import RoutingConfig
from ...routing import candidates, disturb, narrow
from .choose import longest
from .plan import Plan

BLOCK_ELEMENTS = 2**24  # choices looked at at a time


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
    keep = None if shots is None else shots.bool().unflatten(0, heads)
    order = plan.table.tensors(sel.device).order
    most = torch.zeros((), dtype=torch.int64, device=sel.device)
    step = max(64, BLOCK_ELEMENTS // (len(sel) * plan.chunks))
    for low in range(0, plan.length, step):
        rows = slice(low, min(low + step, plan.length))
        open_to = narrow(candidates(plan.table, routing, rows, sel.device)[1], keep, plan.table, rows)
        chosen = unpack(sel, plan.chunks, rows).unflatten(0, heads)
        chosen = disturb(chosen, open_to, routing, order[rows])
        most = torch.maximum(most, chosen.sum(-1).max())
        sel[:, :, rows] = pack(chosen.flatten(0, 1))
    return longest(most, plan)
