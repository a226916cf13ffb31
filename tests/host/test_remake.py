"""MoC Remake: one shot is sampled, it sees the others, and they come back bit for bit."""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfyui_version
import pytest
import tiny
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host.windows import reader as room
from mixture_of_contexts.moc.host.windows import remake
from mixture_of_contexts.moc.host.windows.bank import BANK
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.windows import AGAIN, CONTINUE, INSERT, WHOLE
from mixture_of_contexts.nodes.remake import MoCRemake
from mixture_of_contexts.nodes.windows import MoCWindows
from packaging.version import Version
from spies import apart, everything, routed
from tiny import random

HOST = Version(comfyui_version.__version__)
FIVE = Shots(cuts=(2, 4, 6, 8), unit="latent")  # shots of 2 latent frames
TEN = (1, 16, 10, 8, 8)
FILM = random(*TEN, seed=9)
ANCHOR = int(HOST >= Version("0.30.0"))  # the frame in front of a window, in newer versions


def remade(model, do=AGAIN, shot=3, film=FILM, shots=FIVE, **more):
    """(model, film to sample, its shots)"""
    model, latent, shots = MoCRemake.execute(
        model, {"samples": film}, shots, do, shot, window=13, overlap=0, **more
    ).args
    return model, latent["samples"], shots


def sampled(model, film, variant=tiny.VARIANTS[0], **more):
    return tiny.sample(model, variant, shape=tuple(film.shape), latent=film, **more)


def passes(model):
    """(model, the frames of every pass from now on)"""
    model, seen = model.clone(), []

    def see(executor, x, *args, **kwargs):
        options = next(o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "sigmas" in o)
        window = options.get("context_window")
        seen.append((tuple(getattr(window, "index_list", ())), x.shape[2], float(options["sigmas"][0])))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", see)
    return model, seen


@pytest.mark.parametrize("sees", ["kept frames", WHOLE])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "uni_pc"])
def test_the_other_shots_come_back_bit_for_bit(sees, sampler):
    model, film, _ = remade(tiny.load(), sees=sees)
    out = sampled(model, film, sampler=sampler, cfg=3.0)
    others = [0, 1, 2, 3, 6, 7, 8, 9]
    assert torch.equal(out[:, :, others], FILM[:, :, others])
    assert torch.isfinite(out).all() and apart(out[:, :, 4:6], FILM[:, :, 4:6]) > 0.1


def test_it_costs_the_shot_and_one_look_at_the_others():
    model, film, _ = remade(tiny.load())
    model, seen = passes(model)
    sampled(model, film, steps=3)
    looks, steps = seen[:4], seen[4:]
    assert [look[:2] for look in looks] == [((frame,), 1) for frame in (0, 2, 6, 8)], "the first frame of every shot"
    assert [step[:2] for step in steps] == [((4, 5), 2 + ANCHOR)] * 3
    all_kept, film, _ = remade(tiny.load(), frames=0)
    all_kept, seen = passes(all_kept)
    sampled(all_kept, film, steps=3)
    assert [window for window, _, _ in seen[:-3]] == [(0, 1), (2, 3), (6, 7), (8, 9)]


def test_the_look_is_at_the_film_with_a_part_of_noise():
    found, noise = [], random(*TEN, seed=1)
    model, film, _ = remade(tiny.load(), level=0.95)

    def see(executor, x, *args, **kwargs):
        options = next(o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "sigmas" in o)
        found.append((x.clone(), float(options["sigmas"][0])))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", see)
    sampled(model, film, noise=noise.clone())
    x, sigma = torch.cat([x for x, _ in found[:4]], 2), found[0][1]
    there = model.model.process_latent_in(FILM)[:, :, [0, 2, 6, 8]]
    assert abs(sigma - 0.95) < 0.01
    assert apart(x, sigma * noise[:, :, [0, 2, 6, 8]] + (1 - sigma) * there) < 1e-5


@pytest.mark.parametrize("level, nearest", [(0.1, min), (0.99, max)])
def test_a_half_of_a_model_looks_at_no_level_that_it_does_not_sample(level, nearest):
    model, film, _ = remade(tiny.load(), level=level)
    model, seen = passes(model)
    sampled(model, film, steps=6, start_step=2, last_step=5, force_full_denoise=False)
    assert seen[0][2] == nearest(sigma for _, _, sigma in seen[4:])


@pytest.mark.parametrize("sees", ["kept frames", WHOLE])
def test_the_shot_sees_the_others(sees):
    other = FILM.clone()
    other[:, :, 0] += 1.0
    model, film, _ = remade(tiny.load(), sees=sees)
    changed, other, _ = remade(tiny.load(), sees=sees, film=other)
    assert apart(sampled(model, film)[:, :, 4:6], sampled(changed, other)[:, :, 4:6]) > 1e-3


def test_the_whole_film_is_seen_as_comfyui_shows_it_beside_a_mask():
    model, film, _ = remade(tiny.load(), sees=WHOLE)
    mask = torch.zeros(1, 1, *TEN[2:])
    mask[:, :, 4:6] = 1.0
    wanted = tiny.sample(tiny.load(), shape=TEN, latent=FILM, noise_mask=mask)
    assert torch.equal(sampled(model, film)[:, :, 4:6], wanted[:, :, 4:6])


def test_a_window_with_all_of_the_film_kept_is_near_the_whole_film():
    """Keys of one level for those of every step: an approximation, but one that knows the film."""
    seen, alone = (remade(tiny.load(), **more) for more in ({"frames": 0}, {"blocks": "0", "frames": 1}))
    whole, film, _ = remade(tiny.load(), sees=WHOLE)
    wanted = sampled(whole, film)
    assert apart(sampled(*seen[:2]), wanted) < apart(sampled(*alone[:2]), wanted)


def test_a_mask_in_the_shot_keeps_what_it_covers():
    model, film, _ = remade(tiny.load())
    mask = torch.ones(1, 1, *TEN[2:])
    mask[..., :4] = 0.0
    out = sampled(model, film, noise_mask=mask)
    assert apart(out[:, :, 4:6, :, :4], FILM[:, :, 4:6, :, :4]) < 1e-4 < apart(out[:, :, 4:6], FILM[:, :, 4:6])


NUMBERED = Shots(cuts=(2, 4, 6, 8), unit="latent", texts=("a", "b", "c", "d", "e"), common="all", names=tuple("vwxyz"))


@pytest.mark.parametrize("do, shot, behind", [(INSERT, 2, 4), (INSERT, 5, 10), (CONTINUE, 1, 10)])
def test_a_new_shot_makes_the_film_longer_and_leaves_the_rest_alone(do, shot, behind):
    model, film, shots = remade(tiny.load(), do, shot, shots=NUMBERED, length=12, prompt="new")
    assert film.shape[2] == 13
    model, seen = passes(model)
    out = sampled(model, film)
    assert torch.equal(torch.cat([out[:, :, :behind], out[:, :, behind + 3 :]], 2), FILM)
    assert {window for window, _, _ in seen[5:]} == {tuple(range(behind, behind + 3))}
    assert apart(out[:, :, behind : behind + 3], 0 * out[:, :, :3]) > 0.1
    number = behind // 2
    assert shots.count == 6 and shots.starts(13, "Wan")[0][number] == behind
    assert shots.texts == (*"abcde"[:number], "new", *"abcde"[number:]) and shots.names[number] == ""


def test_a_remade_shot_may_get_another_text():
    _, _, shots = remade(tiny.load(), prompt="new", shots=NUMBERED)
    assert shots.texts == ("a", "b", "new", "d", "e") and shots.cuts == NUMBERED.cuts
    assert remade(tiny.load(), shots=NUMBERED)[2] == NUMBERED


@pytest.mark.parametrize("cfg", [1.0, 3.0], ids=["positive alone", "both prompts"])
def test_prompts_batched_or_one_after_the_other_are_the_same(cfg, monkeypatch):
    model, film, _ = remade(tiny.load())
    wanted = sampled(model, film, cfg=cfg)
    monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
    assert apart(sampled(model, film, cfg=cfg), wanted) < 1e-5


def test_a_prompt_that_is_used_late_has_seen_the_film_too(monkeypatch):
    model, film, _ = remade(tiny.load())
    reads, frames = [], room.Reader.frames

    def spy(reader, options):
        found = frames(reader, options)
        reads.append(bool(found) and all(found))
        return found

    monkeypatch.setattr(room.Reader, "frames", spy)
    early = [[random(1, 7, 4096, seed=2), {"start_percent": 0.0, "end_percent": 0.5}]]
    late = [[random(1, 7, 4096, seed=3), {"start_percent": 0.5, "end_percent": 1.0}]]
    with torch.inference_mode():
        given = (4, 1.0, "euler", "simple", early + late, early, film)
        comfy.sample.sample(model, random(*TEN, seed=1), *given, disable_pbar=True, seed=4)
    assert reads == [False] * 12 + [True] * 12, "three blocks look at four shots and read them in four steps"


def test_two_samplers_one_after_the_other_see_the_film_with_noise():
    model, film, _ = remade(tiny.load(), sees=WHOLE)
    half = sampled(model, film, steps=4, last_step=2, force_full_denoise=False)
    found = []

    def see(executor, x, *args, **kwargs):
        found.append(x.clone())
        return executor(x, *args, **kwargs)

    second = model.clone()
    second.add_wrapper_with_key("diffusion_model", "test", see)
    out = sampled(second, half, steps=4, start_step=2, disable_noise=True, noise=torch.zeros(TEN))
    others = [0, 1, 2, 3, 6, 7, 8, 9]
    assert torch.equal(out[:, :, others], FILM[:, :, others])
    there = second.model.process_latent_in(FILM)[:, :, others]
    shares = [torch.linalg.lstsq(there.reshape(-1, 1), x[:, :, others].reshape(-1, 1)) for x in found]
    left = [(x[:, :, others] - s.solution.item() * there).std() for x, s in zip(found, shares)]
    assert left[0] > left[1] > 0.1, "noise, and less of it in a later step"


@pytest.mark.parametrize("order", ["before", "after"])
def test_moc_apply_before_or_after(order):
    plain, film, _ = remade(tiny.load(), blocks="1")
    if order == "before":
        patched, trace = routed(tiny.load(), everything(), FIVE)
        patched, film, _ = remade(patched, blocks="1")
    else:
        patched, trace = routed(plain, everything(), FIVE)
    assert apart(sampled(patched, film), sampled(plain, film)) < 1e-5 and trace.routed


def test_cancelled_and_started_again_and_nothing_is_left_behind():
    plain = tiny.load()
    before = tiny.sample(plain, shape=TEN)
    model, film, _ = remade(plain)
    wanted, calls = sampled(model, film), []

    def stop(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise comfy.model_management.InterruptProcessingException()
        return executor(*args, **kwargs)

    stopped = model.clone()
    stopped.add_wrapper_with_key("diffusion_model", "test", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sampled(stopped, film)
    assert torch.equal(sampled(model, film), wanted)
    assert BANK not in str(model.model_options) and remake.RUN not in str(model.model_options)
    assert not any(block._forward_pre_hooks for block in plain.model.diffusion_model.blocks)
    assert torch.equal(tiny.sample(plain, shape=TEN), before)


def test_windows_that_were_there_before_make_room():
    windows = MoCWindows.execute(tiny.load(), FIVE, "shots", 13, 0, bank="on").args[0]
    (one, film, _), (other, _, _) = remade(windows), remade(tiny.load())
    assert torch.equal(sampled(one, film), sampled(other, film))


def test_a_shot_longer_than_a_window_is_sampled_in_several():
    long = Shots(cuts=(2,), unit="latent")
    model, latent, _ = MoCRemake.execute(tiny.load(), {"samples": FILM}, long, AGAIN, 2, window=13, overlap=4).args
    model, seen = passes(model)
    out = sampled(model, latent["samples"], steps=1)
    assert [window for window, _, _ in seen[1:]] == [(2, 3, 4, 5), (5, 6, 7, 8), (6, 7, 8, 9)]
    assert torch.equal(out[:, :, :2], FILM[:, :, :2]) and torch.isfinite(out).all()


CUT = [v for v in tiny.VARIANTS if v.windows and v.audio is None and v.name not in ("s2v", "dancer")]
FAMILIES = [v for v in CUT if HOST >= max(Version(v.since), Version(v.windows))]


@pytest.mark.parametrize("variant", FAMILIES, ids=str)
def test_every_family_remakes_a_shot_or_says_why_not(variant):
    model, shape = tiny.load(str(variant)), tiny.shape_of(variant, TEN)
    film, shots = random(*shape, seed=9), Shots(even=5)
    others = [frame for frame in range(10) if frame not in (4, 5)]
    for sees in ("kept frames", WHOLE):
        try:
            patched, latent, _ = MoCRemake.execute(model, {"samples": film}, shots, AGAIN, 3, sees=sees, window=33).args
            out = tiny.sample(patched, variant, shape=shape, latent=latent["samples"], steps=1)
        except MoCError as refusal:
            told = (
                "can keep no frames for this model",
                "puts its start image",
                "without references or guides",
                "does not cut",
            )
            assert any(text in str(refusal) for text in told), refusal
            continue
        assert torch.equal(out[:, :, others], film[:, :, others]) and torch.isfinite(out).all()


REFUSED = {
    "a shot that is not there": (lambda: remade(tiny.load(), shot=6), "there is no shot 6"),
    "a batch": (lambda: remade(tiny.load(), film=random(2, *TEN[1:], seed=1)), "the latent of one video"),
    "something else to do": (lambda: remade(tiny.load(), "make it so"), "do is 'make it so'"),
    "something else to see": (lambda: remade(tiny.load(), sees="nothing"), "sees is 'nothing'"),
    "another film": (lambda: sampled(remade(tiny.load())[0], FILM + 1), "not the film that MoC Remake was given"),
    "another length": (lambda: sampled(remade(tiny.load())[0], FILM[:, :, 1:]), "not the film that MoC Remake was"),
    "windows behind it": (
        lambda: sampled(MoCWindows.execute(remade(tiny.load())[0], FIVE, "shots", 13, 0).args[0], FILM),
        "put it behind MoC Windows",
    ),
    "EasyCache": (
        lambda: sampled(EasyCacheNode.execute(remade(tiny.load())[0], 10.0, 0.0, 1.0, False).args[0], FILM),
        "use LazyCache",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(what):
    make, match = REFUSED[what]
    with pytest.raises(MoCError, match=match):
        make()
