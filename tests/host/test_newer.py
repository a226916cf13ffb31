"""What ComfyUI after 0.30.0 hands over, with stand-ins (`test_recording.py` has the rest)."""

from __future__ import annotations

from types import SimpleNamespace

import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.host.adapters import adapter_for
from mixture_of_contexts.moc.host.override import attention_override
from packaging.version import Version


@pytest.mark.skipif(Version(comfyui_version.__version__) < Version("0.30.0"), reason="no MiniMax H3 in this ComfyUI")
def test_the_audio_of_a_minimax_keyframe_is_always_seen():
    model = tiny.load("MiniMax H3 keyframe").model.diffusion_model
    kinds = ("text", "cond", "cond_audio", "audio", "video")
    edges = (0, 7, 23, 31, 41, 105)
    layout = SimpleNamespace(segments=[(a, b, kind) for a, b, kind in zip(edges[:-1], edges[1:], kinds, strict=True)])
    latent = [torch.zeros(1, 24, 4, 8, 8), torch.zeros(1, 32, 2, 5)]
    sequence = adapter_for(model).sequence(model, [latent], {"minimax_payload": {"layout": layout}})
    assert sequence.before == (("text", 7), ("reference", 16), ("audio", 8), ("audio", 10))
    assert sequence.layout(105, None).video_start == 41


def test_the_host_unpacks_its_tensor_containers_for_us():
    """From 0.33 on q, k and v come in containers, unless the override is without this attribute."""
    assert not hasattr(attention_override, "container_function")
