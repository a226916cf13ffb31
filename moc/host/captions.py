"""A caption per shot: every frame's cross-attention reads the caption of the shot it stands in, and no other.

The captions travel as one text, one behind the other, in one CONDITIONING that also says which shot each part belongs
to. Text embeddings and keys are made token by token, so cutting the keys gives exactly what a caption alone gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

import comfy.conds
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..errors import MoCError
from ..shots.cuts import Shots, shot_of
from .adapters import Adapter, Plan, adapter_for, class_of, wan
from .forward import OVERRIDE, _absolute_frames

KEY = "moc_captions"  # of our wrappers, and of Captions in a conditioning's model_conds
FILM = "moc_captions_film"  # transformer_options -> Film
SPLIT = "moc_captions_split"  # transformer_options -> Split
CLASSES = (*wan.CLASSES, "GeneralDIT", "MiniTrainDIT")  # text by cross-attention only, every text token for itself
OF_TEXT = {"attention_mask", "pooled_output"}  # the one is joined like the texts, the other read by none of CLASSES

log = logging.getLogger("mixture_of_contexts")
Conditioning = list  # ComfyUI's CONDITIONING: [[text [1, tokens, channels], {...}], ...]


@dataclass(frozen=True)
class Captions:
    """tokens: text tokens of every shot's caption, in the order in which they stand in the text."""

    shots: Shots
    tokens: tuple[int, ...]


@dataclass(eq=False)
class Film:
    """One sampling run.

    first, frames  the film's first latent frame and the one behind its last
    starts         the shots' first latent frames, for every way to cut that the prompts bring
    split          some text attention has come by
    """

    first: int
    frames: int
    starts: dict[Shots, tuple[int, ...]] = field(default_factory=dict)
    split: bool = False


@dataclass(eq=False)
class Split:
    """One forward pass.

    film       the run it belongs to
    previous   attention override that was there before ours
    plan       where the video stands in the sequence of queries
    frame_ids  absolute latent frame of every frame the model sees
    texts      keys [from, to) of every shot's caption
    keys       keys that the text attention hands over
    """

    film: Film
    previous: Callable | None
    plan: Plan
    frame_ids: tuple[int, ...]
    starts: tuple[int, ...]
    texts: tuple[tuple[int, int], ...]
    keys: int

    def pieces(self, queries: int) -> list[tuple[slice, slice]] | None:
        """(queries, the keys they read), in order; None where these are not the video's queries."""
        layout = self.plan.layout(queries, self.frame_ids)
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
    return class_of(model.model.diffusion_model) in CLASSES


def join_captions(captions: Sequence[Conditioning], shots: Shots) -> Conditioning:
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
    by_shot = any(KEY in cond.get("model_conds", {}) for group in conds.values() for cond in group)
    if by_shot and not model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        raise MoCError(
            "the prompt holds a caption for every shot, but this sampler's model did not come out of MoC Shot "
            "Conditioning and would read them all at once: put this model through MoC Shot Conditioning as well "
            "(Wan 2.2 has two models, and each needs it)."
        )


def _around_run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    guider = executor.class_obj
    adapter = adapter_for(guider.model_patcher.model.diffusion_model)
    shape = (kwargs.get("latent_shapes") or [noise.shape])[0]
    film = None
    if adapter is not None and len(shape) == 5:
        film = _film(adapter, tuple(shape), guider.conds)
        guider.model_options.setdefault("transformer_options", {})[FILM] = film
    out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    if film is not None and film.starts and not film.split:
        log.warning(
            "MoC Shot Conditioning: every shot read all captions, since this ComfyUI does not hand out the text "
            "attention of %s",
            class_of(guider.model_patcher.model.diffusion_model),
        )
    return out


def _film(adapter: Adapter, shape: tuple[int, ...], conds: dict) -> Film:
    first, frames = adapter.film(shape, conds) if shape[2] > 1 else (0, 1)
    film = Film(first, first + frames)
    for cond in (cond for group in conds.values() for cond in group):
        held = cond.get("model_conds", {}).get(KEY)
        if held is None:
            continue
        captions: Captions = held.cond
        if cond["cross_attn"].shape[1] != sum(captions.tokens):
            raise MoCError(
                "the text was changed after MoC Shot Conditioning, so that the shots' captions cannot be found in it: "
                "change the captions before they go into it."
            )
        starts, notes = adapter.starts(captions.shots, frames)
        film.starts[captions.shots] = (0, *(first + start for start in starts[1:]))
        for note in notes:
            log.info("MoC Shot Conditioning: %s", note)
    return film


def _around_forward(executor, *args, **kwargs):
    captions = kwargs.pop(KEY, None)
    if captions is not None:
        args, kwargs = _begin_forward(captions, executor.class_obj, args, kwargs)
    return executor(*args, **kwargs)


@torch.compiler.disable
def _begin_forward(captions: Captions, model: object, args: Sequence, kwargs: dict) -> tuple[list, dict]:
    """The arguments of a forward pass, with our state and override in its transformer_options."""
    options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x)
    film: Film | None = options.get(FILM)
    adapter = adapter_for(model)
    if film is None or adapter is None:
        raise MoCError("this sampler does not say how long the video is: use an ordinary one, or a single caption.")
    args = list(args)
    plan = replace(adapter.plan(model, args, kwargs), cross=())
    frame_ids = _absolute_frames(options.get("context_window"), film.frames)[:: plan.joined]
    if len(frame_ids) != plan.grid[0]:
        raise MoCError("a part of the video is sampled alone, and nobody says which: use a single caption.")
    edges = [sum(captions.tokens[:i]) for i in range(len(captions.tokens) + 1)]
    _make_distinct(args, plan)
    starts, texts = film.starts[captions.shots], tuple(zip(edges, edges[1:]))
    split = Split(film, options.get(OVERRIDE), plan, frame_ids, starts, texts, keys=args[2].shape[1])
    ours = {**options, SPLIT: split, OVERRIDE: _attention}
    return [ours if x is options else x for x in args], {k: ours if x is options else x for k, x in kwargs.items()}


def _make_distinct(args: list, plan: Plan) -> None:
    """Make the text longer where something else of the same length would be taken for it. Nobody reads the rest."""
    text, beside = args[2], args[3] if len(args) > 3 else None  # images beside the text, or the mask of its padding
    length, taken = text.shape[1], set()
    if isinstance(beside, Tensor) and beside.ndim == 3:
        taken = {beside.shape[1], 2 * beside.shape[1], beside.shape[1] // 2}
    # a plan with a part of open length explains every length: there `_attention` tells the two apart
    open_length = any(count is None for _, count in (*plan.before, *plan.after))
    while length in taken or (not open_length and plan.layout(length, None) is not None):
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
    split.film.split = True
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
