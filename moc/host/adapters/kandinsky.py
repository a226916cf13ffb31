"""Kandinsky 5: nothing but video in the self-attention; the text has transformer blocks of its own."""

from __future__ import annotations

from .base import Plan, each, patches

CLASSES = ("Kandinsky5",)


def plan(model, args: list, kwargs: dict) -> Plan:
    """video"""
    x, _, context = args[:3]
    return Plan(patches(x.shape, model.patch_size), each(model.visual_transformer_blocks), cross=(context.shape[1],))


def heads(model) -> int:
    return model.visual_transformer_blocks[0].self_attention.num_heads
