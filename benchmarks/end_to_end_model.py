"""A model of Wan2.1-14B's shape in ComfyUI's own classes, what it is given, and a clock inside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate, scaled_dot_product_attention

from benchmarks.end_to_end_cases import Film

FIELD = (2, 5, 5)  # latent frames and tokens between the points of the smooth noise
WHITE = 0.15  # white noise added to it
TEXT = 512
SIZE = {"dim": 5120, "num_heads": 40, "ffn_dim": 13824}
TINY_SIZE = {"dim": 256, "num_heads": 2, "ffn_dim": 512}


class Clock:
    """Times on the device: forward passes, and self-attention calls within them. Asks the device only at the end."""

    def __init__(self, device: torch.device, probe: Callable[[Tensor, Tensor], None] | None = None) -> None:
        self.cuda, self.probe = device.type == "cuda", probe
        self.steps: list[tuple] = []
        self.calls: list[tuple] = []

    def mark(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, pairs: list[tuple]) -> list[float]:
        if not self.cuda:
            return [b - a for a, b in pairs]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in pairs]

    def diffusion_model(self, executor, *args, **kwargs):
        """A wrapper inside MoC's: sees the override that MoC has put in, and times it."""
        options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x)
        previous = options.get("optimized_attention_override")

        def attend(func, q, k, v, heads, *rest, **named):
            def call() -> Tensor:
                if previous is None:
                    return func(q, k, v, heads, *rest, **named)
                return previous(func, q, k, v, heads, *rest, **named)

            if q.shape != k.shape:
                return call()
            if self.probe is not None and not self.calls:
                self.probe(q, k)
            begin = self.mark()
            out = call()
            self.calls.append((begin, self.mark()))
            return out

        ours = {**options, "optimized_attention_override": attend}
        begin = self.mark()
        out = executor(
            *(ours if x is options else x for x in args), **{n: ours if x is options else x for n, x in kwargs.items()}
        )
        self.steps.append((begin, self.mark()))
        return out


def dense_by(backend: SDPBackend):
    """An override that runs self-attention on one of torch's kernels."""

    def attend(func, q, k, v, heads, *args, **kwargs):
        if q.shape != k.shape:
            return func(q, k, v, heads, *args, **kwargs)
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return attend


def new_model(blocks: int, size: dict[str, int], device: torch.device, dtype: torch.dtype):
    """ModelPatcher of ComfyUI's WAN21, random weights made where they stay."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.WAN21_T2V({
        "image_model": "wan2.1", "model_type": "t2v", **size,
        "num_layers": blocks, "in_dim": 16, "out_dim": 16, "freq_dim": 256, "text_dim": 4096, "text_len": TEXT,
        "patch_size": (1, 2, 2), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6, "window_size": (-1, -1),
    })  # fmt: skip
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=device).to(device).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            if weight.ndim > 1 and "modulation" not in name:
                weight.normal_(0, weight[0].numel() ** -0.5)
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                if "modulation" in name:
                    weight.normal_(0, 0.1)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def noise_of(film: Film, white: bool) -> Tensor:
    """[1, 16, T, H, W] of unit variance."""
    generator = torch.Generator().manual_seed(1)
    free = torch.randn(1, 16, *film.latent, generator=generator)
    if white:
        return free
    t, h, w = film.grid
    points = [max(2, round(n / step)) for n, step in zip((t, h, w), FIELD, strict=True)]
    field = interpolate(
        torch.randn(1, 16, *points, generator=generator), film.latent, mode="trilinear", align_corners=True
    )
    return field / field.std() + WHITE * free


@contextmanager
def only(model, count: int) -> Iterator[None]:
    """The model with its first blocks alone."""
    diffusion_model = model.model.diffusion_model
    blocks = diffusion_model.blocks
    diffusion_model.blocks = blocks[:count]
    try:
        yield
    finally:
        diffusion_model.blocks = blocks


@torch.inference_mode()
def sample(model, noise: Tensor, steps: int, clock: Clock) -> None:
    """KSampler's own path."""
    import comfy.sample
    from comfy.patcher_extension import WrappersMP

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark", clock.diffusion_model)
    text = torch.randn(1, TEXT, 4096, generator=torch.Generator().manual_seed(2))
    prompt = [[text, {}]]
    comfy.sample.sample(
        model, noise, steps, 1.0, "euler", "simple", prompt, prompt, torch.zeros_like(noise), disable_pbar=True, seed=3
    )
