"""Cosmos 1 and Cosmos-Predict2: nothing but video in the self-attention."""

from __future__ import annotations

from torch.nn import ModuleDict

from .base import Adapter, Sequence, each, patches


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """video"""
    x, _, context = args[:3]
    grid = patches(x.shape, (model.patch_temporal, model.patch_spatial, model.patch_spatial))
    blocks = model.blocks.values() if isinstance(model.blocks, ModuleDict) else model.blocks
    return Sequence(grid, each(blocks), cross=(context.shape[1],), joined=model.patch_temporal)


ADAPTERS = (
    Adapter("Cosmos 1", ("GeneralDIT",), time_rule="Cosmos 1", text="cross", sequence=sequence),
    Adapter("Cosmos-Predict2", ("MiniTrainDIT",), time_rule="Cosmos-Predict2", text="cross", sequence=sequence),
)
