"""Every row of the table: MoC finds the video's tokens, routes all of its self-attention and nothing else."""

from __future__ import annotations

import inspect

import comfy.samplers
import comfy_extras.nodes_context_windows as context_windows
import comfyui_version
import pytest
import tiny
from mixture_of_contexts.moc.host.adapters import ADAPTERS, adapter_for
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.shots.time_rules import rule_of
from mixture_of_contexts.moc.trace.reasons import Reason
from packaging.version import Version
from spies import apart, everything, little, routed, watched
from variants import VARIANTS

HOST = Version(comfyui_version.__version__)
HERE = [v for v in VARIANTS if HOST >= Version(v.since)]
WINDOWS = context_windows.ContextWindowsManualNode


@pytest.fixture(scope="module", params=HERE, ids=str)  # in a module's fixture every model is loaded once
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def model(variant):
    return tiny.load(str(variant))


@pytest.fixture(scope="module")
def unpatched(variant, model):
    """(result of one step, its attention calls as (q, k))"""
    calls: list = []
    return tiny.sample(watched(model, calls), variant, steps=1), calls


def in_video(variant, call) -> bool:
    q, k = call
    width = variant.config.get("attention_head_dim", 0) * variant.config.get("num_attention_heads", 0)
    here = q.shape == k.shape and q.shape[-2] == variant.length
    return here and (variant.model != "LTX-2" or q.shape[-1] == width)


def test_choosing_every_chunk_gives_the_unpatched_result(variant, model, unpatched):
    patched, trace = routed(model, everything())
    assert apart(tiny.sample(patched, variant, steps=1), unpatched[0]) < 1e-4
    assert trace.routed == len(variant.blocks) and not trace.dense


def test_positive_and_negative_prompt(variant, model, monkeypatch):
    if variant.alone:
        monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
    patched, trace = routed(model, everything())
    options = {"steps": 1, "cfg": 3.0}
    assert apart(tiny.sample(patched, variant, **options), tiny.sample(model, variant, **options)) < 1e-4
    assert trace.routed and not trace.dense


def test_choosing_few_chunks_changes_the_result(variant, model, unpatched):
    patched, _ = routed(model, little())
    assert apart(tiny.sample(patched, variant, steps=1), unpatched[0]) > 1e-3


def test_every_self_attention_is_routed_once_and_nothing_else(variant, model, unpatched):
    left_alone: list = []
    patched, trace = routed(watched(model, left_alone))
    tiny.sample(patched, variant, steps=1)
    others = [q.shape for q, k in unpatched[1] if not in_video(variant, (q, k))]
    assert len(unpatched[1]) - len(others) == len(variant.blocks)
    assert [q.shape for q, _ in left_alone] == others
    assert tuple(trace.blocks_seen) == variant.blocks and not trace.dense
    diffusion_model = model.model.diffusion_model
    assert {record.chosen.shape[0] for record in trace.records} == {adapter_for(diffusion_model).heads(diffusion_model)}


def test_another_packs_override_gets_the_blocks_that_stay_dense(variant, model):
    calls: list = []
    patched, trace = routed(watched(model, calls), little(dense_first=1))
    tiny.sample(patched, variant, steps=1)
    dense = variant.blocks.count(0)
    assert sum(in_video(variant, call) for call in calls) == dense == trace.dense[Reason.BLOCK]
    assert tuple(trace.blocks_seen) == variant.blocks[dense:]


def test_the_video_stands_where_its_content_is(variant, model, unpatched):
    """Other content in latent frame 2 changes the queries of just the tokens that the layout gives to that frame."""
    calls: list = []
    noise = tiny.random(*tiny.shape_of(variant), seed=1)
    noise[:, :, 2] += 1.0
    tiny.sample(watched(model, calls), variant, steps=1, noise=noise)
    before, after = (next(q for q, k in c if in_video(variant, (q, k))) for c in (unpatched[1], calls))
    if before.ndim == 4:  # heads apart
        before, after = before.transpose(1, 2).flatten(2), after.transpose(1, 2).flatten(2)
    changed = (before != after).any(-1)[0].nonzero().flatten()

    patched, trace = routed(model)
    tiny.sample(patched, variant, steps=1)
    layout = trace.calls[0][2]
    start = layout.video_start + variant.changed * layout.frame_tokens + (variant.padding if layout.video_start else 0)
    assert changed.tolist() == list(range(start, start + layout.frame_tokens))


def test_the_other_tokens_are_of_the_kind_that_they_are(variant, model):
    patched, trace = routed(model)
    tiny.sample(patched, variant, steps=1)
    layout = trace.calls[0][2]
    spans = [(span.kind, span.stop - span.start, span.start < layout.video_start) for span in layout.spans]
    sides = {True: variant.before, False: variant.after}
    if getattr(model.model.diffusion_model, "double_blocks", None) and HOST < Version("0.19.3"):
        text, *rest = variant.before  # HunyuanVideo's text stood behind the video
        sides = {True: tuple(rest), False: (text,)}
    assert spans == [(kind, count, front) for front, side in sides.items() for kind, count in side]
    assert layout.grid == variant.grid


def test_the_latent_format_joins_as_many_frames_as_the_time_rule_says(variant, model):
    ratio = getattr(model.get_model_object("latent_format"), "temporal_downscale_ratio", 1)
    if ratio == 1:
        pytest.skip("this ComfyUI does not say")
    assert max(rule_of(ADAPTERS[variant.cls].time_rule).repeat) == ratio


def test_in_context_windows(variant, model):
    if not variant.windows or HOST < Version(variant.windows):
        pytest.skip("this ComfyUI cannot do it with this model")
    known = inspect.signature(WINDOWS.execute).parameters
    options = {"freenoise": False} if "freenoise" in known else {}
    windows = WINDOWS.execute(model, 5, 2, "standard_static", 1, False, "pyramid", dim=2, **options).args[0]
    channels, _, height, width = variant.latent
    options = {"shape": (1, channels, 9, height, width), "steps": 1}
    patched, trace = routed(windows, everything(), Shots(cuts=(4,), unit="latent"))
    assert apart(tiny.sample(patched, variant, **options), tiny.sample(windows, variant, **options)) < 1e-4
    assert trace.routed >= 2 * len(variant.blocks) and not trace.dense
    assert {shot for record in trace.records for shot in record.axes.shots} == {0, 1}
