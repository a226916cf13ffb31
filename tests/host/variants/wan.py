"""Wan 2.1 and 2.2."""

from __future__ import annotations

from functools import partial

import torch

from .row import NEWER, Variant, image, joined, random, vision

SIZES = {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 3}
FRAME = 16  # tokens
REFERENCE = ("reference", FRAME)
IN_FRONT = "cuts count from behind the reference image that stands in front"


def row(name: str, cls: str, config: dict | None = None, *, module: str = "wan.model", **facts) -> Variant:
    # what has the length of the film beside the latent, ComfyUI 0.3.75 does not cut into windows
    return Variant("Wan 2.1/2.2", name, cls, module, SIZES | (config or {}), text=(7, 4096), **facts)


def _vace(contexts: int, shape: tuple) -> dict:
    return {
        "vace_frames": [random(1, 32, *shape[2:], seed=7 + i) for i in range(contexts)],
        "vace_mask": [torch.ones(1, 64, *shape[2:])] * contexts,
        "vace_strength": [0.7] * contexts,
    }


def _camera(shape: tuple) -> dict:
    return {"camera_conditions": random(1, 24, shape[2], shape[3] * 8, shape[4] * 8, seed=8)}


def _reference(frames: int, shape: tuple) -> dict:
    return {"reference_latents": [random(1, 16, frames, *shape[3:], seed=9)]}


def _humo(shape: tuple) -> dict:
    return {"audio_embed": random(1, shape[2], 8, 5, 1280, seed=10)}


def _s2v(shape: tuple) -> dict:
    return {
        "reference_motion": random(1, 16, 19, *shape[3:], seed=12),
        "audio_embed": random(1, 25, 1024, shape[2] * 4, seed=13),
    }


def _phantom(shape: tuple) -> dict:
    return {"time_dim_concat": random(1, 16, 2, *shape[3:], seed=15)}


def _animate(shape: tuple) -> dict:
    return {"pose_video_latent": random(1, 16, shape[2] - 1, *shape[3:], seed=16)}


def _contexts(shape: tuple) -> dict:
    return {"context_latents": [random(1, 16, 1, 8, 8, seed=17), random(1, 16, 3, 6, 5, seed=18)]}


def _scail(shape: tuple) -> dict:
    references = [random(1, 16, 1, *shape[3:], seed=19 + i) for i in range(2)]
    return {"reference_latents": references, "pose_video_latent": random(1, 16, shape[2], 4, 4, seed=21)}


def _scail_masks(shape: tuple) -> dict:
    return {
        "driving_mask_28ch": random(1, shape[2], 28, 4, 4, seed=22),
        "ref_mask_28ch": random(1, shape[2] + 2, 28, *shape[3:], seed=23),
    }


def _dancer(shape: tuple) -> dict:
    return {"audio_embed": random(1, 12, 35, seed=24), "fps": 30}


picture = joined(image(16), vision(257, 1280))
both = joined(image(32), vision(257, 1280))
SCAIL = {"before": (REFERENCE,) * 2, "after": (("reference", 4),) * 5, "since": NEWER}

ROWS = (
    row("t2v", "WanModel"),
    row("i2v", "WanModel", {"model_type": "i2v", "in_dim": 36}, conds=picture, windows=NEWER),
    row("ti2v 5B", "WanModel", {"in_dim": 48, "out_dim": 48}, latent=(48, 5, 8, 8)),
    row(
        "vace",
        "VaceWanModel",
        {"vace_layers": 3, "vace_in_dim": 96},
        conds=partial(_vace, 1),
        blocks=(0, 0, 1, 1, 2, 2),
        windows=NEWER,
        note=IN_FRONT,
    ),
    row(
        "vace, two contexts",
        "VaceWanModel",
        {"vace_layers": 1, "vace_in_dim": 96},
        conds=partial(_vace, 2),
        blocks=(0, 0, 0, 1, 2),
        windows=NEWER,
        note=IN_FRONT,
    ),
    row("fun control", "WanModel", {"model_type": "i2v", "in_dim": 48}, conds=both, windows=NEWER),
    row(
        "fun control, reference",
        "WanModel",
        {"model_type": "i2v", "in_dim": 48, "in_dim_ref_conv": 16},
        conds=joined(both, partial(_reference, 1)),
        before=(REFERENCE,),
        windows=NEWER,
    ),
    row("phantom", "WanModel", conds=_phantom, after=(REFERENCE,) * 2),
    row(
        "camera",
        "CameraWanModel",
        {"model_type": "camera", "in_dim": 32},
        conds=joined(picture, _camera),
        windows=NEWER,
    ),
    row("humo", "HumoWanModel", conds=joined(_humo, partial(_reference, 2)), after=(REFERENCE,) * 2, windows=NEWER),
    row(
        "s2v",
        "WanModel_S2V",
        {"audio_inject_layers": [0, 2]},
        conds=joined(_s2v, partial(_reference, 1)),
        after=(REFERENCE, ("reference", 16 + 4 + 4)),
        since=NEWER,
        note="ComfyUI 0.3.75 does not hand out its attention",
    ),
    row(
        "animate",
        "AnimateWanModel",
        {"in_dim": 36, "num_layers": 5},
        module="wan.model_animate",
        conds=joined(picture, _animate),
        blocks=(0, 1, 2, 3, 4),
        windows=NEWER,
        note=IN_FRONT,
    ),
    row("context latents", "WanModel", conds=_contexts, after=(REFERENCE, *(("reference", 9),) * 3), since=NEWER),
    row("scail", "SCAILWanModel", {"in_dim": 20}, conds=_scail, **SCAIL),
    row("scail 2", "SCAIL2WanModel", {"in_dim": 20}, conds=joined(_scail, _scail_masks), **SCAIL),
    row(
        "dancer",
        "WanDancerModel",
        {"in_dim": 36, "audio_inject_layers": [0, 2]},
        module="wan.model_wandancer",
        conds=joined(picture, _dancer),
        since=NEWER,
    ),
    row(
        "causal",
        "CausalWanModel",
        {"causal_ar": True},
        module="wan.ar_model",
        sized=True,
        since=NEWER,
        note="with ordinary samplers; `ar_video` runs dense, it shows no wrapper anything",
    ),
)
