"""CogVideoX 1.0 and 1.5: text, then video; 1.5 joins two latent frames into one frame of tokens."""

from __future__ import annotations

from .base import Adapter, Sequence, each, patches


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """text video"""
    x, _, context = args[:3]
    joined = model.patch_size_t or 1
    grid = patches(x.shape, (joined, model.patch_size, model.patch_size))
    return Sequence(grid, each(model.blocks), (("text", context.shape[1]),), joined=joined)


ADAPTERS = (
    Adapter(
        "CogVideoX",
        ("CogVideoXTransformer3DModel",),
        time_rule="CogVideoX",
        text="joint",
        sequence=sequence,
        heads=lambda model: model.num_attention_heads,
    ),
)
