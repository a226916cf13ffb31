"""What was made before, or is given from outside, is read by every pass of a run: keys and values of one look at it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.sampler_helpers import convert_cond
from comfy.samplers import calc_cond_batch, encode_model_conds
from torch import Tensor

from ...errors import MoCError
from ...shots.cuts import Shots, shot_of
from ...windows import BankSettings, Memory, WindowSettings
from ...windows.memory import choose
from ..adapters import adapter_for, class_of
from ..captions import KEY as CAPTIONS
from ..session import Session, session_of
from ..state import RUN as ROUTED
from . import rope
from .bank import BANK, Bank
from .handler import TIME
from .levels import noised, sigma_at, tells_frames
from .patch import check_host, put_wrappers

KEY = "moc_recall"  # of our wrappers
LOOKS = "moc_recall_looks"  # transformer_options -> Looks
OF_TEXT = ("cross_attn", "pooled_output", "attention_mask", "uuid", "model_conds", "guidance", "frame_rate")


@dataclass(frozen=True, eq=False)
class Recall:
    """read    see `choose`
    window  what is remembered stands its length before the film, or its own where that is longer
    level   part of noise, 0 to 1, with which it is looked at
    """

    memories: tuple[Memory, ...]
    shots: Shots | None
    read: str
    bank: BankSettings
    window: WindowSettings
    level: float

    def length(self, model: BaseModel) -> int:
        """In latent frames."""
        adapter = adapter_for(model.diffusion_model)
        return self.window.latents(adapter.time_rule)[0] if adapter is not None else 1


@dataclass(eq=False)
class Looks:
    """One sampling run.

    memories  (memory, one of its latents, number of this latent's first frame)
    prompts   as they came to the run, by the names that the sampler has for them
    """

    recall: Recall
    bank: Bank
    memories: list[tuple[Memory, Tensor, int]]
    prompts: dict[str, list[dict]]

    def take(self, guider, sigmas: Tensor, model_options: dict, noise: Tensor) -> None:
        """One pass for every latent and prompt, which fill the bank."""
        model, bank = guider.inner_model, self.bank
        sigma = sigma_at(model.model_sampling, self.recall.level, sigmas).to(noise)
        options = {name: value for name, value in model_options["transformer_options"].items() if name != ROUTED}
        model_options = {**model_options, "transformer_options": options}
        model_options.pop("context_handler", None)
        skipped = "negative" if getattr(guider, "cfg", None) == 1.0 else None  # ComfyUI leaves it out too
        away, bank.filling = bank.away, True
        try:
            for memory, latent, first in self.memories:
                film = model.process_latent_in(latent.to(noise))
                own = torch.randn(film.shape, generator=torch.Generator().manual_seed(first)).to(film)
                context = noised(model, sigma, own, film)
                mask = film.new_zeros(1, 1, *film.shape[TIME:]) if tells_frames(model) else None
                conds = [_conds(name, some, memory.prompt) for name, some in self.prompts.items() if name != skipped]
                for name, some in zip(self.prompts, conds):
                    encode_model_conds(
                        model.extra_conds, some, film, film.device, name, latent_image=film, denoise_mask=mask, seed=0
                    )
                frames = film.shape[TIME]
                bank.away = max(self.recall.length(model), frames)
                options["context_window"] = Frames(list(range(first, first + frames)))
                calc_cond_batch(model, conds, context, sigma, model_options)
        finally:
            bank.away, bank.filling = away, False


def _conds(name: str, prompts: list[dict], made_with: list | None) -> list[dict]:
    """Prompts of a run without what belongs to its film: control videos, start images, areas. A memory that brings what
    it was made with has its own, but for a negative text."""
    found = []
    for prompt in prompts:
        facts = {key: value for key, value in prompt.items() if key in OF_TEXT}
        facts["model_conds"] = {key: value for key, value in prompt["model_conds"].items() if key != CAPTIONS}
        if made_with is not None:
            own = convert_cond(made_with)[0]
            facts = {**own, **facts} if name == "negative" else {**own, "uuid": facts["uuid"]}
            facts["model_conds"] = {key: value for key, value in facts["model_conds"].items() if key != CAPTIONS}
        found.append(facts)
    return found


@dataclass(eq=False)
class Frames:
    """Says which frames a pass holds, as ComfyUI's windows do."""

    index_list: list[int]
    dim: int = TIME


def apply_recall(model: ModelPatcher, recall: Recall) -> ModelPatcher:
    """A copy of the model that remembers. Put on twice, the second one counts. Raises MoCError."""
    diffusion_model = model.model.diffusion_model
    if adapter_for(diffusion_model) is None:
        raise MoCError(f"MoC Recall does not know the model {class_of(diffusion_model)}.")
    if why := rope.missing(diffusion_model):
        raise MoCError(f"MoC Recall cannot serve this model: {why}.")
    choose(recall.memories, recall.shots, recall.read)
    model = model.clone()
    put_wrappers(model, KEY, partial(_around_run, recall), True, _around_sampler)
    return model


def _around_run(recall: Recall, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    guider = executor.class_obj
    session = session_of(guider, noise, kwargs)
    shapes = [tuple(shape) for shape in kwargs.get("latent_shapes") or [noise.shape]]
    if not session.has_film or len(shapes) > 1:
        raise MoCError("MoC Recall found no video without sound in the latent: take it out of this graph.")
    check_host(guider.model_patcher, shapes, guides=0)
    channels = shapes[0][1]
    if other := [m.name for m in recall.memories if any(latent.shape[1] != channels for latent in m.latents)]:
        raise MoCError(f"the memory {other[0]!r} was made by another model's VAE: make it with this model's.")
    options = guider.model_options.setdefault("transformer_options", {})
    around: Bank | None = options.get(BANK)  # of another node, whose settings count
    bank = around or Bank(recall.bank, {}, 0, float("inf"), "MoC Recall")
    bank.prompts = max(bank.prompts, session.prompts(guider))
    options[LOOKS] = _plan(recall, bank, session, {name: [*conds] for name, conds in guider.conds.items()})
    try:
        with nullcontext() if around else bank.held(options):
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:  # cancelled too
        del options[LOOKS]


def _plan(recall: Recall, bank: Bank, session: Session, prompts: dict[str, list[dict]]) -> Looks:
    """Tells the bank what is to be kept and who reads it: memories are frames behind the film's last."""
    frame, looks, frames_of = session.shape[TIME], [], []
    for memory in recall.memories:
        begin, masks = frame, memory.masks()
        for number, (latent, weights) in enumerate(zip(memory.latents, memory.weights())):
            looks.append((memory, latent, frame))
            bank.weights |= {frame + i: weight for i, weight in weights.items()}
            if masks is not None:
                bank.masks |= {frame + i: masks[number][i] for i in weights}
            frame += latent.shape[TIME]
        frames_of.append(frozenset(range(begin, frame)))
        bank.names |= dict.fromkeys(range(begin, frame), memory.name)
    chosen = choose(recall.memories, recall.shots, recall.read)
    starts = session.starts(recall.shots)[0] if recall.shots is not None else (0,)
    bank.starts = starts if len(starts) > 1 else bank.starts
    for film_frame in range(session.first, session.stop):
        read = chosen[shot_of(film_frame, starts)]
        unread = [frames for number, frames in enumerate(frames_of) if number not in read]
        if unread:
            bank.hidden[film_frame] = frozenset().union(*unread)
    return Looks(recall, bank, looks, prompts)


def _around_sampler(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
    looks: Looks | None = extra_args["model_options"]["transformer_options"].get(LOOKS)
    if looks is not None:
        looks.take(guider, sigmas, extra_args["model_options"], noise)
    return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
