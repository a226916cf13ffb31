"""Tiny random models, built by ComfyUI's own classes, saved to a state dict and loaded by its own loader."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path

import comfy.model_detection
import comfy.ops
import comfy.sample
import comfy.sd
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent))  # the workflow tests' server loads this file by its path

from variants import VARIANTS, Variant, random

torch.set_num_threads(1)  # such small work only gets slower when it is shared out

LATENT = (1, 16, 5, 8, 8)  # B, C, T, H, W -> 5 x 4 x 4 tokens
TEXT = 7


@functools.lru_cache(maxsize=4)  # a test module goes through the variants one by one
def load(name: str = "t2v"):
    """ModelPatcher of a variant."""
    return loaded(name, weights(name), dtype=torch.float32)


def loaded(name: str, state: dict[str, Tensor], **model_options):
    """ModelPatcher of a variant whose file holds `state`."""
    variant = variant_of(name)
    detect = comfy.model_detection.detect_unet_config

    def sized(*args, **kwargs):
        return detect(*args, **kwargs) | (variant.config if variant.sized else {})

    comfy.model_detection.detect_unet_config = sized
    try:
        patcher = comfy.sd.load_diffusion_model_state_dict(state, model_options=model_options)
    finally:
        comfy.model_detection.detect_unet_config = detect
    assert type(patcher.model.diffusion_model).__name__ == variant.cls
    return patcher


def weights(name: str) -> dict[str, Tensor]:
    variant = variant_of(name)
    module = importlib.import_module(f"comfy.ldm.{variant.module}")
    cls = getattr(module, variant.cls)
    config = {key: value for key, value in variant.config.items() if key != "causal_ar"}
    if hasattr(module, "HunyuanVideoParams"):  # has a field more in ComfyUI 0.30.0
        config = {key: value for key, value in config.items() if key in module.HunyuanVideoParams.__dataclass_fields__}
    model = cls(**config, device="cpu", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(len(variant.name))
    with torch.no_grad():
        for key, weight in (*model.named_parameters(), *model.named_buffers()):
            if key not in model.state_dict():
                continue
            weight.normal_(0, weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1, generator=generator)
            if "norm" in key and key.endswith("weight"):
                weight += 2.0  # peaked attention, so that routing shows
    return model.state_dict()


def variant_of(name: str) -> Variant:
    return next(v for v in VARIANTS if name in (v.name, str(v)))


def shape_of(variant: Variant, shape: tuple | None = None) -> tuple:
    return (1, *variant.latent) if shape is None else (shape[0], variant.latent[0], *shape[2:])


@torch.inference_mode()  # as the host runs its nodes
def sample(
    model, variant: Variant = VARIANTS[0], *, shape: tuple | None = None, steps: int = 2, cfg: float = 1.0, **options
) -> Tensor:
    """KSampler's own path: noise, positive and negative conditioning, a sampler, a scheduler -> the latent."""
    shape = shape_of(variant, shape)
    tokens, channels = variant.text
    negative_text = options.pop("negative_text", tokens)
    noise, latent = options.pop("noise", random(*shape, seed=1)), options.pop("latent", torch.zeros(shape))
    if variant.audio is not None:
        from comfy.nested_tensor import NestedTensor  # not in ComfyUI 0.3.75

        noise = NestedTensor((noise, random(*variant.audio, seed=1)))
        latent = NestedTensor((latent, torch.zeros(variant.audio)))
    if variant.mask is not None:
        options["noise_mask"] = variant.mask(shape)
    out = comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        options.pop("sampler", "euler"),
        options.pop("scheduler", "simple"),
        [[random(1, tokens, channels, seed=2), variant.conds(shape)]],
        [[random(1, negative_text, channels, seed=3), variant.conds(shape)]],
        latent,
        disable_pbar=True,
        seed=4,
        **options,
    )
    return torch.cat([x.flatten() for x in out.unbind()]) if variant.audio is not None else out
