"""MiniMax H3: text, references, audio and video in one sequence, the video last."""

from __future__ import annotations

from .plan import Part, Plan, each, patches

CLASSES = ("MiniMaxH3Model",)
STRIDE = (1, 4, 4, 4, 4)  # its VAE starts anew every 17 frames
KINDS = {"text": "text", "cond": "reference", "ref_img": "reference", "ref_audio": "audio", "audio": "audio"}


def plan(model, args: list, kwargs: dict) -> Plan:
    """text [keyframes | references] audio video"""
    (video, audio), _, context = args[:3]
    grid = patches(video.shape, model.patch_size)
    rest: list[Part] = [("other", None), ("audio", audio.shape[-2] * audio.shape[-1])]
    layout = (kwargs.get("minimax_payload") or {}).get("layout")
    # in context windows the model makes a layout of its own
    if layout is not None and layout.segments[-1][1] - layout.segments[-1][0] == grid[0] * grid[1] * grid[2]:
        rest = [(KINDS[kind], stop - start) for start, stop, kind in layout.segments[1:-1]]
    return Plan(grid, each(model.blocks), (("text", context.shape[1]), *rest))
