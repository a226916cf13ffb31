"""The table of families says what ComfyUI's own nodes, models and autoencoders do with a length."""

from __future__ import annotations

import importlib

import pytest
from mixture_of_contexts.moc.shots.time_rules import FAMILIES

EMPTY = {
    "Wan": ("nodes_hunyuan", "EmptyHunyuanLatentVideo"),  # Wan's templates use it as well
    "HunyuanVideo": ("nodes_hunyuan", "EmptyHunyuanLatentVideo"),
    "LTX-Video": ("nodes_lt", "EmptyLTXVLatentVideo"),
    "Mochi": ("nodes_mochi", "EmptyMochiLatentVideo"),
    "Cosmos 1": ("nodes_cosmos", "EmptyCosmosLatentVideo"),
    "MiniMax H3": ("nodes_minimax_h3", "EmptyMiniMaxH3LatentAV"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_latent_has_as_many_frames_as_the_table_says(name):
    try:
        module = importlib.import_module(f"comfy_extras.{EMPTY[name][0]}")
    except ImportError:
        pytest.skip("not in this ComfyUI")
    rule, node = FAMILIES[name], getattr(module, EMPTY[name][1])
    for length in range(1, 120):
        out = node.execute(width=64, height=64, length=length)
        samples = out.args[0]["samples"]
        frames = (samples.tensors[0] if samples.is_nested else samples).shape[2]
        if name == "MiniMax H3":  # rounds up to a whole length; the others leave frames over
            assert frames == rule.latents(rule.whole(max(length, 5))[1])
        else:
            assert frames == rule.latents(length)
