"""ComfyUI's own context windows; ours only says which frames they hold, and looks at what it cuts for them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import comfy.context_windows as host
import torch

from ...errors import MoCError
from ...windows import DRAWN, SHOTS, Drawing, WindowSettings, by_shots
from ...windows.shots import Span

FILM = "moc_windows_film"  # transformer_options -> Film
TIME = 2  # axis of a video latent [B, C, T, H, W]
TIME_OF = {"vace_context": 3}  # where a conditioning has it elsewhere
KNOWN = inspect.signature(host.IndexListContextHandler.__init__).parameters
CUTS_GUIDES = hasattr(host.IndexListContextHandler, "_get_guide_entries")


@dataclass(eq=False)
class Film:
    """One sampling run.

    lead     latent frames that stand in every window: references in front of the film, its first frame if wanted
    shots    latent frames of every shot, behind these
    drawing  which shots share a window at a step
    """

    lead: tuple[int, ...]
    shots: list[Span]
    drawing: Drawing | None

    def windows(self, length: int, overlap: int, step: int) -> list[list[int]]:
        if self.drawing is not None:
            found = self.drawing.windows(step)
        else:
            found = by_shots(self.shots, length - len(self.lead), overlap)
        return [[*self.lead, *window] for window in found]


class Handler(host.IndexListContextHandler):
    """Raises MoCError before the first window is sampled where ComfyUI cannot cut out what belongs to it."""

    def set_step(self, timestep, model_options) -> None:
        """A sampler that looks between two steps stays in the step's windows."""
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        here = torch.isclose(sigmas, timestep.reshape(-1)[0].to(sigmas), rtol=1e-4).nonzero()
        if len(here):
            self._step = int(here[0])

    def get_resized_cond(self, cond_in, x_in, window, device=None):
        resized = super().get_resized_cond(cond_in, x_in, window, device)
        for whole, part in zip(cond_in or (), resized or ()):
            for name, value in whole.get("model_conds", {}).items():
                _check_cut(name, value, part["model_conds"][name], x_in.shape[TIME])
        return resized


def _check_cut(name: str, whole, part, frames: int) -> None:
    """ComfyUI 0.3.75 cuts the latent alone, 0.30 by the number of frames, wherever that stands."""
    before, after = getattr(whole, "cond", None), getattr(part, "cond", None)
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return
    axis, same = TIME_OF.get(name, TIME), before.shape == after.shape
    if same and (name == "audio_embed" or (before.ndim > 4 and before.shape[axis] == frames)):
        raise MoCError(
            f"this ComfyUI does not cut {name} into windows, so that every window would read the beginning of "
            "the video: update ComfyUI, or make the video fit into one window."
        )
    if not same and name == "reference_latent" and before.ndim == 4:
        raise MoCError(
            f"the reference image is as high in latents as the video has latent frames ({frames}), and ComfyUI's "
            "windows would cut it up: make the video one latent frame longer or shorter."
        )


def make_handler(settings: WindowSettings, length: int, overlap: int) -> Handler:
    """length, overlap: in latent frames."""
    if settings.follow in (SHOTS, DRAWN):
        schedule = host.ContextSchedule(f"moc_{settings.follow}", _windows)
    else:
        schedule = host.get_matching_context_schedule(settings.follow)
    # the frame before a window belongs to another shot where shots are drawn
    newer = {"causal_window_fix": settings.follow != DRAWN}
    return Handler(
        context_schedule=schedule,
        fuse_method=host.get_matching_fuse_method(settings.fuse),
        context_length=length,
        context_overlap=overlap,
        dim=TIME,
        **{name: value for name, value in newer.items() if name in KNOWN},
    )


def _windows(frames: int, handler: Handler, model_options: dict) -> list[list[int]]:
    """ComfyUI's form of a schedule: latent frames of the video -> those of every window of this step."""
    film: Film | None = model_options["transformer_options"].get(FILM)
    if film is None or film.shots[-1][1] != frames:
        raise MoCError("this sampler does not say how long the video is: use an ordinary one, or ComfyUI's windows.")
    return film.windows(handler.context_length, handler.context_overlap, handler._step)
