"""Every node that takes a LATENT or a MODEL, with all that comes by there: video with sound, batches, single frames."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import comfyui_version
import pytest
import tiny
import torch
from comfy.nested_tensor import NestedTensor
from mixture_of_contexts.moc.config import PRESETS, QUALITIES
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.nodes import apply, detect, heatmap, probe, shot_conditioning
from packaging.version import Version
from test_cross import sample
from test_shot_conditioning import Words

SHOTS = Shots(even=2)


class Hidden:
    hidden = SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)


class Heatmap(Hidden, heatmap.MoCRoutingHeatmap):
    pass


class Report(Hidden, probe.MoCProbeReport):
    pass


class Apply(Hidden, apply.MoCApply):
    pass


@pytest.fixture(params=["t2v", "LTX-2 t2v"])
def variant(request):
    found = tiny.variant_of(request.param)
    if Version(comfyui_version.__version__) < Version(found.since):
        pytest.skip("this ComfyUI does not have the model")
    return found


@pytest.fixture(params=[(1, 5), (2, 5), (1, 1), (2, 1)], ids=["film", "batch", "single frame", "batch of frames"])
def film(request, variant):
    """(latent's shape, the variant with as much sound, a LATENT)"""
    batch, frames = request.param
    channels, _, height, width = variant.latent
    shape = (batch, channels, frames, height, width)
    samples = tiny.random(*shape)
    if variant.audio is not None:
        variant = replace(variant, audio=(batch, *variant.audio[1:]))
        samples = NestedTensor((samples, tiny.random(*variant.audio)))
    return shape, variant, {"samples": samples}


def shots_for(shape) -> Shots | None:
    return SHOTS if shape[2] > 1 else None


def test_the_heatmap_of_a_model_with_moc(film):
    shape, variant, latent = film
    patched, trace = Apply.execute(tiny.load(str(variant)), shots=shots_for(shape)).args
    tiny.sample(patched, variant, shape=shape, steps=1)
    images = torch.rand(shape[0] * (8 * shape[2] - 7), 24, 32, 3)
    for view in ("frames", "shots", "flow"):
        out = Heatmap.execute(trace, latent, view, images)
        assert out.args[2] is latent
        (told,) = out.ui["moc"]
        assert ("thumbnails" in told) == (shape[2] > 1) == bool(trace.routed)
        if shape[2] > 1:
            assert told["thumbnails"]["frames"] == list(range(shape[2]))


def test_the_report_of_a_probed_model(film):
    shape, variant, latent = film
    patched, log = probe.MoCProbe.execute(tiny.load(str(variant)), shots=shots_for(shape), steps_probed=1).args
    tiny.sample(patched, variant, shape=shape, steps=1)
    out = Report.execute(log, latent)
    assert out.args[4] is latent and bool(log[0].calls) == (shape[2] > 1)


def test_shots_found_in_a_latent(film):
    shape, _, latent = film
    shots, *_ = detect.MoCDetectShotsLatent.execute(latent).args
    assert shots.length == shape[2]


def test_a_prompt_by_shot(film):
    shape, variant, _ = film
    shots = replace(SHOTS, texts=("walks", "runs"))
    given = [tiny.load(str(variant))], [shots]
    model, conditioning, _ = shot_conditioning.MoCShotConditioning.execute(*given, clip=[Words()]).args
    if variant.audio is None and shape[2] > 1:  # every shot reads its own
        out = sample(model, conditioning, variant=variant, shape=shape, steps=1)
    else:
        out = tiny.sample(model, variant, shape=shape, steps=1)
    assert out.isfinite().all()


def test_without_a_routing_the_quality_counts(monkeypatch):
    given = []
    monkeypatch.setattr(apply, "apply_moc", lambda model, shots, settings, trace: given.append(settings))
    Apply.execute(None)
    Apply.execute(None, quality="fastest")
    Apply.execute(None, routing=PRESETS["fast"], quality="fastest")
    assert given == [PRESETS["recommended"], QUALITIES["fastest"].settings, PRESETS["fast"]]
    with pytest.raises(MoCError, match="quality is 'slow'; choose one of: best quality"):
        Apply.execute(None, quality="slow")
