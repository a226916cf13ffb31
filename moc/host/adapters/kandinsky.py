"""Kandinsky 5: nothing but video in the self-attention; the text has transformer blocks of its own."""

from __future__ import annotations

from .base import Adapter, Sequence, each, patches


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """video"""
    x, _, context = args[:3]
    return Sequence(
        patches(x.shape, model.patch_size), each(model.visual_transformer_blocks), cross=(context.shape[1],)
    )


ADAPTERS = (
    Adapter(
        "Kandinsky 5",
        ("Kandinsky5",),
        time_rule="Kandinsky 5",
        text="mixed",
        sequence=sequence,
        heads=lambda model: model.visual_transformer_blocks[0].self_attention.num_heads,
    ),
)
