"""Tiny random Wan models, built by ComfyUI's own classes, saved to a state dict and loaded by its own loader."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import comfy.ldm.wan.model as wan
import comfy.ldm.wan.model_animate as animate
import comfy.ops
import comfy.sample
import comfy.sd
import torch
from torch import Tensor

torch.set_num_threads(1)  # such small work only gets slower when it is shared out

LATENT = (1, 16, 5, 8, 8)  # B, C, T, H, W -> 5 x 4 x 4 tokens
TEXT = 7
SIZES = {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 3}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Variant:
    """One way to use a Wan model.

    conds     what its conditioning nodes put into the conditioning, given the latent's shape
    before, after  tokens around the video
    routed    video self-attention calls of one forward pass
    since     first ComfyUI version that has it, or lets anyone see its attention
    """

    name: str
    cls: str
    config: dict = field(default_factory=dict)
    conds: Callable[[tuple], dict] = lambda shape: {}
    channels: int = 16
    before: int = 0
    after: int = 0
    routed: int = 3
    since: str = "0.3.75"

    def __str__(self) -> str:
        return self.name


def _image(channels: int) -> Callable[[tuple], dict]:
    def conds(shape: tuple) -> dict:
        return {
            "concat_latent_image": random(1, channels, *shape[2:], seed=5),
            "clip_vision_output": SimpleNamespace(penultimate_hidden_states=random(1, 257, 1280, seed=6)),
        }

    return conds


def _vace(contexts: int) -> Callable[[tuple], dict]:
    def conds(shape: tuple) -> dict:
        return {
            "vace_frames": [random(1, 32, *shape[2:], seed=7 + i) for i in range(contexts)],
            "vace_mask": [torch.ones(1, 64, *shape[2:])] * contexts,
            "vace_strength": [0.7] * contexts,
        }

    return conds


def _camera(shape: tuple) -> dict:
    return {**_image(16)(shape), "camera_conditions": random(1, 24, shape[2], shape[3] * 8, shape[4] * 8, seed=8)}


def _humo(shape: tuple) -> dict:
    return {
        "reference_latents": [random(1, 16, 2, *shape[3:], seed=9)],
        "audio_embed": random(1, shape[2], 8, 5, 1280, seed=10),
    }


def _s2v(shape: tuple) -> dict:
    return {
        "reference_latents": [random(1, 16, 1, *shape[3:], seed=11)],
        "reference_motion": random(1, 16, 19, *shape[3:], seed=12),
        "audio_embed": random(1, 25, 1024, shape[2] * 4, seed=13),
    }


FRAME = 16  # tokens
VARIANTS = (
    Variant("t2v", "WanModel"),
    Variant("i2v", "WanModel", {"model_type": "i2v", "in_dim": 36}, _image(16)),
    Variant("ti2v 5B", "WanModel", {"in_dim": 48, "out_dim": 48}, channels=48),
    Variant("vace", "VaceWanModel", {"vace_layers": 3, "vace_in_dim": 96}, _vace(1), routed=6),
    Variant("vace, two contexts", "VaceWanModel", {"vace_layers": 1, "vace_in_dim": 96}, _vace(2), routed=5),
    Variant("fun control", "WanModel", {"model_type": "i2v", "in_dim": 48}, _image(32)),
    Variant(
        "fun control, reference",
        "WanModel",
        {"model_type": "i2v", "in_dim": 48, "in_dim_ref_conv": 16},
        lambda shape: {**_image(32)(shape), "reference_latents": [random(1, 16, 1, *shape[3:], seed=14)]},
        before=FRAME,
    ),
    Variant(
        "phantom",
        "WanModel",
        conds=lambda shape: {"time_dim_concat": random(1, 16, 2, *shape[3:], seed=15)},
        after=2 * FRAME,
    ),
    Variant("camera", "CameraWanModel", {"model_type": "camera", "in_dim": 32}, _camera),
    Variant("humo", "HumoWanModel", conds=_humo, after=2 * FRAME),
    Variant("s2v", "WanModel_S2V", {"audio_inject_layers": [0, 2]}, _s2v, after=FRAME + 16 + 4 + 4, since="0.30.0"),
    Variant(
        "animate",
        "AnimateWanModel",
        {"in_dim": 36, "num_layers": 5},
        lambda shape: {**_image(16)(shape), "pose_video_latent": random(1, 16, shape[2] - 1, *shape[3:], seed=16)},
        routed=5,
    ),
    Variant(
        "context latents",
        "WanModel",
        conds=lambda shape: {"context_latents": [random(1, 16, 1, 8, 8, seed=17), random(1, 16, 3, 6, 5, seed=18)]},
        after=FRAME + 3 * 9,
        since="0.30.0",
    ),
)


@functools.cache
def load(name: str = "t2v"):
    """ModelPatcher of a variant."""
    patcher = comfy.sd.load_diffusion_model_state_dict(weights(name), model_options={"dtype": torch.float32})
    assert type(patcher.model.diffusion_model).__name__ == variant_of(name).cls
    return patcher


def weights(name: str) -> dict[str, Tensor]:
    variant = variant_of(name)
    cls = getattr(animate if variant.cls == "AnimateWanModel" else wan, variant.cls)
    model = cls(**SIZES | variant.config, device="cpu", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.normal_(0, weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1, generator=generator)
            if "norm" in key and key.endswith("weight"):
                weight += 2.0  # peaked attention, so that routing shows
    return model.state_dict()


def variant_of(name: str) -> Variant:
    return next(v for v in VARIANTS if v.name == name)


def shape_of(variant: Variant, shape: tuple = LATENT) -> tuple:
    return (shape[0], variant.channels, *shape[2:])


@torch.inference_mode()  # as the host runs its nodes
def sample(
    model, variant: Variant = VARIANTS[0], *, shape: tuple = LATENT, steps: int = 2, cfg: float = 1.0, **options
):
    """KSampler's own path: noise, positive and negative conditioning, a sampler, a scheduler -> the latent."""
    shape = shape_of(variant, shape)
    conds = variant.conds(shape)
    negative_text = options.pop("negative_text", TEXT)
    return comfy.sample.sample(
        model,
        options.pop("noise", random(*shape, seed=1)),
        steps,
        cfg,
        options.pop("sampler", "euler"),
        options.pop("scheduler", "simple"),
        [[random(1, TEXT, 4096, seed=2), dict(conds)]],
        [[random(1, negative_text, 4096, seed=3), dict(conds)]],
        torch.zeros(shape),
        disable_pbar=True,
        seed=4,
        **options,
    )
