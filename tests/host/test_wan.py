"""Every way to use a Wan model: MoC finds its video tokens, routes all of its self-attention and nothing else."""

from __future__ import annotations

import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.trace import Reason
from packaging.version import Version
from spies import apart, everything, little, routed, watched
from tiny import FRAME, LATENT, TEXT, VARIANTS

HOST = Version(comfyui_version.__version__)
HERE = [v for v in VARIANTS if HOST >= Version(v.since)]
variants = pytest.mark.parametrize("variant", HERE, ids=str)


@variants
def test_choosing_every_chunk_gives_the_unpatched_result(variant):
    model = tiny.load(variant.name)
    patched, trace = routed(model, everything())
    assert apart(tiny.sample(patched, variant), tiny.sample(model, variant)) < 1e-5
    assert trace.routed == 2 * variant.routed


@variants
def test_choosing_few_chunks_changes_the_result(variant):
    model = tiny.load(variant.name)
    patched, _ = routed(model, little())
    assert apart(tiny.sample(patched, variant), tiny.sample(model, variant)) > 1e-3


@variants
def test_every_self_attention_is_routed_once_and_cross_attention_never(variant):
    before, left_alone = [], []
    tiny.sample(watched(tiny.load(variant.name), before), variant, steps=1)
    patched, trace = routed(watched(tiny.load(variant.name), left_alone))
    tiny.sample(patched, variant, steps=1)

    video = LATENT[2] * FRAME  # HuMo reads its audio frame by frame: there q and k are alike too, but short
    others = [q.shape for q, k in before if not (q.shape == k.shape and q.shape[-2] >= video)]
    assert len(before) - len(others) == variant.routed == len(trace.calls)
    assert [q.shape for q, _ in left_alone] == others
    assert not trace.dense


@variants
def test_the_routed_calls_know_their_block(variant):
    patched, trace = routed(tiny.load(variant.name))
    tiny.sample(patched, variant, steps=1)
    blocks = {"vace": [0, 0, 1, 1, 2, 2], "vace, two contexts": [0, 0, 0, 1, 2]}
    assert trace.blocks_seen == blocks.get(variant.name, list(range(variant.routed)))


@variants
def test_the_video_stands_where_its_content_is(variant):
    """Another content of latent frame 2 changes the queries of just the tokens that the layout gives to frame 2."""
    shape = tiny.shape_of(variant)
    seen = []
    for frame_2 in (0.0, 1.0):
        calls: list = []
        noise = tiny.random(*shape, seed=1)
        noise[:, :, 2] += frame_2
        tiny.sample(watched(tiny.load(variant.name), calls), variant, steps=1, noise=noise)
        seen.append(calls[0][0])
    changed = (seen[0] != seen[1]).any(-1)[0].nonzero().flatten()

    patched, trace = routed(tiny.load(variant.name))
    tiny.sample(patched, variant, steps=1)
    layout = trace.calls[0][2]
    start = layout.video_start + 2 * layout.frame_tokens
    assert changed.tolist() == list(range(start, start + layout.frame_tokens))
    assert (layout.video_start, layout.length - layout.video_stop) == (variant.before, variant.after)


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
    assert len(columns) == 2 and record.share[..., columns].any()


def test_as_many_text_tokens_as_video_tokens_cannot_be_told_apart_and_run_dense():
    shape = (1, 16, TEXT, 2, 2)
    model = tiny.load()
    patched, trace = routed(model)
    assert torch.equal(tiny.sample(patched, shape=shape), tiny.sample(model, shape=shape))
    assert not trace.routed and trace.dense[Reason.LENGTH]


@pytest.mark.skipif(HOST >= Version("0.30.0"), reason="0.30.0 hands it out")
def test_a_model_whose_attention_the_host_does_not_hand_out_says_so():
    variant = tiny.variant_of("s2v")
    model = tiny.load("s2v")
    patched, trace = routed(model)
    assert torch.equal(tiny.sample(patched, variant), tiny.sample(model, variant))
    assert trace.dense == {Reason.MODEL: 1} and "never came by" in trace.report()
