"""Cosmos 1 and Cosmos-Predict2: nothing but video in the self-attention."""

from __future__ import annotations

from torch.nn import ModuleDict

from .base import Plan, each, patches


def plan(model, args: list, kwargs: dict) -> Plan:
    """video"""
    x, _, context = args[:3]
    grid = patches(x.shape, (model.patch_temporal, model.patch_spatial, model.patch_spatial))
    blocks = model.blocks.values() if isinstance(model.blocks, ModuleDict) else model.blocks
    return Plan(grid, each(blocks), cross=(context.shape[1],), joined=model.patch_temporal)
