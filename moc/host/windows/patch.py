"""Puts windows on a MODEL: ComfyUI's handler in its options, and a wrapper that tells it of the film."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from comfy.context_windows import IndexListContextHandler, create_prepare_sampling_wrapper
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...errors import MoCError
from ...shots.cuts import Shots
from ...windows import DRAWN, SHOTS, BankSettings, Drawing, WindowSettings
from ...windows.bank import OF_WINDOW, fitted, kept
from ...windows.memory import masks_of
from ...windows.shots import spans
from ..adapters import adapter_for, class_of
from ..adapters.base import conditioning
from ..patch import ROUNDING
from ..session import session_of
from . import rope
from .bank import Bank
from .handler import CUTS_GUIDES, FILM, Film, make_handler
from .reader import around_apply, around_forward

KEY = "moc_windows"  # of our wrapper
KINDS = (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL, WrappersMP.SAMPLER_SAMPLE)
HOSTS_KEY = "ContextWindows_prepare_sampling"  # of the wrapper that plans the memory of one window

log = logging.getLogger("mixture_of_contexts")


def apply_windows(
    model: ModelPatcher,
    shots: Shots | None,
    settings: WindowSettings,
    bank: BankSettings | None = None,
    mask: Tensor | None = None,
) -> ModelPatcher:
    """A copy of the model that samples long films in windows. Put on twice, the second one counts.

    bank: windows read what this keeps of the others; mask [n, h, w]: and of that only what it shows.
    """
    adapter = adapter_for(model.model.diffusion_model)
    if adapter is None:
        raise MoCError(
            f"MoC Windows does not know the model {class_of(model.model.diffusion_model)}: use ComfyUI's own context "
            "windows for it."
        )
    if settings.follow == DRAWN and shots is None:
        raise MoCError("connect shots to MoC Windows: without them there is nothing to draw.")
    if bank is not None and (why := rope.missing(model.model.diffusion_model)):
        raise MoCError(f"MoC Windows has no bank for this model: {why}. Turn bank off.")
    length, overlap = settings.latents(adapter.time_rule)
    model = model.clone()
    put_handler(model, make_handler(settings, length, overlap))
    put_wrappers(model, KEY, partial(_around_run, shots, settings, bank, mask, length, overlap), bank is not None)
    return model


def put_handler(model: ModelPatcher, handler: IndexListContextHandler) -> None:
    """In the place of the windows that were there."""
    for kind in KINDS:
        model.remove_wrappers_with_key(kind, KEY)
    model.model_options["context_handler"] = handler
    model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, HOSTS_KEY)
    create_prepare_sampling_wrapper(model)


def put_wrappers(model: ModelPatcher, key: str, around: Callable, reads: bool, sampler: Callable | None = None) -> None:
    """around: of a run; reads: its passes read a bank; sampler: around the sampler alone, when everything is loaded."""
    passes = (around_apply, around_forward) if reads else (None, None)
    for kind, wrapper in zip(KINDS, (around, *passes, sampler), strict=True):
        model.remove_wrappers_with_key(kind, key)
        if wrapper is not None:
            model.add_wrapper_with_key(kind, key, wrapper)


def _around_run(
    shots, settings, wanted, mask, length, overlap, executor, noise, latent_image, sampler, sigmas, *args, **kwargs
):
    guider = executor.class_obj
    shapes = kwargs.get("latent_shapes") or [noise.shape]
    film = _film(shots, settings, length, overlap, guider, [tuple(shape) for shape in shapes], float(sigmas[0]))
    options = guider.model_options.setdefault("transformer_options", {})
    options[FILM] = film
    if film is None or wanted is None:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    start = guider.model_patcher.get_model_object("model_sampling").percent_to_sigma(wanted.start)
    session = session_of(guider, noise, kwargs)  # in which the passes find the length of the film
    weights = kept(film.shots, wanted.frames, length, wanted.shots)
    if not weights:
        raise MoCError(
            f"bank_shots begins with {min(wanted.shots) + 1}, but the video has {len(film.shots)} shots: name some of "
            "them, like 1-4."
        )
    masks = {} if mask is None else masks_of(weights, mask, session.first, session.stop)
    if mask is not None:
        weights = {frame: weight for frame, weight in weights.items() if frame in masks}
        if not weights:
            raise MoCError("bank_mask shows nothing in the frames that the bank keeps: paint what is to be remembered.")
    if wanted.weight == OF_WINDOW:
        weights = fitted(weights, length)
    starts = (0, *(first for first, _ in film.shots[1:]))
    with Bank(
        wanted,
        weights,
        length,
        float(start) * (1 + ROUNDING),
        masks=masks,
        prompts=session.prompts(guider),
        starts=starts,
    ).held(options):
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def _film(shots, settings: WindowSettings, length: int, overlap: int, guider, shapes, sigma: float) -> Film | None:
    """None where the film needs no windows. Raises MoCError for what cannot be sampled in windows."""
    model, shape = guider.model_patcher, shapes[0]
    adapter = adapter_for(model.model.diffusion_model)
    if adapter is None or len(shape) != 5:
        raise MoCError("MoC Windows found no video in the latent: connect a video latent, or take MoC Windows out.")
    first, frames = adapter.film(shape, guider.conds)
    if (first + frames if CUTS_GUIDES else shape[2]) <= length:
        return None
    check_host(model, shapes, guides=shape[2] - first - frames)
    if conditioning(guider.conds, "time_dim_replace") is not None and not settings.keep_first:
        raise MoCError(
            "this model puts its start image into the first frame of whatever it samples, so of every window: turn "
            "keep_first on, with windows that follow shots."
        )
    starts, notes = adapter.starts(shots, frames) if shots is not None else ((0,), ())
    for note in notes:
        log.info("MoC Windows: %s", note)
    lead = first + settings.keep_first
    cuts = [lead, *(first + start for start in starts[1:] if first + start > lead)]
    film = Film(tuple(range(lead)), spans(cuts, first + frames), None)
    if settings.follow not in (SHOTS, DRAWN):
        return film
    room = length - lead
    if room <= overlap:
        raise MoCError(
            f"{lead} latent frames stand in every window, which leaves {max(room, 0)} of its {length} for the video: "
            "make the windows longer or overlap smaller."
        )
    if settings.follow == DRAWN:
        # the two samplers of a run cut in halves go on drawing, and do not begin again
        film.drawing = Drawing(film.shots, room, overlap, f"{settings.seed}/{sigma:.5g}")
        if not film.drawing.mixes:
            raise MoCError(
                f"no two of the {len(film.shots)} shots fit into a window of {settings.length} frames, so that drawing "
                f"mixes nothing: make windows longer, shots shorter, or choose {SHOTS!r}."
            )
    count = len(film.windows(length, overlap, 0))
    log.info("MoC Windows: %d shots in %d windows of at most %d latent frames", len(film.shots), count, length)
    return film


def check_host(model: ModelPatcher, shapes, guides: int) -> None:
    """Raises MoCError for what ComfyUI does not cut into windows."""
    if shapes[0][0] > 1:
        raise MoCError("ComfyUI's windows take one video at a time: set the latent's batch size to 1.")
    if guides and not CUTS_GUIDES:
        raise MoCError("this ComfyUI mistakes guide frames for the video when it cuts windows: update ComfyUI.")
    if guides and not hasattr(model.model, "_get_guide_entries"):
        raise MoCError("ComfyUI cannot cut this model's guide frames into windows: take the guides out.")
    if len(shapes) > 1 and not hasattr(model.model, "map_context_window_to_modalities"):
        raise MoCError("ComfyUI cannot cut this model's sound into windows: make the video fit into one window.")
    if model.get_wrappers(WrappersMP.DIFFUSION_MODEL, "easycache"):
        raise MoCError(
            "EasyCache keeps one result and would reuse it in other windows: use LazyCache instead, which works "
            "with windows."
        )
