"""A small model of ComfyUI's Wan class, random weights, and its films of two steps of Euler, for test_graph.py.

Every routed run has a trace, and a stand-in for a browser listens to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from benchmarks.end_to_end_cases import Film
from benchmarks.end_to_end_model import TEXT, dense_by
from moc.config import MoCSettings, RoutingConfig, Schedule

SIZE = {"dim": 1536, "num_heads": 12, "ffn_dim": 4096}
FILM, TINY_FILM = Film("4 shots", (24, 60, 104), 4, (1, 1)), Film("tiny", (8, 24, 32), 4, (1, 1))
ALL = RoutingConfig.of(top_k=10_000, own="chunk")
RULES = {
    "own shot + 5 frames, causal": RoutingConfig.of(top_k=5, own="shot", causal=True),
    "own chunk + 16 of 450": RoutingConfig.of(top_k=16, chunk_tokens=450, own="chunk"),
    "own frame + 16 of 8x8, min-max, tail": RoutingConfig.of(
        top_k=16, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled"
    ),
    "own frame + 20 of 4x4, min-max, tail": RoutingConfig.of(
        top_k=20, tile=(1, 4, 4), own="frame", descriptor="minmax", tail="pooled"
    ),
}


@torch.inference_mode()
def film(model, noise: Tensor, callback: Callable | None = None) -> Tensor:
    """KSampler's own path, two prompts at CFG 4."""
    import comfy.sample

    texts = [torch.randn(1, TEXT, 4096, generator=torch.Generator().manual_seed(s)) for s in (2, 3)]
    out = comfy.sample.sample(
        model, noise, 2, 4.0, "euler", "simple", [[texts[0], {}]], [[texts[1], {}]], torch.zeros_like(noise),
        disable_pbar=True, seed=3, callback=callback,
    )  # fmt: skip
    return out.float().cpu()


def with_lora(model, seed: int):
    """A clone with low-rank changes of some projections, as a LoRA file gives them."""
    model, make = model.clone(), torch.Generator().manual_seed(seed)
    patches = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if ".self_attn." in name and name.endswith("weight") and weight.ndim == 2:
            up, down = (torch.randn(n, 8, generator=make) * n**-0.5 for n in weight.shape)
            patches[f"diffusion_model.{name}"] = ("diff", (12.0 * up @ down.T,))
    assert len(model.add_patches(patches, 1.0)) == len(patches) > 0
    return model


def browser() -> list[dict]:
    """What ComfyUI's server would send a browser that has queued the runs from now on."""
    told: list[dict] = []
    queue = SimpleNamespace(get_current_queue_volatile=lambda: ([(0, "prompt", {}, {})], []))
    server = SimpleNamespace(
        client_id="browser", prompt_queue=queue, send_sync=lambda event, message, client: told.append(message)
    )
    sys.modules["server"] = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    return told


def moc(base, routing: RoutingConfig, which: Film, schedule: Schedule | None = None):
    """(a clone with MoC, its trace)."""
    from moc.host.patch import apply_moc
    from moc.shots.cuts import Shots
    from moc.trace.trace import Trace

    trace, settings = Trace(), MoCSettings(routing, schedule or Schedule(min_tokens=1))
    return apply_moc(base, Shots(even=which.shots), settings, trace), trace


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def rounding_of(model, noise: Tensor, dense: Tensor) -> float:
    """How far another kernel's dense film is from ComfyUI's."""
    other = model.clone()
    kernel = SDPBackend.EFFICIENT_ATTENTION if torch.cuda.is_available() else SDPBackend.MATH
    other.model_options["transformer_options"]["optimized_attention_override"] = dense_by(kernel)
    return max(off(film(other, noise), dense), 1e-5)
