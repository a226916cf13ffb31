"""LTX-Video and LTX-2: guide frames follow the video; LTX-2's audio is a sequence of its own that is left alone."""

from __future__ import annotations

from functools import partial

from .base import Adapter, Part, Sequence, conditioning, each


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """video [guides]"""
    x, _, context = args[:3]
    keyframes = args[6]
    x = x[0] if isinstance(x, (list, tuple)) else x  # LTX-2: [video, audio]
    frames, height, width = x.shape[2:]
    after: list[Part] = []
    guides = _guides(keyframes, x.shape)
    if guides:
        frames -= guides
        after = [("reference", count) for count in _kept(kwargs.get("denoise_mask"), guides, height * width)]
    blocks = each(model.transformer_blocks)
    cross = (context.shape[1],)
    return Sequence((frames, height, width), blocks, (), tuple(after), cross, width=model.inner_dim)


def film(shape: tuple[int, ...], conds: dict) -> tuple[int, int]:
    return 0, shape[2] - _guides(conditioning(conds, "keyframe_idxs"), shape)


def _guides(keyframes, shape: tuple[int, ...]) -> int:
    """Frames at the end of the latent that are guides."""
    return 0 if keyframes is None else keyframes.shape[2] // (shape[-2] * shape[-1])


def _kept(mask, guides: int, frame: int) -> list[int]:
    """Tokens of every guide frame: a guide of lower resolution has holes, which the model drops."""
    if mask is None:
        return [frame] * guides
    return (mask[0, :, -guides:] >= 0).all(0).flatten(1).sum(1).tolist()


def heads(model) -> int:
    return model.transformer_blocks[0].attn1.heads


LTX = partial(Adapter, time_rule="LTX-Video", sequence=sequence, film=film, heads=heads)
ADAPTERS = (
    LTX("LTX-Video", ("LTXVModel",), text="cross"),
    LTX("LTX-2", ("LTXAVModel",), text="mixed"),
)
