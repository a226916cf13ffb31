"""MiniMax H3: text, references, audio and video in one sequence, the video last."""

from __future__ import annotations

from .base import Adapter, Sequence, each, patches

KINDS = {
    "text": "text", "cond": "reference", "ref_img": "reference",
    "cond_audio": "audio", "ref_audio": "audio", "audio": "audio",
}  # fmt: skip


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """text [keyframes | references] audio video"""
    video, _ = args[0]
    segments = kwargs["minimax_payload"]["layout"].segments
    before = tuple((KINDS[kind], stop - start) for start, stop, kind in segments[:-1])
    return Sequence(patches(video.shape, model.patch_size), each(model.blocks), before)


ADAPTERS = (
    Adapter(
        "MiniMax H3",
        ("MiniMaxH3Model",),
        time_rule="MiniMax H3",
        text="joint",
        sequence=sequence,
        heads=lambda model: model.blocks[0].attn.heads,
    ),
)
