"""MoC Memory and MoC Recall: one look at what was made before, which every step of another run reads."""

from __future__ import annotations

import comfy.model_management
import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host.windows import memory as looks
from mixture_of_contexts.moc.host.windows import reader as room
from mixture_of_contexts.moc.host.windows.bank import BANK
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.heatmap import flow, heatmap
from mixture_of_contexts.moc.windows import ALL, CHARACTER, CLIP, PICTURE
from mixture_of_contexts.moc.windows.store import Store
from mixture_of_contexts.nodes.memory import MoCMemory, MoCRecall
from mixture_of_contexts.nodes.remake import MoCRemake
from mixture_of_contexts.nodes.windows import MoCWindows
from packaging.version import Version
from spies import apart, everything, routed
from tiny import random

HOST = Version(comfyui_version.__version__)
SHAPE = (1, 16, 4, 8, 8)
CLIP_BEFORE = random(1, 16, 6, 8, 8, seed=9)
BLOCKS = 3
SHOTS = Shots(cuts=(2,), unit="latent")


def memory(name="anna", kind=CLIP, latent=CLIP_BEFORE, memories=(), **more):
    return MoCMemory.execute(name, kind, {"samples": latent}, memories=memories, **more).args[0]


def recall(model, memories=None, shots=None, **more):
    return MoCRecall.execute(model, memory() if memories is None else memories, shots, length=9, **more).args[0]


@pytest.fixture
def banks(monkeypatch):
    """Every bank that ends from now on, with what it held: {place: {frame: tokens}}"""
    found, end = [], room.Bank.end

    def ended(bank):
        frames = bank.store._frames if bank.store else {}
        bank.held = {place: {f: kv[0].codes.shape[1] for f, kv in some.items()} for place, some in frames.items()}
        found.append(bank)
        end(bank)

    monkeypatch.setattr(room.Bank, "end", ended)
    return found


@pytest.fixture
def read(monkeypatch):
    """Frames that every call reads"""
    seen, get = [], Store.get

    def spy(store, place, frames, *args, **kwargs):
        seen.append(tuple(frames))
        return get(store, place, frames, *args, **kwargs)

    monkeypatch.setattr(Store, "get", spy)
    return seen


def passes(model):
    model, seen = model.clone(), []

    def see(executor, x, *args, **kwargs):
        options = next(o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "sigmas" in o)
        seen.append((x.shape[2], float(options["sigmas"][0])))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", see)
    return model, seen


@pytest.mark.parametrize("cfg", [1.0, 3.0], ids=["positive alone", "both prompts"])
def test_one_look_for_every_step(cfg, banks):
    model, seen = passes(recall(tiny.load()))
    out = tiny.sample(model, shape=SHAPE, cfg=cfg, steps=3)
    plain = tiny.sample(tiny.load(), shape=SHAPE, cfg=cfg, steps=3)
    assert [frames for frames, _ in seen] == [6, 4, 4, 4]
    assert apart(out, plain) > 1e-3 and torch.isfinite(out).all()
    (bank,) = banks
    assert len({place[2] for place in bank.held}) == (1 if cfg == 1 else 2), "a negative prompt looks for itself"
    assert all(frames == dict.fromkeys((4, 5, 7, 8), 16) for frames in bank.held.values())
    assert bank.weights == dict.fromkeys((4, 5, 7, 8), 1.5) and not bank.unread
    assert bank.read == 3 * BLOCKS


def test_what_it_looks_at_changes_what_is_made():
    one = tiny.sample(recall(tiny.load()), shape=SHAPE)
    other = tiny.sample(recall(tiny.load(), memory(latent=CLIP_BEFORE + 1)), shape=SHAPE)
    stronger = tiny.sample(recall(tiny.load(), memory(strength=4.0)), shape=SHAPE)
    assert apart(one, other) > 1e-3 and apart(one, stronger) > 1e-3


def test_what_is_kept_are_the_keys_that_the_film_itself_would_have_made(monkeypatch):
    """With the film's own noise at the level of the only step, but at another place in time."""
    noise, own, kept, dense, attend = random(*SHAPE, seed=1), [], [], room.dense, room.attend

    def note_own(q, k, v, scale):
        own.append((k, v))
        return dense(q, k, v, scale)

    def note_kept(q, own, parts, scale, watch):
        kept.append(parts[0][1](slice(None)))
        return attend(q, own, parts, scale, watch)

    monkeypatch.setattr(room, "dense", note_own)
    monkeypatch.setattr(room, "attend", note_kept)
    monkeypatch.setattr(looks, "noised", lambda *_: noise.clone())
    patched = recall(tiny.load(), memory(latent=torch.zeros(SHAPE), frames=0), level=0.99)
    tiny.sample(patched, shape=SHAPE, steps=1, noise=noise.clone())
    monkeypatch.setattr(room, "turn", lambda k, rotation: k)
    tiny.sample(patched, shape=SHAPE, steps=1, noise=noise.clone())
    (k, v), (turned, kept_v), (unturned, _) = own[0], kept[0], kept[BLOCKS]
    assert apart(v, kept_v) < 1e-5 and apart(k, unturned) < 1e-5 < 1e-2 < apart(k, turned)


def test_a_picture_stands_alone_and_a_clip_in_order():
    for kind, sizes in ((CLIP, [6]), (PICTURE, [1] * 6)):
        model, seen = passes(recall(tiny.load(), memory(kind=kind)))
        tiny.sample(model, shape=SHAPE, steps=1)
        assert [frames for frames, _ in seen] == [*sizes, 4]


def test_images_are_encoded_one_by_one_or_as_a_clip():
    class Vae:
        def encode(self, images):
            return torch.full((1, 16, 1 + (len(images) - 1) // 4, 8, 8), float(images.mean()))

    images = torch.arange(5.0)[:, None, None, None].expand(5, 64, 64, 4) / 5
    (clip,) = MoCMemory.execute("a", CLIP, image=images, vae=Vae()).args[0]
    (pictures,) = MoCMemory.execute("a", PICTURE, image=images, vae=Vae()).args[0]
    assert [x.shape[2] for x in clip.latents] == [2]
    assert [round(float(x.mean()), 3) for x in pictures.latents] == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_a_mask_keeps_what_it_shows(banks):
    mask = torch.zeros(1, 64, 64)
    mask[:, :32, :16] = 1.0
    tiny.sample(recall(tiny.load(), memory(kind=CHARACTER, mask=mask)), shape=SHAPE, steps=1)
    assert {count for frames in banks[0].held.values() for count in frames.values()} == {2}
    small = torch.zeros(1, 64, 64)
    small[:, 0, 0] = 1.0
    tiny.sample(recall(tiny.load(), memory(kind=CHARACTER, mask=small)), shape=SHAPE, steps=1)
    assert {count for frames in banks[1].held.values() for count in frames.values()} == {1}


TWO = Shots(cuts=(2,), unit="latent", texts=("a [use: Anna]", "b [use: bob]"))


def test_every_shot_reads_whom_its_prompt_names(read):
    both = memory("bob", PICTURE, random(1, 16, 1, 8, 8, seed=3), memory("anna", PICTURE, CLIP_BEFORE[:, :, :1]))
    out = tiny.sample(recall(tiny.load(), both, TWO), shape=SHAPE, steps=1)
    assert read == [(4,), (5,)] * BLOCKS
    read.clear()
    everything = tiny.sample(recall(tiny.load(), both, TWO, read=ALL), shape=SHAPE, steps=1)
    unnamed = tiny.sample(recall(tiny.load(), both, SHOTS), shape=SHAPE, steps=1)
    assert read == [(4, 5)] * 2 * BLOCKS and torch.equal(everything, unnamed) and apart(out, unnamed) > 1e-4


def test_a_shot_that_names_nobody_is_itself_alone():
    """Beside one that does: every row of it is what attention without memory gives."""
    one = Shots(cuts=(2,), unit="latent", texts=("a", "b [use: anna]"))
    got = tiny.sample(recall(tiny.load(), shots=one, blocks="2"), shape=SHAPE, steps=1)
    plain = tiny.sample(tiny.load(), shape=SHAPE, steps=1)
    assert apart(got[:, :, :2], plain[:, :, :2]) < 1e-5 < 1e-3 < apart(got[:, :, 2:], plain[:, :, 2:])


def test_of_several_with_one_name_the_first_counts(read):
    again = memory("anna", PICTURE, random(1, 16, 1, 8, 8, seed=3), memory("anna", PICTURE, CLIP_BEFORE[:, :, :1]))
    named = Shots(cuts=(2,), unit="latent", texts=("[use: anna]", ""), common="[use: anna] all")
    tiny.sample(recall(tiny.load(), again, named), shape=SHAPE, steps=1)
    assert read == [(4,)] * BLOCKS


@pytest.mark.parametrize("bank", ["off", "on"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_windows_remember_too(bank, order, read, banks):
    ten, five = (1, 16, 10, 8, 8), Shots(cuts=(2, 4, 6, 8), unit="latent")

    def windows(model):
        model = MoCWindows.execute(model, five, "shots", 13, 0, bank=bank).args[0]
        model.model_options["context_handler"].causal_window_fix = False
        return model

    model = windows(recall(tiny.load())) if order == "before" else recall(windows(tiny.load()))
    out = tiny.sample(model, shape=ten, steps=1)
    assert torch.isfinite(out).all() and not any(bank.unread for bank in banks)
    seen = {frame for frames in read for frame in frames}
    assert seen == ({10, 11, 13, 14} if bank == "off" else {0, 2, 4, 6, 10, 11, 13, 14})


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_shot_that_is_remade_remembers_too(order, read):
    film, five = random(1, 16, 10, 8, 8, seed=5), Shots(cuts=(2, 4, 6, 8), unit="latent")
    model = recall(tiny.load()) if order == "before" else tiny.load()
    model, latent, _ = MoCRemake.execute(
        model, {"samples": film}, five, "remake the shot", 3, window=13, overlap=0
    ).args
    model = recall(model) if order == "after" else model
    tiny.sample(model, shape=(1, 16, 10, 8, 8), latent=latent["samples"], steps=1)
    assert {frame for frames in read for frame in frames} == {0, 2, 6, 8, 10, 11, 13, 14}


@pytest.mark.parametrize("order", ["before", "after"])
def test_moc_apply_before_or_after(order):
    wanted = tiny.sample(recall(tiny.load(), blocks="1"), shape=SHAPE)
    if order == "before":
        patched, trace = routed(tiny.load(), everything(), SHOTS)
        patched = recall(patched, blocks="1")
    else:
        patched, trace = routed(recall(tiny.load(), blocks="1"), everything(), SHOTS)
    assert apart(tiny.sample(patched, shape=SHAPE), wanted) < 1e-5 and trace.routed
    assert all(record.axes.frames == (0, 1, 2, 3) for record in trace.records), "the look is not the film's"


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "routed"])
def test_the_trace_names_what_every_shot_reads(dense):
    shots = Shots(cuts=(3,), unit="latent", texts=("[use: anna]", "[use: anna] [use: castle]"))
    model, trace = routed(tiny.load(), everything(min_tokens=10_000 if dense else 1), shots)
    both = memory("castle", memories=memory())
    tiny.sample(recall(model, both, shots), shape=SHAPE)
    heat = heatmap(trace, "bank")
    assert [line.name for line in heat.columns] == ["anna", "castle"] and [line.shot for line in heat.rows] == [0, 1]
    assert heat.met.tolist() == [[True, False], [True, True]] and (heat.chosen_of_open[heat.met] > 0.001).all()
    first, second = flow(trace)[-2:]
    assert first.startswith("Of its attention, shot 1 gives ") and "castle" not in first and " to anna" in first
    assert " to anna" in second and " to castle" in second


def test_a_clip_brings_what_it_was_made_with():
    i2v = next(v for v in tiny.VARIANTS if v.name == "i2v")
    if HOST < Version(i2v.since):
        pytest.skip("not in this ComfyUI")
    model, shape = tiny.load("i2v"), tiny.shape_of(i2v, SHAPE)
    made_with = [[random(1, 7, i2v.text[1], seed=5), i2v.conds((1, 16, 6, 8, 8))]]
    alone = tiny.sample(recall(model), i2v, shape=shape, cfg=3.0)
    brought = tiny.sample(recall(model, memory(made_with=made_with)), i2v, shape=shape, cfg=3.0)
    assert torch.isfinite(alone).all() and torch.isfinite(brought).all() and apart(alone, brought) > 1e-4


def test_cancelled_and_started_again_and_nothing_is_left_behind():
    plain = tiny.load()
    before = tiny.sample(plain, shape=SHAPE)
    model = recall(plain)
    wanted, calls = tiny.sample(model, shape=SHAPE), []

    def stop(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise comfy.model_management.InterruptProcessingException()
        return executor(*args, **kwargs)

    stopped = model.clone()
    stopped.add_wrapper_with_key("diffusion_model", "test", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped, shape=SHAPE)
    assert torch.equal(tiny.sample(model, shape=SHAPE), wanted)
    assert BANK not in str(model.model_options)
    assert not any(block._forward_pre_hooks for block in plain.model.diffusion_model.blocks)
    assert torch.equal(tiny.sample(plain, shape=SHAPE), before)


FAMILIES = [v for v in tiny.VARIANTS if v.audio is None and v.windows and HOST >= Version(v.since)]


@pytest.mark.parametrize("variant", FAMILIES, ids=str)
def test_every_family_remembers_or_says_why_not(variant, banks):
    model, shape = tiny.load(str(variant)), tiny.shape_of(variant)
    clip = random(1, shape[1], 3, *shape[3:], seed=9)
    try:
        tiny.sample(recall(model, memory(latent=clip)), variant, steps=1)
    except MoCError as refusal:
        assert "cannot serve this model" in str(refusal), refusal
        return
    (bank,) = banks
    assert bank.held or bank.unread, "kept, or the log says why not"


REFUSED = {
    "no name": (lambda: memory(" "), "give the memory a name"),
    "nothing": (lambda: MoCMemory.execute("anna"), "connect either latent, or image and vae"),
    "a character without a mask": (lambda: memory(kind=CHARACTER), "needs a mask"),
    "an empty mask": (lambda: memory(mask=torch.zeros(1, 8, 8)), "is empty"),
    "another kind": (lambda: memory(kind="dream"), "kind is 'dream'"),
    "another way to read": (lambda: recall(tiny.load(), read="never"), "read is 'never'"),
    "an unknown name": (
        lambda: recall(tiny.load(), shots=Shots(texts=("[use: bob]",))),
        "uses 'bob', but the memories are called: anna",
    ),
    "another VAE": (
        lambda: tiny.sample(recall(tiny.load(), memory(latent=random(1, 4, 2, 8, 8, seed=1))), shape=SHAPE),
        "another model's VAE",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(what):
    make, match = REFUSED[what]
    with pytest.raises(MoCError, match=match):
        make()
