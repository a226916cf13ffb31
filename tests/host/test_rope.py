"""A key that is turned is the key that the model makes at the other place; only such models get a bank."""

from __future__ import annotations

from functools import partial

import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.host.adapters import adapter_for
from mixture_of_contexts.moc.host.windows import rope
from mixture_of_contexts.moc.windows.turn import turn
from packaging.version import Version
from spies import OVERRIDE, apart

HOST = Version(comfyui_version.__version__)
HERE = [v for v in tiny.VARIANTS if HOST >= Version(v.since)]
FRAMES = 7


def keys(variant, model, seen: dict):
    """seen: the first argument list of a pass, its plan and the keys [B, H, N, D] of every video self-attention."""
    model = model.clone()
    adapter = adapter_for(model.model.diffusion_model)

    def attention(func, q, k, v, heads, *args, **kwargs):
        if kwargs.get("skip_reshape"):
            split, width = k, heads * k.shape[-1]
        else:
            split, width = k.unflatten(-1, (heads, -1)).transpose(1, 2), k.shape[-1]
        plan = seen["plan"]
        if q.shape[-2] <= k.shape[-2] and plan.layout(k.shape[-2], None) and plan.width in (None, width):
            seen.setdefault("keys", []).append(split.detach().clone())
        return func(q, k, v, heads, *args, **kwargs)

    def around(executor, *args, **kwargs):
        inner = executor.class_obj
        seen["args"] = args, kwargs
        seen["plan"] = adapter.sequence(getattr(inner, "diffusion_model", inner), list(args), kwargs)
        return executor(*args, **kwargs)

    model.model_options["transformer_options"][OVERRIDE] = attention
    model.add_wrapper_with_key("apply_model" if adapter.outer else "diffusion_model", "test", around)
    tiny.sample(model, variant, steps=1)
    return seen


def later(model, frames: int, monkeypatch) -> None:
    """All places of a model, those of references and text too, which changes nothing that it makes of them."""

    def by_axes(kept, ids):
        ids = ids.clone()
        ids[..., 0] += frames
        return kept(ids)

    def by_seconds(kept, places, *args, **kwargs):
        if places.shape[1] == 3:
            places = places.clone()
            places[:, 0] += frames * model.vae_scale_factors[0] / 25
        return kept(places, *args, **kwargs)

    def by_shape(kept, shape, *args, **kwargs):
        b, t, h, w, c = shape
        return kept((b, t + frames, h, w, c), *args, **kwargs)[frames * h * w :]

    def by_length(kept, h, w, t, device):
        return tuple(x[frames * h * w :] for x in kept(h, w, t + frames, device))

    for owner, name, patched in (
        (getattr(model, "rope_embedder", None), "forward", by_axes),
        (getattr(model, "pe_embedder", None), "forward", by_axes),
        (getattr(model, "rope_embedder_3d", None), "forward", by_axes),
        (getattr(model, "pos_embedder", None), "generate_embeddings", by_shape),
        (model, "_get_rotary_emb", by_length),
        (model, "_precompute_freqs_cis", by_seconds),
    ):
        if hasattr(owner, name):
            monkeypatch.setattr(owner, name, partial(patched, getattr(owner, name)))
    if type(model).__name__ == "AsymmDiTJoint":
        from comfy.ldm.genmo.joint_model import asymm_models_joint as joint

        made = joint.create_position_matrix
        there = torch.tensor([float(frames), 0.0, 0.0])
        monkeypatch.setattr(joint, "create_position_matrix", lambda *args, **kwargs: made(*args, **kwargs) + there)


@pytest.mark.parametrize("variant", HERE, ids=str)
def test_a_turned_key_is_the_key_of_the_other_place(variant, monkeypatch):
    patcher = tiny.load(str(variant))
    model = patcher.model.diffusion_model
    if rope.missing(model):
        pytest.skip("no bank")
    here = keys(variant, patcher, {})
    with monkeypatch.context() as patched:
        later(model, FRAMES, patched)
        there = keys(variant, patcher, {})
    args, kwargs = here["args"]
    right, wrong = (rope.rotation(model, list(args), kwargs, frames) for frames in (FRAMES, FRAMES + 1))
    assert len(here["keys"]) == len(there["keys"]) > 0
    # text that has no place is seen from further away, so that later blocks get something else; all blocks turn alike
    blocks = 1 if variant.model in ("CogVideoX", "Mochi") else None
    for a, b in list(zip(here["keys"], there["keys"], strict=True))[:blocks]:
        layout = here["plan"].layout(a.shape[-2], None)
        a, b = (x[..., layout.video_start : layout.video_stop, :] for x in (a, b))
        # LTX turns by up to 16,000 radians, of which 32 bits hold a thousandth
        assert apart(turn(b, right), a) < (2e-3 if "LTX" in variant.model else 2e-5)
        assert apart(turn(b, wrong), a) > 0.05 and apart(b, a) > 0.05


WITHOUT = {"Cosmos 1": "GeneralDIT", "MiniMax H3": "MiniMaxH3Model"}


@pytest.mark.parametrize("variant", [v for v in HERE if v.windows or v.model in WITHOUT], ids=str)
def test_who_gets_no_bank(variant):
    """Cosmos 1 adds places to its tokens, CogVideoX 1.5 joins frames, and nobody has looked at MiniMax H3."""
    why = rope.missing(tiny.load(str(variant)).model.diffusion_model)
    old = HOST < Version("0.30.0") and "LTX" in variant.model
    assert bool(why) == (variant.model in WITHOUT or str(variant) == "CogVideoX 1.5" or old), why
    assert why is None or WITHOUT.get(variant.model, "") in why
