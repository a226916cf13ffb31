"""A finished film as a model knows it beside what it samples: with a part of noise, or told that it has none."""

from __future__ import annotations

from comfy.model_base import BaseModel
from torch import Tensor


def sigma_at(sampling, level: float, sigmas: Tensor) -> Tensor:
    """The noise level [1] at which noise is this part, 0 to 1, of noise and film; none that sigmas, those of a run, do
    not sample: half of a model may know some levels only."""
    known = sampling.sigmas
    noise, film = (sampling.noise_scaling(known, a, 1 - a) for a in (known * 0 + 1, known * 0))
    found = known[(noise / (noise + film) - level).abs().argmin()].reshape(1)
    return found.to(sigmas).clamp(sigmas[:-1].min(), sigmas[:-1].max())


def tells_frames(model: BaseModel) -> bool:
    """Whether the model is told how much noise every frame has, so that finished ones need none."""
    return type(model).process_timestep is not BaseModel.process_timestep


def noised(model: BaseModel, sigma: Tensor, noise: Tensor, film: Tensor) -> Tensor:
    """noise, film [1, C, T, H, W] as the model has them; sigma [1]."""
    if tells_frames(model):
        return model.scale_latent_inpaint(x=film, sigma=sigma, noise=noise, latent_image=film)
    return model.model_sampling.noise_scaling(sigma, noise, film)
