"""In ComfyUI's process: raylight's workers, which route while they sample."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ...config import MoCSettings
from ...errors import MoCError
from ...shots.cuts import Shots
from ...trace.ranks import put_together
from ...trace.trace import Trace
from ..web.push import Live
from . import RAYLIGHT, worker

PACK, FOLDER = __name__.partition(".moc.")[0], str(Path(__file__).parents[3])
SAMPLES = ("common_ksampler", "custom_sampler", "custom_sampler_advanced")  # methods of raylight's workers
NEEDED = (*SAMPLES, "model_function_runner", "model_function_runner_get_values", "get_parallel_dict")

log = logging.getLogger("mixture_of_contexts")


def apply_to_actors(ray_actors: Any, shots: Shots | None, settings: MoCSettings, trace: Trace) -> dict:
    """raylight's RAY_ACTORS whose samplings are routed; those that came in stay as they are. The trace is filled when
    it is asked for. Raises MoCError where something is missing, or not as MoC knows it."""
    ray = _ray()
    workers: list[Any] = list(ray_actors.get("workers") or [None]) if isinstance(ray_actors, dict) else [None]
    missing = [name for name in NEEDED if not all(hasattr(actor, name) for actor in workers)]
    if missing:
        raise MoCError(f"these are not raylight's workers as MoC knows them ({', '.join(RAYLIGHT)}): no {missing[0]}.")
    asked = [actor.model_function_runner_get_values for actor in workers]
    try:
        _check_degrees(ray.get(workers[0].get_parallel_dict.remote()))
        ray.get([ask.remote(_entering(), PACK, FOLDER) for ask in asked])
        notes = {note for note in ray.get([ask.remote(worker.check) for ask in asked]) if note}
    except MoCError:
        raise
    except Exception as error:  # Ray's, around what a worker raised
        raise MoCError(str(getattr(error, "cause", None) or error)) from error
    found = _version()
    if found not in RAYLIGHT:
        notes.add(f"raylight {found} is not one that MoC was tested with ({', '.join(RAYLIGHT)})")
    if settings.schedule.break_even == "measured":
        notes.add("break_even is estimated, since GPUs that measure would not all go the same way")
    for note in notes:
        log.warning("MoC: %s.", note)
    film = _Film(ray, trace, sorted(notes))
    trace.fetch = film.fetch
    routed = [_Worker(actor, film, (shots, settings, trace.keep, len(workers))) for actor in workers]
    return {**ray_actors, "workers": routed}


def _ray() -> ModuleType:
    """Ray, which raylight has imported: this pack neither needs nor brings it."""
    if "ray" not in sys.modules or "raylight" not in sys.modules:
        raise MoCError(
            "this node works on the workers of raylight, which is not installed or did not load: install raylight "
            "(github.com/komikndr/raylight), or use MoC Apply, which works on one GPU."
        )
    return sys.modules["ray"]


def _version() -> str:
    """Of raylight, which its node pack's entry file tells."""
    entry = Path(sys.modules["raylight"].__file__ or "").parents[2] / "__init__.py"
    found = (m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(entry))
    return next((str(m.__version__) for m in found if hasattr(m, "__version__")), "of an unknown version")


def _check_degrees(degrees: dict) -> None:
    if (degrees.get("ring_degree") or 1) > 1 or degrees.get("pipefusion_enabled"):
        raise MoCError(
            "MoC's heads choose from all tokens of the film: set ring_degree to 1 and ulysses_degree to the number of "
            "GPUs, and leave PipeFusion off."
        )
    if not degrees.get("is_xdit") or (degrees.get("ulysses_degree") or 1) < 2:
        raise MoCError("these workers share no film: set ulysses_degree to the number of GPUs that should.")


def _entering() -> Callable:
    def enter(model: object, pack: str, folder: str) -> None:
        """Ray sends this function as it is, for a worker does not know the pack: after it, it can be imported there
        under the name that it has here."""
        import importlib
        import os
        import sys
        import types

        if not os.path.isdir(folder):
            raise RuntimeError(
                f"Mixture of Contexts is not on this worker's machine: install it there too, in {folder}"
            )
        if pack not in sys.modules:
            package = types.ModuleType(pack)
            package.__path__ = [folder]
            sys.modules[pack] = package
        importlib.import_module(f"{pack}.moc.host.raylight.worker")

    return enter


@dataclass(eq=False)
class _Film:
    """What is on its way from the workers of one node: their parts of the last sampling's trace."""

    ray: ModuleType
    trace: Trace
    notes: list[str]
    parts: dict[int, Any] = field(default_factory=dict)  # worker -> Ray's reference

    def fetch(self) -> None:
        """Once after a sampling, the first time that the trace is shown."""
        waiting, self.parts = self.parts, {}
        if not waiting:
            return
        found, gone = [], []
        for reference in waiting.values():
            try:
                found.append(self.ray.get(reference))
            except Exception as error:  # Ray's own, of which there are many
                gone.append(f"a GPU could not be asked what it routed ({type(error).__name__})")
        put_together(found, self.trace)
        for note in (*self.notes, *gone):
            self.trace.note(note)
        live = Live(self.trace)
        live.update(list(self.trace.records), self.trace.steps - 1)
        live.end()


class _Worker:
    """A worker of raylight in whose samplings MoC is on. Everything else goes to the worker itself.

    A worker does what it is told in order: patch, sample, tell what was traced, unpatch. So nothing stays behind,
    not even after an error, and a graph without this node finds the model as it was.
    """

    def __init__(self, actor: Any, film: _Film, asked: tuple) -> None:
        self._actor, self._film, self._asked = actor, film, asked

    def __getattr__(self, name: str) -> Any:
        if name == "_actor":  # a copy under way
            raise AttributeError(name)
        method = getattr(self._actor, name)
        return _Sampling(self, method) if name in SAMPLES else method

    def sample(self, method: Any, args: tuple, kwargs: dict) -> Any:
        actor = self._actor
        actor.model_function_runner.remote(worker.begin, *self._asked)
        result = method.remote(*args, **kwargs)
        self._film.parts[id(self)] = actor.model_function_runner_get_values.remote(worker.traced)
        actor.model_function_runner.remote(worker.end)
        return result


@dataclass(frozen=True)
class _Sampling:
    worker: _Worker
    method: Any

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self.worker.sample(self.method, args, kwargs)
