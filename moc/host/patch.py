"""Puts MoC on a MODEL, through the patcher's public extension points."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..backends import BACKENDS
from ..backends.measured import STOPWATCH, Stopwatch
from ..config import CHOOSING, MoCSettings, RoutingConfig, Schedule
from ..config.schedule import ROUNDING
from ..errors import MoCError
from ..probe.log import ProbeLog
from ..shots.cuts import Shots
from ..trace.reasons import Reason
from ..trace.trace import Trace
from . import captions
from .adapters import Adapter, adapter_for
from .forward import begin_forward, end_forward
from .malloc_graph import uncollected
from .session import Session, options_of, session_of
from .state import KEY, RUN, Forward, Patch, Run

AroundPass = Callable[[Forward | None, dict], AbstractContextManager]


def apply_moc(
    model: ModelPatcher,
    shots: Shots | None,
    settings: MoCSettings,
    trace: Trace,
    *,
    backend: str = "auto",
    probe: ProbeLog | None = None,
    stopwatch: Stopwatch = STOPWATCH,
) -> ModelPatcher:
    """A copy of the model whose video self-attention is routed, or with a probe only looked at.

    Put on twice, the second one counts.
    """
    check_video(model)
    if backend not in ("auto", *BACKENDS):
        raise MoCError(f"unknown backend {backend!r}; choose one of: auto, {', '.join(sorted(BACKENDS))}.")
    model = model.clone()
    put_on(model, Patch(shots, settings, trace, backend, probe, stopwatch))
    return model


def put_on(model: ModelPatcher, patch: Patch, around_pass: AroundPass = lambda forward, options: nullcontext()) -> None:
    """On this very model, in place of what was put on before. around_pass: entered around every forward pass, with its
    transformer_options."""
    take_off(model)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _around_run(patch))
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _around_apply(patch, around_pass))
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _around_forward(patch, around_pass))


def take_off(model: ModelPatcher) -> None:
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        model.remove_wrappers_with_key(kind, KEY)


def check_video(model: ModelPatcher) -> None:
    if model.get_model_object("latent_format").latent_dimensions != 3:
        raise MoCError(
            f"This is not a video model ({type(model.model).__name__}): MoC routes between the frames of a video. "
            "Connect a video model, for example Wan, or take MoC Apply out of this graph."
        )


def apply_probe(
    model: ModelPatcher, shots: Shots | None, log: ProbeLog, trace: Trace, *, backend: str = "auto"
) -> ModelPatcher:
    """A copy of the model that samples as if MoC were not there and fills the log. trace: what could not be seen."""
    everywhere = replace(log.settings, schedule=Schedule(min_tokens=log.settings.schedule.min_tokens))
    return apply_moc(model, shots, everywhere, trace, backend=backend, probe=log)


def _around_run(patch: Patch) -> Callable:
    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider, trace = executor.class_obj, patch.trace
        captions.check(guider.model_patcher, guider.conds)
        percent_to_sigma = guider.model_patcher.get_model_object("model_sampling").percent_to_sigma
        patch.start(sigmas.tolist(), lambda percent: float(percent_to_sigma(percent)))
        gc.collect()  # while nothing allocates: see malloc_graph.py
        run = _start_run(patch, guider.model_patcher, sigmas.tolist(), session_of(guider, noise, kwargs))
        guider.model_options.setdefault("transformer_options", {})[RUN] = run
        try:
            out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        except BaseException:  # cancelled too: nothing of this run may reach the next one
            run.live.end(stopped=True)
            patch.start()
            raise
        finally:
            run.blocks.end()
            run.reuse.end()
        run.hand_over()
        patch.finish()
        if not trace.routed and not trace.dense:
            trace.ran_dense(Reason.MODEL)
            trace.note(
                "no video self-attention reached MoC: this ComfyUI version does not send it through the attention "
                "override, or another node has replaced it"
            )
        run.live.end()
        return out

    return outer_sample


def _around_forward(patch: Patch, around_pass: AroundPass) -> Callable:
    def diffusion_model(executor, *args, **kwargs):
        forward, args, kwargs = begin_forward(patch, executor.class_obj, args, kwargs)
        with uncollected(), around_pass(forward, options_of(args, kwargs)):
            out = executor(*args, **kwargs)
        end_forward(forward)
        return out

    return diffusion_model


def _around_apply(patch: Patch, around_pass: AroundPass) -> Callable:
    """For models that run no wrappers around their own forward pass."""

    def apply_model(executor, *args, **kwargs):
        model = executor.class_obj.diffusion_model
        adapter = adapter_for(model)
        if adapter is None or not adapter.outer:
            return executor(*args, **kwargs)
        forward, args, kwargs = begin_forward(patch, model, args, kwargs)
        with uncollected(), around_pass(forward, options_of(args, kwargs)):
            out = executor(*args, **kwargs)
        end_forward(forward)
        return out

    return apply_model


def _start_run(patch: Patch, model: ModelPatcher, sigmas: list[float], session: Session) -> Run:
    if session.adapter is not None:
        settings = patch.settings
        _check_heads(session.adapter, model.model.diffusion_model, settings.routings)
    patch.trace.first = session.first
    starts: tuple[int, ...] = (0,)
    if patch.shots is not None:
        starts, notes = session.starts(patch.shots)
        for note in notes:
            patch.trace.note(note)
    percent_to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    schedule = patch.settings.schedule
    low, high = (
        float(percent_to_sigma(percent)) * (1 + ROUNDING) for percent in (schedule.end_percent, schedule.start_percent)
    )
    flow = float(percent_to_sigma(0.0)) <= 1.0
    noise = schedule.dense_above
    if noise < 1.0:
        high = min(high, (noise if flow else noise / (1 - noise)) * (1 + ROUNDING))
    marks = tuple(float(percent_to_sigma(part)) for part in CHOOSING[schedule.choosing].at)
    return Run(patch, sigmas[:-1], (low, high), starts, flow, marks, partial(_has_room, model, session.shape))


def _has_room(model: ModelPatcher, shape: tuple[int, ...], size: int) -> bool:
    """Whether so many bytes fit beside what the host itself sets aside for a pass with both prompts."""
    free = comfy.model_management.get_free_memory(model.load_device)
    return size < free - model.memory_required([2 * shape[0], *shape[1:]])


def _check_heads(adapter: Adapter, diffusion_model: object, routings: Iterable[RoutingConfig]) -> None:
    """head_density is of no use with another number of numbers. Where a model hides its heads, the report tells."""
    try:
        heads = adapter.heads(diffusion_model)
    except (AttributeError, LookupError):
        return
    for routing in routings:
        if routing.budget.rule == "top-k":
            routing.budget.check_heads(heads)
