"""Inside a worker of raylight: called by `actors.py` with its model, by raylight's own `model_function_runner`.

The model itself is patched and not a clone: with FSDP a clone would lose what the worker keeps on its patcher.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from comfy.model_patcher import ModelPatcher

from ...config import MoCSettings
from ...errors import MoCError
from ...shots.cuts import Shots
from ...trace.ranks import Part, part_of
from ...trace.trace import Trace
from ..adapters import adapter_for, class_of
from ..patch import check_video, put_on, take_off
from ..state import Patch
from . import FAMILIES, XFUSER
from .usp import Routing, attention_class

KEY = "mixture_of_contexts_worker"  # of a model's attachments -> (its trace, its Routing)


def check(model: ModelPatcher) -> str:
    """What is worth knowing of this worker, "" for nothing. Raises MoCError where it cannot route."""
    attention_class()
    check_video(model)
    adapter = adapter_for(model.model.diffusion_model)
    if adapter is None or adapter.name not in FAMILIES:
        name = class_of(model.model.diffusion_model) if adapter is None else adapter.name
        raise MoCError(f"on raylight MoC knows {', '.join(FAMILIES)}, and not {name}: take MoC Apply for raylight out.")
    try:
        found = version("xfuser")
    except PackageNotFoundError:
        found = "of an unknown version"
    return "" if found in XFUSER else f"xfuser {found} is not one that MoC was tested with ({', '.join(XFUSER)})"


def begin(model: ModelPatcher, shots: Shots | None, settings: MoCSettings, keep: str, workers: int) -> ModelPatcher:
    trace, routing = Trace(keep=keep, share=workers), Routing()
    if settings.schedule.break_even == "measured":  # by every worker for itself: they would not go the same way
        settings = replace(settings, schedule=replace(settings.schedule, break_even="estimated"))
    put_on(model, Patch(shots, settings, trace, backend="auto"), routing.around_pass)
    model.set_attachments(KEY, (trace, routing))
    return model


def traced(model: ModelPatcher) -> Part:
    trace, routing = model.get_attachment(KEY)
    return part_of(trace, routing.group, routing.rank, routing.ranks)


def end(model: ModelPatcher) -> ModelPatcher:
    take_off(model)
    model.remove_attachments(KEY)
    return model
