"""Mochi: video, then as much of the text as is no padding. It runs no wrappers around its forward pass."""

from __future__ import annotations

from .base import Adapter, Sequence, each, patches


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """video text, from the arguments of the level above"""
    x, _, _, context = args[:4]
    text = min(kwargs.get("num_tokens", 256), context.shape[1])  # the model's own default
    grid = patches(x.shape, (1, model.patch_size, model.patch_size))
    return Sequence(grid, each(model.blocks), (), (("text", text),))


ADAPTERS = (Adapter("Mochi", ("AsymmDiTJoint",), time_rule="Mochi", text="joint", sequence=sequence, outer=True),)
