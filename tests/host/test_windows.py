"""MoC Windows: each window is the film of its own frames alone, and nothing that belongs to a frame gets lost."""

from __future__ import annotations

from dataclasses import replace

import comfy.context_windows
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_easycache as easycache
import comfyui_version
import pytest
import tiny
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host.captions import join_captions, read_by_shot
from mixture_of_contexts.moc.host.windows.handler import FILM
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.windows import DRAWN, SHOTS
from mixture_of_contexts.nodes.windows import MoCWindows
from packaging.version import Version
from spies import OVERRIDE, apart, everything, routed
from tiny import random

HOST = Version(comfyui_version.__version__)
NEW = pytest.mark.skipif(HOST < Version("0.30.0"), reason="this ComfyUI cuts the latent alone")
FIVE = Shots(cuts=(2, 4, 6, 8), unit="latent")  # shots of 2 latent frames
TEN = (1, 16, 10, 8, 8)
T2V = tiny.variant_of("t2v")


def windows(model, follow=DRAWN, shots=FIVE, length=13, overlap=0, **more):
    """Windows of 4 latent frames of Wan."""
    return MoCWindows.execute(model, shots, follow, length, overlap, **more).args[0]


def watch(model, seen):
    """seen: (latent frames of a pass by their content, the options' window)"""
    model = model.clone()

    def see(executor, x, *args, **kwargs):
        seen.append(tuple(x[0, 0, :, 0, 0].round().int().tolist()))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", see)
    return model


def numbered(shape=TEN):
    """Noise that says which frame it is in."""
    return torch.arange(shape[2], dtype=torch.float32)[None, None, :, None, None].expand(shape).contiguous()


def drawn_windows(model, **options):
    seen = []
    tiny.sample(watch(model, seen), steps=1, shape=TEN, noise=numbered(), **options)
    return seen


def test_every_frame_is_in_one_window_of_a_step_and_shots_stay_whole():
    for seed in range(3):
        seen = drawn_windows(windows(tiny.load(), draw_seed=seed))
        assert sorted(f for window in seen for f in window) == list(range(10))
        assert all(len(window) <= 4 for window in seen) and len(seen) == 3
        assert all(window[i] + 1 == window[i + 1] for window in seen for i in range(0, len(window), 2))


def listed(model, windows_of):
    """windows_of: the frames of every pass, as ComfyUI has them."""
    model = model.clone()

    def note(executor, x, *args, **kwargs):
        options = next(o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "sigmas" in o)
        windows_of.append(tuple(options["context_window"].index_list))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", note)
    return model


def test_other_shots_share_a_window_at_every_step_and_the_same_ones_in_the_next_run():
    one, two, other = [], [], []
    patched = windows(tiny.load())
    for seen in (one, two):
        tiny.sample(listed(patched, seen), shape=TEN, steps=3)
    tiny.sample(listed(windows(tiny.load(), draw_seed=1), other), shape=TEN, steps=3)
    assert one == two != other
    assert len({frozenset(one[i : i + 3]) for i in range(0, 9, 3)}) == 3


@pytest.mark.parametrize("cfg", [1.0, 3.0], ids=["positive alone", "both prompts"])
@pytest.mark.parametrize("together", [True, False], ids=["batched", "split"])
def test_a_window_is_what_its_frames_alone_would_be(cfg, together, monkeypatch):
    if not together:
        monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
    model, noise = tiny.load(), random(*TEN, seed=1)
    got = tiny.sample(windows(model), shape=TEN, steps=1, cfg=cfg, noise=noise.clone())
    for window in drawn_windows(windows(model)):
        part = noise[:, :, list(window)]
        alone = tiny.sample(model, shape=tuple(part.shape), steps=1, cfg=cfg, noise=part.clone())
        assert apart(got[:, :, list(window)], alone) < 1e-5


TIMED = {"concat_latent_image": 2, "vace_frames": 2, "vace_mask": 2, "camera_conditions": 2, "audio_embed": 1}


def cut_conds(conds: dict, frames: list[int]) -> dict:
    def cut(name, value):
        if isinstance(value, list) and name in TIMED:
            return [cut(name, v) for v in value]
        return value.index_select(TIMED[name], torch.tensor(frames)) if name in TIMED else value

    return {name: cut(name, value) for name, value in conds.items()}


IN_PARTS = (
    "i2v",
    "vace, two contexts",
    "fun control",
    "fun control, reference",
    "camera",
    "humo",
    "ti2v 5B",
    "phantom",
)


@NEW
@pytest.mark.parametrize("name", IN_PARTS)
def test_what_belongs_to_the_frames_goes_along_with_them(name):
    """Conditioning as long as the film is cut like it, also where the frames do not follow each other."""
    variant, model = tiny.variant_of(name), tiny.load(name)
    shape = tiny.shape_of(variant, TEN)
    noise, conds = random(*shape, seed=1), variant.conds(shape)
    whole = replace(variant, conds=lambda _: conds)
    got = tiny.sample(windows(model), whole, shape=shape, steps=1, noise=noise.clone())
    for window in drawn_windows(windows(tiny.load())):
        frames = list(window)
        part = replace(variant, conds=lambda _, frames=frames: cut_conds(conds, frames))
        some = noise[:, :, frames]
        alone = tiny.sample(model, part, shape=tuple(some.shape), steps=1, noise=some.clone())
        assert apart(got[:, :, frames], alone) < 1e-4


@NEW
def test_references_in_front_of_the_film_stand_in_every_window():
    """Of VACE; they belong to no shot, and the cuts count from behind them."""
    variant, model, seen = tiny.variant_of("vace"), tiny.load("vace"), []
    shape = tiny.shape_of(variant, (1, 16, 11, 8, 8))
    conds = variant.conds(shape)
    conds["vace_frames"][0][:, 16:, 0] = 0.0
    variant = replace(variant, conds=lambda _: conds)
    tiny.sample(watch(windows(model, length=17), seen), variant, shape=shape, steps=1, noise=numbered(shape))
    assert all(window[0] == 0 for window in seen)
    assert sorted(f for window in seen for f in window[1:]) == list(range(1, 11))


def test_the_first_frame_stands_in_every_window_where_that_is_wanted():
    seen = drawn_windows(windows(tiny.load(), length=17, keep_first=True))
    assert all(window[0] == 0 and len(window) <= 5 for window in seen)
    assert sorted(f for window in seen for f in window[1:]) == list(range(1, 10))


def test_windows_in_the_order_of_the_film_hold_as_many_whole_shots_as_fit():
    model = windows(tiny.load(), SHOTS)
    seen = [window[-4:] if HOST >= Version("0.30.0") else window for window in drawn_windows(model)]
    assert seen[0] == (0, 1, 2, 3) and seen[1] == (4, 5, 6, 7) and seen[2][-2:] == (8, 9)


def test_a_shot_longer_than_a_window_is_cut_with_overlap():
    model = windows(tiny.load(), SHOTS, Shots(cuts=(7,), unit="latent"), overlap=4)
    seen = [window[-4:] if window != (7, 8, 9) else window for window in drawn_windows(model)]
    assert seen[:2] == [(0, 1, 2, 3), (3, 4, 5, 6)] and seen[2][-3:] == (7, 8, 9)


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform", "batched"])
def test_the_hosts_own_schedules_are_the_hosts(schedule):
    ours = windows(tiny.load(), schedule, overlap=4)
    theirs = tiny.load().clone()
    context = comfy.context_windows
    theirs.model_options["context_handler"] = context.IndexListContextHandler(
        context_schedule=context.get_matching_context_schedule(schedule),
        fuse_method=context.get_matching_fuse_method("pyramid"),
        context_length=4,
        context_overlap=1,
        dim=2,
    )
    assert torch.equal(tiny.sample(ours, shape=TEN), tiny.sample(theirs, shape=TEN))


def test_a_film_that_fits_into_a_window_is_sampled_whole():
    model = tiny.load()
    assert torch.equal(tiny.sample(windows(model, length=37), shape=TEN), tiny.sample(model, shape=TEN))


@pytest.mark.parametrize("order", ["before", "after"])
def test_moc_apply_before_or_after(order):
    """Every chunk chosen: nothing is lost, and each frame keeps its shot in whichever window it is."""
    plain = windows(tiny.load())
    if order == "before":
        patched, trace = routed(tiny.load(), everything(), FIVE)
        patched = windows(patched)
    else:
        patched, trace = routed(plain, everything(), FIVE)
    assert apart(tiny.sample(patched, shape=TEN), tiny.sample(plain, shape=TEN)) < 1e-5
    assert trace.routed == 2 * 3 * 3 and not trace.dense
    for record in trace.records:
        assert record.axes.shots == tuple(frame // 2 for frame in record.axes.frames)


def test_each_window_reads_the_captions_of_its_shots():
    texts = [[[random(1, 5 + i, 4096, seed=100 + i), {}]] for i in range(5)]
    seen = []

    def spy(func, q, k, v, *args, **kwargs):
        if q.shape != k.shape:
            window = kwargs["transformer_options"]["context_window"].index_list
            seen.append((tuple(window), q.shape[-2] // 16, k.shape[-2] - 5))
        return func(q, k, v, *args, **kwargs)

    model = tiny.load().clone()
    model.model_options["transformer_options"][OVERRIDE] = spy
    model, joined = windows(read_by_shot(model)), join_captions(texts, FIVE)
    sampling = (2, 1.0, "euler", "simple", joined, texts[0], torch.zeros(TEN))
    with torch.inference_mode():
        comfy.sample.sample(model, random(*TEN, seed=1), *sampling, disable_pbar=True, seed=4)
    read: dict = {}
    for window, frames, caption in seen:
        read.setdefault(window, []).extend([caption] * frames)
    assert len(read) > 3
    for window, captions in read.items():
        assert captions == [frame // 2 for frame in window] * (len(captions) // len(window))


def test_the_second_run_may_have_another_length():
    model = tiny.load()
    patched = windows(model)
    first = tiny.sample(patched, shape=TEN)
    longer = (1, 16, 12, 8, 8)
    assert torch.equal(tiny.sample(patched, shape=longer), tiny.sample(windows(model), shape=longer))
    short = (1, 16, 9, 8, 8)
    assert torch.equal(tiny.sample(patched, shape=short), tiny.sample(windows(model), shape=short))
    assert torch.equal(tiny.sample(patched, shape=TEN), first)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde", "uni_pc"])
def test_samplers_that_look_between_the_steps(sampler):
    assert torch.isfinite(tiny.sample(windows(tiny.load()), shape=TEN, steps=3, sampler=sampler)).all()


def test_two_samplers_one_after_the_other_go_on_drawing():
    """As Wan 2.2's two models do: the second one does not begin with the first one's windows again."""
    first, second = [], []
    model = windows(tiny.load())
    tiny.sample(listed(model, first), shape=TEN, steps=4, last_step=2, force_full_denoise=False)
    tiny.sample(listed(model, second), shape=TEN, steps=4, start_step=2, disable_noise=True)
    assert len(first) == len(second) == 2 * 3 and first != second


def test_cancelled_and_started_again():
    model = tiny.load()
    patched = windows(model)
    wanted, calls = tiny.sample(patched, shape=TEN), []

    def stop(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise comfy.model_management.InterruptProcessingException()
        return executor(*args, **kwargs)

    stopped = patched.clone()
    stopped.add_wrapper_with_key("diffusion_model", "test", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped, shape=TEN)
    assert torch.equal(tiny.sample(patched, shape=TEN), wanted)


def test_nothing_is_left_behind():
    model = tiny.load()
    before = tiny.sample(model, shape=TEN)
    patched = windows(model)
    tiny.sample(patched, shape=TEN)
    assert "context_handler" not in model.model_options and FILM not in str(patched.model_options)
    assert torch.equal(tiny.sample(model, shape=TEN), before)


def test_put_on_twice_the_second_one_counts():
    model = tiny.load()
    assert torch.equal(
        tiny.sample(windows(windows(model, SHOTS, length=5)), shape=TEN), tiny.sample(windows(model), shape=TEN)
    )


def test_a_compiled_model():
    model, graphs = tiny.load(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = model.clone()
    set_torch_compile_wrapper(
        compiled,
        backend=backend,
        options={"guard_filter_fn": lambda guards: ["transformer_options" not in g.name for g in guards]},
    )
    wanted = tiny.sample(windows(model), shape=TEN)
    assert apart(tiny.sample(windows(compiled), shape=TEN), wanted) < 1e-5
    patched, trace = routed(windows(compiled), everything(), FIVE)
    assert apart(tiny.sample(patched, shape=TEN), wanted) < 1e-5 and trace.routed and not trace.dense
    assert graphs


@pytest.mark.skipif(not hasattr(easycache, "LazyCacheNode"), reason="not in this ComfyUI")
def test_the_cache_that_works_per_step_works_and_the_one_that_works_per_pass_is_refused():
    lazy = easycache.LazyCacheNode.execute(windows(tiny.load()), 10.0, 0.0, 1.0, False).args[0]
    assert torch.isfinite(tiny.sample(lazy, shape=TEN, steps=6)).all()
    easy = easycache.EasyCacheNode.execute(windows(tiny.load()), 10.0, 0.0, 1.0, False).args[0]
    with pytest.raises(MoCError, match="use LazyCache"):
        tiny.sample(easy, shape=TEN)
    tiny.sample(easy, shape=(1, 16, 4, 8, 8))  # no windows, no harm


REFUSED = {
    "drawing without shots": (lambda m: windows(m, shots=None), TEN, "connect shots"),
    "nothing to draw": (lambda m: windows(m, length=9), TEN, "no two of the 5 shots fit"),
    "an overlap as long as a window": (lambda m: windows(m, SHOTS, overlap=16), TEN, "cannot overlap"),
    "no latent frame": (lambda m: windows(m, SHOTS, length=1, keep_first=True), TEN, "holds no latent frame"),
    "the first frame in ComfyUI's own schedule": (lambda m: windows(m, "batched", keep_first=True), TEN, "keep_first"),
    "a batch": (lambda m: windows(m), (2, *TEN[1:]), "one video at a time"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_before_the_first_pass(what):
    make, shape, match = REFUSED[what]
    seen = []
    with pytest.raises(MoCError, match=match):
        tiny.sample(make(watch(tiny.load(), seen)), shape=shape)
    assert not seen


@pytest.mark.parametrize("name", ["i2v", "s2v"])
def test_conditioning_that_comfyui_does_not_cut_is_refused_before_the_first_pass(name):
    variant, seen = tiny.variant_of(name), []
    if HOST < Version(variant.since) or (name == "i2v" and HOST >= Version("0.30.0")):
        pytest.skip("this ComfyUI cuts it, or does not have it")
    with pytest.raises(MoCError, match="does not cut (c_concat|audio_embed) into windows"):
        tiny.sample(windows(watch(tiny.load(name), seen)), variant, shape=tiny.shape_of(variant, TEN), steps=1)
    assert not seen


@NEW
def test_a_reference_that_comfyui_would_take_for_the_film_is_refused():
    """It is cut by its height where that happens to be the number of latent frames."""
    variant, shape = tiny.variant_of("fun control, reference"), (1, 16, 8, 8, 8)
    with pytest.raises(MoCError, match="as high in latents as the video has latent frames"):
        tiny.sample(windows(tiny.load(str(variant)), shots=Shots(even=4)), variant, shape=shape, steps=1)


@pytest.mark.skipif(HOST >= Version("0.30.0"), reason="this ComfyUI knows guides from the film")
def test_guides_that_comfyui_would_take_for_the_film_are_refused():
    """Also where the film alone would have fitted into a window."""
    variant = tiny.variant_of("LTX-Video guides")
    shape = tiny.shape_of(variant, (1, 16, 12, 8, 8))
    shots = Shots(cuts=(2, 4, 6, 8), unit="latent")
    with pytest.raises(MoCError, match="mistakes guide frames for the video"):
        tiny.sample(windows(tiny.load(str(variant)), shots=shots, length=73), variant, shape=shape, steps=1)


@NEW
def test_guides_of_a_model_that_comfyui_cannot_cut_are_refused():
    variant = tiny.variant_of("LTX-Video guides")
    shape = tiny.shape_of(variant, (1, 16, 13, 8, 8))
    with pytest.raises(MoCError, match="cannot cut this model's guide frames"):
        tiny.sample(windows(tiny.load(str(variant)), length=49), variant, shape=shape, steps=1)


@NEW
def test_a_start_image_that_a_model_puts_into_every_first_frame_stands_in_every_window():
    variant = next(v for v in tiny.VARIANTS if "time_dim_replace" in v.conds((1, 16, 5, 8, 8)))
    shape, model = tiny.shape_of(variant, TEN), tiny.load(str(variant))
    with pytest.raises(MoCError, match="turn keep_first on"):
        tiny.sample(windows(model), variant, shape=shape, steps=1)
    kept = windows(model, length=17, keep_first=True)
    assert torch.isfinite(tiny.sample(kept, variant, shape=shape, steps=1)).all()
