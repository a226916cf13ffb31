"""Selection in torch for the kernels: rules and descriptors that have no kernel, and drop-off and drop-in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....config import RoutingConfig
from ....routing.bits import pack, unpack
from ....routing.candidates import candidates, narrow
from ....routing.noise import disturb
from ....routing.selection import Selection
from ..device_table import DeviceTable
from . import longest

BLOCK_ELEMENTS = 2**24  # choices looked at at a time


def disturbed(
    sel: Tensor, shots: Tensor | None, plan: DeviceTable, routing: RoutingConfig, heads: tuple[int, ...]
) -> DeviceTable:
    """`routing.disturb` of the bits of all heads [B, H], in place -> a plan with places for the longest list.

    shots [B*H, S, S]: what the outer loop left.
    """
    order = plan.table.tensors(sel.device).order

    def change(rows: slice, open_to: Tensor) -> Tensor:
        chosen = unpack(sel, plan.chunks, rows).unflatten(0, heads)
        return disturb(chosen, open_to, routing, order[rows])

    return _write(sel, shots, plan, routing, heads, change)


def chosen(
    q: Tensor, k: Tensor, v: Tensor, shots: Tensor | None, sel: Tensor, plan: DeviceTable, routing: RoutingConfig, *,
    scale: float,
) -> DeviceTable:  # fmt: skip
    """What all heads choose by what no kernel selects, written into sel [B*H, W, N] -> a plan as above.

    q, k, v [B, H, N, D]; shots as above.
    """
    shot_mask = None if shots is None else shots.bool().unflatten(0, q.shape[:2])
    selection = Selection(q, k, plan.table, routing, scale, shot_mask, v=v)

    def pick(rows: slice, open_to: Tensor) -> Tensor:
        return selection.of(rows).chosen

    return _write(sel, shots, plan, routing, q.shape[:2], pick)


def _write(
    sel: Tensor, shots: Tensor | None, plan: DeviceTable, routing: RoutingConfig, heads: tuple[int, ...],
    choice: Callable[[slice, Tensor], Tensor],
) -> DeviceTable:  # fmt: skip
    """Fill sel [B*H, W, N], some rows at a time. choice: (rows, what they may choose) -> their choice [B, H, R, C]."""
    shot_mask = None if shots is None else shots.bool().unflatten(0, heads)
    most = torch.zeros((), dtype=torch.int64, device=sel.device)
    step = max(64, BLOCK_ELEMENTS // (len(sel) * plan.chunks))
    for low in range(0, plan.length, step):
        rows = slice(low, min(low + step, plan.length))
        open_to = narrow(candidates(plan.table, routing, rows, sel.device)[1], shot_mask, plan.table, rows)
        picked = choice(rows, open_to)
        most = torch.maximum(most, picked.sum(-1).max())
        sel[:, :, rows] = pack(picked.flatten(0, 1))
    return longest(most, plan)
