"""A caption per shot: every frame's cross-attention reads the caption of the shot it stands in, and no other.

The captions travel as one text, one behind the other, in one CONDITIONING that also says which shot each part belongs
to. Text embeddings and keys are made token by token, so cutting the keys gives exactly what a caption alone gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import comfy.conds
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..errors import MoCError
from ..shots.cuts import Shots, shot_of
from .adapters import Sequence, adapter_for, class_of
from .session import OVERRIDE, SESSION, VIDEO, Session, VideoPass, options_of, session_of, video_pass, with_options

KEY = "moc_captions"  # of our wrappers, and of Captions in a conditioning's model_conds
SPLIT = "moc_captions_split"  # transformer_options -> Split
OF_TEXT = {"attention_mask", "pooled_output"}  # the one is joined like the texts, the other read by no such model

NO_FILM = "this sampler does not say how long the video is: use an ordinary one, or a single caption."

log = logging.getLogger("mixture_of_contexts")
Conditioning = list  # ComfyUI's CONDITIONING: [[text [1, tokens, channels], {...}], ...]


@dataclass(frozen=True)
class Captions:
    """tokens: text tokens of every shot's caption, in the order in which they stand in the text."""

    shots: Shots
    tokens: tuple[int, ...]


@dataclass(eq=False)
class Split:
    """One forward pass.

    previous   attention override that was there before ours
    starts     first latent frame of every shot
    texts      keys [from, to) of every shot's caption
    keys       keys that the text attention hands over
    """

    session: Session
    video: VideoPass
    previous: Callable | None
    starts: tuple[int, ...]
    texts: tuple[tuple[int, int], ...]
    keys: int

    def pieces(self, queries: int) -> list[tuple[slice, slice]] | None:
        """(queries, the keys they read), in order; None where these are not the video's queries."""
        layout = self.video.layout(queries)
        if layout is None:
            return None
        everything = slice(0, self.texts[-1][1])  # references belong to no shot
        pieces = [(slice(0, layout.video_start), everything)]
        frame = layout.video_start
        for shot, ids in groupby(layout.frames, partial(shot_of, starts=self.starts)):
            stop = frame + len(list(ids)) * layout.frame_tokens
            pieces.append((slice(frame, stop), slice(*self.texts[shot])))
            frame = stop
        pieces.append((slice(layout.video_stop, layout.length), everything))
        return [piece for piece in pieces if piece[0].start < piece[0].stop]


def can_split(model: ModelPatcher) -> bool:
    """Whether the captions of a model's prompt can be told apart in its cross-attention."""
    adapter = adapter_for(model.model.diffusion_model)
    return adapter is not None and adapter.text == "cross"


def join_captions(captions: list[Conditioning], shots: Shots) -> Conditioning:
    """One CONDITIONING per shot -> one for the whole film, which a model needs `read_by_shot` for."""
    if len(captions) != shots.count:
        raise MoCError(
            f"{len(captions)} captions for {shots.count} shots: give every shot one. With MoC Shots, connect its "
            "shot prompts to a text encoder."
        )
    if any(len(caption) != 1 for caption in captions):
        raise MoCError("a shot's caption must be one conditioning: combine conditionings after MoC Shot Conditioning.")
    texts = [caption[0][0] for caption in captions]
    if len({(text.shape[0], text.shape[2]) for text in texts}) != 1:
        raise MoCError("the shots' captions come from different text encoders: use the same one for all shots.")
    tokens = tuple(text.shape[1] for text in texts)
    facts = dict(captions[0][0][1])
    for number, caption in enumerate(captions[1:], 2):
        other = caption[0][1]
        differing = {key for key in facts.keys() | other.keys() if not _same(facts.get(key), other.get(key))}
        if names := ", ".join(sorted(differing - OF_TEXT)):
            raise MoCError(
                f"caption {number} does not bring the same {names} as caption 1, but anything that is not text applies "
                "to the whole video: take it off the captions and apply it after MoC Shot Conditioning."
            )
    facts["model_conds"] = {**facts.get("model_conds", {}), KEY: comfy.conds.CONDConstant(Captions(shots, tokens))}
    masks = [caption[0][1].get("attention_mask") for caption in captions]
    if any(mask is not None for mask in masks):  # of the text's padding
        masks = [torch.ones(text.shape[:2]) if mask is None else mask for text, mask in zip(texts, masks)]
        facts["attention_mask"] = torch.cat(masks, -1)
    return [[torch.cat(texts, 1), facts]]


def _same(a: object, b: object) -> bool:
    """Whether two facts of a conditioning say the same, as far as that can be told."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or (isinstance(a, (str, float, int)) and a == b)


def read_by_shot(model: ModelPatcher) -> ModelPatcher:
    """A copy of the model that gives every shot its own part of what `join_captions` joined."""
    model = model.clone()
    for kind, wrapper in ((WrappersMP.OUTER_SAMPLE, _around_run), (WrappersMP.DIFFUSION_MODEL, _around_forward)):
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)
    return model


def check(model: ModelPatcher, conds: dict) -> None:
    """Before a run: captions of single shots want a model that tells them apart. Raises MoCError."""
    if _by_shot(conds) and not model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        raise MoCError(
            "the prompt holds a caption for every shot, but this sampler's model did not come out of MoC Shot "
            "Conditioning and would read them all at once: put this model through MoC Shot Conditioning as well "
            "(Wan 2.2 has two models, and each needs it)."
        )


def _around_run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    guider = executor.class_obj
    session = session_of(guider, noise, kwargs)
    by_shot = _check_captions(session)
    out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    if by_shot and not session.cut_texts:
        log.warning(
            "MoC Shot Conditioning: every shot read all captions, since this ComfyUI does not hand out the text "
            "attention of %s",
            class_of(guider.model_patcher.model.diffusion_model),
        )
    return out


def _check_captions(session: Session) -> bool:
    """Whether a run has captions of single shots. Raises MoCError where these do not fit the film."""
    held = [(cond, cond["model_conds"][KEY].cond) for cond in _by_shot(session.conds)]
    for cond, captions in held:
        if not session.has_film:
            raise MoCError(NO_FILM)
        if cond["cross_attn"].shape[1] != sum(captions.tokens):
            raise MoCError(
                "the text was changed after MoC Shot Conditioning, so that the shots' captions cannot be found in it: "
                "change the captions before they go into it."
            )
        for note in session.starts(captions.shots)[1]:
            log.info("MoC Shot Conditioning: %s", note)
    return bool(held)


def _by_shot(conds: dict) -> list[dict]:
    return [cond for group in conds.values() for cond in group if KEY in cond.get("model_conds", {})]


def _around_forward(executor, *args, **kwargs):
    captions = kwargs.pop(KEY, None)
    if captions is not None:
        args, kwargs = _begin_forward(captions, executor.class_obj, list(args), kwargs)
    return executor(*args, **kwargs)


@torch.compiler.disable
def _begin_forward(captions: Captions, model: object, args: list, kwargs: dict) -> tuple[list, dict]:
    """The arguments of a forward pass, with our state and override in its transformer_options."""
    options = options_of(args, kwargs)
    session: Session | None = options.get(SESSION)
    if session is None or not session.has_film or adapter_for(model) is None:
        raise MoCError(NO_FILM)
    video = video_pass(model, args, kwargs)
    if video.frame_ids is None:
        raise MoCError("a part of the video is sampled alone, and nobody says which: use a single caption.")
    _make_distinct(args, replace(video.sequence, cross=()))
    keys = args[2].shape[1]
    video.sequence = replace(video.sequence, cross=(keys,))  # for MoC Apply, which may have come by before
    edges = [sum(captions.tokens[:i]) for i in range(len(captions.tokens) + 1)]
    starts, _ = session.starts(captions.shots)
    split = Split(session, video, options.get(OVERRIDE), starts, tuple(zip(edges, edges[1:])), keys)
    return with_options(args, kwargs, {VIDEO: video, SPLIT: split, OVERRIDE: _attention})


def _make_distinct(args: list, sequence: Sequence) -> None:
    """Make the text longer where something else of the same length would be taken for it. Nobody reads the rest."""
    text, beside = args[2], args[3] if len(args) > 3 else None  # images beside the text, or the mask of its padding
    length, taken = text.shape[1], set()
    if isinstance(beside, Tensor) and beside.ndim == 3:
        taken = {beside.shape[1], 2 * beside.shape[1], beside.shape[1] // 2}
    # a sequence with a part of open length may have any length: there `_attention` tells the two apart
    open_length = any(count is None for _, count in (*sequence.before, *sequence.after))
    while length in taken or (not open_length and sequence.layout(length, None) is not None):
        length += 1
    more = length - text.shape[1]
    if more:
        args[2] = torch.nn.functional.pad(text, (0, 0, 0, more))
        if isinstance(beside, Tensor) and beside.ndim == 2:
            args[3] = torch.nn.functional.pad(beside, (0, more))


@torch.compiler.disable  # a compiled graph would bake in the shots of the run that traced it
def _attention(func, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs) -> Tensor:
    """As the host's attention: q, k, v [B, N, H*D] or [B, H, N, D]; tokens are the last axis but one of all of them."""
    split: Split = kwargs["transformer_options"][SPLIT]
    attend = func if split.previous is None else partial(split.previous, func)
    texts = k.shape[-2] == split.keys == v.shape[-2] != q.shape[-2]
    pieces = split.pieces(q.shape[-2]) if texts else None
    if pieces is None:
        return attend(q, k, v, heads, mask=mask, **kwargs)
    split.session.cut_texts = True
    parts = [
        attend(
            q[..., queries, :],
            k[..., keys, :],
            v[..., keys, :],
            heads,
            mask=mask[..., keys] if mask is not None and mask.shape[-1] == split.keys else mask,
            **kwargs,
        )
        for queries, keys in pieces
    ]
    return torch.cat(parts, -2)
