"""What is special about Wan."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.trace.reasons import Reason
from packaging.version import Version
from spies import apart, everything, routed
from tiny import TEXT

HOST = Version(comfyui_version.__version__)


@pytest.mark.parametrize("size", [(7, 8), (9, 13)])
@pytest.mark.parametrize("name", ["t2v", "i2v", "ti2v 5B", "phantom"])
def test_latents_that_do_not_fill_the_patches(name, size):
    variant = tiny.variant_of(name)
    model, shape = tiny.load(name), (1, 16, 3, *size)
    patched, trace = routed(model, everything())
    assert apart(tiny.sample(patched, variant, shape=shape), tiny.sample(model, variant, shape=shape)) < 1e-5
    assert trace.calls[0][2].grid == (3, -(-size[0] // 2), -(-size[1] // 2))


def test_a_reference_can_be_chosen():
    variant = tiny.variant_of("phantom")
    patched, trace = routed(tiny.load("phantom"))
    tiny.sample(patched, variant, steps=1)
    record = trace.records[0]
    columns = [i for i, c in enumerate(record.axes.columns) if c.kind == "reference"]
    assert len(columns) == 2 and record.chosen[..., columns].any()


def test_as_many_text_tokens_as_video_tokens_cannot_be_told_apart_and_run_dense():
    shape = (1, 16, TEXT, 2, 2)
    model = tiny.load()
    patched, trace = routed(model)
    assert torch.equal(tiny.sample(patched, shape=shape), tiny.sample(model, shape=shape))
    assert not trace.routed and trace.dense[Reason.LENGTH]


@pytest.mark.skipif(HOST >= Version("0.8.0"), reason="hands it out")
def test_a_model_whose_attention_the_host_does_not_hand_out_says_so():
    variant = tiny.variant_of("s2v")
    model = tiny.load("s2v")
    patched, trace = routed(model)
    assert torch.equal(tiny.sample(patched, variant), tiny.sample(model, variant))
    assert trace.dense == {Reason.MODEL: 1} and "no video self-attention reached MoC" in trace.report()


@pytest.mark.skipif(HOST < Version("0.30.0"), reason="not in this ComfyUI")
def test_the_causal_models_own_sampler_says_that_nothing_came_by():
    @torch.inference_mode()
    def sample(model):
        shape, sampler = (1, 16, 5, 8, 8), comfy.samplers.ksampler("ar_video", {"num_frame_per_block": 1})
        prompt = [[tiny.random(1, TEXT, 4096, seed=2), {}]]
        noise, sigmas = tiny.random(*shape, seed=1), torch.tensor([1.0, 0.5, 0.0])
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, prompt, prompt, torch.zeros(shape), disable_pbar=True, seed=1
        )

    model = tiny.load("causal")
    patched, trace = routed(model)
    assert torch.equal(sample(patched), sample(model))
    assert trace.dense == {Reason.MODEL: 1} and "no video self-attention reached MoC" in trace.report()
