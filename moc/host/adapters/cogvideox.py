"""CogVideoX 1.0 and 1.5: text, then video; 1.5 joins two latent frames into one frame of tokens."""

from __future__ import annotations

from .base import Plan, each, patches

CLASSES = ("CogVideoXTransformer3DModel",)


def plan(model, args: list, kwargs: dict) -> Plan:
    """text video"""
    x, _, context = args[:3]
    joined = model.patch_size_t or 1
    grid = patches(x.shape, (joined, model.patch_size, model.patch_size))
    return Plan(grid, each(model.blocks), (("text", context.shape[1]),), joined=joined)


def heads(model) -> int:
    return model.num_attention_heads
