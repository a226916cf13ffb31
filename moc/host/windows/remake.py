"""One shot of a finished film is sampled. All others are what it sees, and come back as they were."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import comfy.context_windows as host
import torch
from comfy.model_patcher import ModelPatcher
from comfy.utils import reshape_mask
from torch import Tensor

from ...errors import MoCError
from ...shots.cuts import Shots
from ...windows import BankSettings, Making, WindowSettings
from ...windows.bank import kept
from ...windows.remake import plan, with_text
from ..adapters import adapter_for, class_of
from ..adapters.base import conditioning
from ..session import session_of
from . import rope
from .bank import Bank
from .handler import TIME, Handler
from .levels import noised, sigma_at, tells_frames
from .patch import check_host, put_handler, put_wrappers

KEY = "moc_remake"  # of our wrappers
RUN = "moc_remake_run"  # transformer_options -> Run
MASK = "moc_remake_mask"  # transformer_options -> 1 where the sampler samples, 0 where the film is
RANGES = ("timestep_start", "timestep_end")  # of a prompt
SEED = 0

log = logging.getLogger("mixture_of_contexts")


@dataclass(frozen=True, eq=False)
class Remake:
    """film     latent [1, C, T, H, W] of the film that is to come, anything where it is to be made
    bank     what is kept of the others; None: the model sees the whole film in every step
    length   latent frames that a window holds at most
    overlap  latent frames that two windows share where the shot is longer
    level    part of noise, 0 to 1, with which the finished shots are looked at
    """

    making: Making
    film: Tensor
    bank: BankSettings | None
    length: int
    overlap: int
    level: float

    @property
    def weights(self) -> dict[int, float]:
        """Latent frames of the finished shots that are kept -> how many each stands for."""
        shots, count = self.making.shots, self.bank.frames if self.bank else 0
        return kept([shot for i, shot in enumerate(shots) if i != self.making.made], count, self.length)


@dataclass(eq=False)
class Run:
    """One sampling run.

    film, noise  as they came to the sampler
    windows      latent frames of those that are sampled
    unread       of those that fill the bank, until they have
    """

    bank: Bank
    film: Tensor
    noise: Tensor
    others: list[int]
    level: float
    sigmas: Tensor
    windows: list[list[int]]
    unread: list[list[int]]


class RemakeHandler(Handler):
    """Samples the windows of one shot. Before the first of them the bank is filled from all other shots."""

    def should_use_context(self, model, conds, x_in, timestep, model_options) -> bool:
        return RUN in model_options["transformer_options"]

    def execute(self, calc_cond_batch, model, conds, x_in, timestep, model_options):
        run: Run = model_options["transformer_options"][RUN]
        if run.unread:
            self._fill(run, calc_cond_batch, model, conds, timestep, model_options)
        found = super().execute(calc_cond_batch, model, conds, x_in, timestep, model_options)
        film, others = model.process_latent_in(run.film.to(x_in)), run.others
        for out in found:  # no window was there, and a sampler that looks at the whole film must find it
            out[:, :, others] = film[:, :, others]
        return found

    def _fill(self, run: Run, calc_cond_batch, model, conds, timestep, model_options) -> None:
        sigma = sigma_at(model.model_sampling, run.level, run.sigmas).to(timestep).expand_as(timestep)
        film = model.process_latent_in(run.film.to(timestep.device, torch.float32))
        context = noised(model, sigma, run.noise.to(film), film)
        # every prompt is to find the film, also one that is used in a part of the sampling only
        always = [cond and [{k: v for k, v in c.items() if k not in RANGES} for c in cond] for cond in conds]
        kept, run.windows, run.unread = run.windows, run.unread, []
        anchored, self.causal_window_fix = getattr(self, "causal_window_fix", False), False
        run.bank.filling = True
        try:
            super().execute(calc_cond_batch, model, always, context, sigma, model_options)
        finally:
            run.bank.filling, self.causal_window_fix, run.windows = False, anchored, kept


def _windows(frames: int, handler: Handler, model_options: dict) -> list[list[int]]:
    return model_options["transformer_options"][RUN].windows


def _handler(remake: Remake) -> RemakeHandler:
    return RemakeHandler(
        context_schedule=host.ContextSchedule(RUN, _windows),
        fuse_method=host.get_matching_fuse_method("pyramid"),
        context_length=remake.length,
        context_overlap=remake.overlap,
        dim=TIME,
    )


def remake_shot(
    model: ModelPatcher,
    latent: dict,
    shots: Shots,
    do: str,
    number: int,
    length: int,
    text: str,
    settings: WindowSettings,
    bank: BankSettings | None,
    level: float,
) -> tuple[ModelPatcher, dict, Shots]:
    """A copy of the model that samples one shot of a film; the film with a place for it; and its shots.

    latent: the finished film; do, number, length: see `plan`; text: of the shot, "" for the one that it has;
    bank, level: see Remake. Put on twice, the second one counts. Raises MoCError.
    """
    adapter, film = adapter_for(model.model.diffusion_model), latent["samples"]
    if adapter is None:
        raise MoCError(f"MoC Remake does not know the model {class_of(model.model.diffusion_model)}.")
    if getattr(film, "is_nested", False) or film.ndim != 5 or film.shape[0] != 1:
        raise MoCError("MoC Remake takes the latent of one video, without sound.")
    making, shots = plan(shots, film.shape[TIME], adapter.time_rule, do, number, length)
    if text:
        shots = with_text(shots, making.made, text)
    if making.frames > film.shape[TIME]:
        if "noise_mask" in latent:
            raise MoCError("the film has a noise mask, which would not fit the longer one: take it off.")
        longer = film.new_zeros(*film.shape[:TIME], making.frames, *film.shape[TIME + 1 :])
        longer[:, :, making.others] = film
        film = longer
    windows = settings.latents(adapter.time_rule)
    remake, model = Remake(making, film, bank, *windows, level), model.clone()
    if bank is not None:
        if why := rope.missing(model.model.diffusion_model):
            raise MoCError(f"MoC Remake can keep no frames for this model: {why}. Let it see the whole film.")
        put_handler(model, _handler(remake))
    put_wrappers(model, KEY, partial(_around_run, remake), bank is not None, _around_sampler)
    return model, {**latent, "samples": film}, shots


def _around_run(remake: Remake, executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
    guider, others = executor.class_obj, remake.making.others
    shapes = [tuple(shape) for shape in kwargs.get("latent_shapes") or [noise.shape]]
    _check(remake, guider, latent_image, shapes)
    session = session_of(guider, noise, kwargs)
    if (session.first, session.stop) != (0, shapes[0][TIME]):
        raise MoCError("MoC Remake takes a film without references or guides in its latent: take them out.")
    if not noise[:, :, others].any():  # a second sampler goes on where the first one stopped; the film is finished
        generator = torch.Generator().manual_seed(SEED)
        noise = noise.clone()
        noise[:, :, others] = torch.randn(noise.shape, generator=generator).to(noise)[:, :, others]
    mask = torch.ones(1, 1, *noise.shape[TIME:], device=guider.model_patcher.load_device)
    mask[:, :, others] = 0
    if denoise_mask is not None:
        mask = mask * reshape_mask(denoise_mask.to(mask), noise.shape)
    options = guider.model_options.setdefault("transformer_options", {})
    if remake.bank is not None and not isinstance(guider.model_options.get("context_handler"), RemakeHandler):
        raise MoCError("MoC Remake cuts its own windows: put it behind MoC Windows and ComfyUI's context windows.")
    options[MASK] = mask
    if tells_frames(guider.model_patcher.model):
        denoise_mask = mask
    held: AbstractContextManager = nullcontext()
    if remake.bank is not None:
        starts = tuple(first for first, _ in remake.making.shots)
        bank = Bank(
            remake.bank,
            remake.weights,
            remake.length,
            float("inf"),
            "MoC Remake",
            prompts=session.prompts(guider),
            starts=starts,
        )
        held, options[RUN] = bank.held(options), _begin(remake, bank, latent_image, noise, sigmas)
    try:
        with held:
            out = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs).clone()
    finally:  # cancelled too
        del options[MASK]
        options.pop(RUN, None)
    out[:, :, others] = latent_image[:, :, others].to(out)
    return out


def _begin(remake: Remake, bank: Bank, film: Tensor, noise: Tensor, sigmas: Tensor) -> Run:
    making, length = remake.making, remake.length
    windows, looks = making.windows(length, remake.overlap), making.looks(bank.weights, length)
    log.info(
        "MoC Remake: shot %d in %d windows of at most %d latent frames, and %d looks at the others, %.0f %% of that",
        making.made + 1, len(windows), length, len(looks),
        100 * sum(map(len, looks)) / (sum(map(len, windows)) * (len(sigmas) - 1)),
    )  # fmt: skip
    return Run(bank, film, noise, making.others, remake.level, sigmas, windows, looks)


def _around_sampler(
    executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *args, **kwargs
):
    """The mask is the sampler's: an image-to-video model that saw it would take what it hides for start images."""
    mask = extra_args["model_options"]["transformer_options"].get(MASK, denoise_mask)
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, mask, *args, **kwargs)


def _check(remake: Remake, guider, latent_image: Tensor, shapes: list[tuple]) -> None:
    """Raises MoCError for what cannot be remade."""
    model, film, others = guider.model_patcher, remake.film, remake.making.others
    if len(shapes) > 1 or len(shapes[0]) != 5:
        raise MoCError("MoC Remake takes a video latent without sound.")
    same = latent_image.shape == film.shape
    if not same or not torch.equal(latent_image[:, :, others].to(film), film[:, :, others]):
        raise MoCError("this is not the film that MoC Remake was given: connect its latent to the sampler.")
    if remake.bank is None:
        return
    check_host(model, shapes, guides=0)
    if conditioning(guider.conds, "time_dim_replace") is not None:
        raise MoCError(
            "this model puts its start image into the first frame of whatever it samples: let MoC Remake see the "
            "whole film."
        )
