"""MiniMax H3: text, references, audio and video in one sequence, the video last."""

from __future__ import annotations

from .base import Plan, each, patches

CLASSES = ("MiniMaxH3Model",)
STRIDE = (1, 4, 4, 4, 4)  # its VAE starts anew every 17 frames
KINDS = {
    "text": "text", "cond": "reference", "ref_img": "reference",
    "cond_audio": "audio", "ref_audio": "audio", "audio": "audio",
}  # fmt: skip


def plan(model, args: list, kwargs: dict) -> Plan:
    """text [keyframes | references] audio video"""
    video, _ = args[0]
    segments = kwargs["minimax_payload"]["layout"].segments
    before = tuple((KINDS[kind], stop - start) for start, stop, kind in segments[:-1])
    return Plan(patches(video.shape, model.patch_size), each(model.blocks), before)


def heads(model) -> int:
    return model.blocks[0].attn.heads
