"""HunyuanVideo 1.0 and 1.5: text and video in one sequence, in an order that changed between ComfyUI versions."""

from __future__ import annotations

from .base import Adapter, Part, Sequence, each, patches


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """text [reference] video, or [reference] video text"""
    x, _, context, _, byt5, vision = args[:6]
    reference = args[9]
    grid = patches(x.shape, model.patch_size)
    count = context.shape[1] + (0 if vision is None else vision.shape[1])
    if byt5 is not None and model.byt5_in is not None:
        count += byt5.shape[1]
    text: Part = ("text", count)
    before: list[Part] = []
    if reference is not None:
        frames, height, width = patches(reference.shape, model.patch_size)
        before = [("reference", height * width)] * frames
    blocks = each(model.double_blocks, model.single_blocks)
    if getattr(model.double_blocks[0], "flipped_img_txt", False):
        return Sequence(grid, blocks, tuple(before), (text,))
    return Sequence(grid, blocks, (text, *before))


ADAPTERS = (
    Adapter(
        "HunyuanVideo",
        ("HunyuanVideo",),
        time_rule="HunyuanVideo",
        text="joint",
        sequence=sequence,
        covers="1.0 and 1.5",
    ),
)
