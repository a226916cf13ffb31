"""Life in the host: runs after and beside each other, cancelled or failing ones; what runs dense, and why."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import comfy.samplers
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host import apply_moc, override
from mixture_of_contexts.moc.host.adapters import ADAPTERS
from mixture_of_contexts.moc.host.state import KEY
from mixture_of_contexts.moc.host.web import push
from mixture_of_contexts.moc.host.web.push import Live
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.reasons import Reason
from mixture_of_contexts.moc.trace.trace import AHEAD, Trace
from spies import TWO_SHOTS, apart, everything, little, routed, watched

BLOCKS = 3


def test_an_unpatched_model_after_a_patched_one_is_as_before():
    model = tiny.load()
    before = tiny.sample(model)
    tiny.sample(routed(model)[0])
    assert torch.equal(tiny.sample(model), before)


def test_a_patched_model_sampled_twice_gives_the_same_and_a_fresh_trace():
    patched, trace = routed(tiny.load())
    first, records = tiny.sample(patched), len(trace.records)
    assert torch.equal(tiny.sample(patched), first)
    assert len(trace.records) == trace.routed == records == 2 * BLOCKS


def test_what_is_still_on_its_way_from_a_gpu_is_told_while_the_next_pass_runs(monkeypatch):
    told = []
    monkeypatch.setattr(Trace, "move", lambda trace, move=Trace.move: move(trace) or True)
    monkeypatch.setattr(
        Live, "update", lambda live, new, step: told.append((step, {r.step for r in new}, live.trace.routed))
    )
    patched, trace = routed(tiny.load())
    tiny.sample(patched)
    assert told == [(0, {0}, BLOCKS + AHEAD), (1, {1}, 2 * BLOCKS)]
    assert len(trace.records) == 2 * BLOCKS


def test_what_was_on_its_way_when_a_run_was_cancelled_reaches_no_other_run(monkeypatch):
    told = []

    def cancel(*_):
        raise comfy.model_management.InterruptProcessingException()

    monkeypatch.setattr(Trace, "move", lambda trace, move=Trace.move: move(trace) or True)
    monkeypatch.setattr(Live, "update", lambda live, new, step: told.append((step, len(new))))
    patched, trace = routed(tiny.load())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(patched, callback=cancel)
    assert not told and not trace.records and not trace.arrived()
    for _ in range(2):  # queued again, and again
        told.clear()
        tiny.sample(patched)
        assert told == [(0, BLOCKS), (1, BLOCKS)] and len(trace.records) == 2 * BLOCKS


@pytest.mark.parametrize("what", ["move", "arrived"])
def test_a_picture_is_no_reason_to_end_a_run(what, monkeypatch):
    def broken(*_):
        raise torch.OutOfMemoryError("2 GiB")

    patched, trace = routed(tiny.load())
    wanted = tiny.sample(patched)
    monkeypatch.setattr(Trace, what, broken)
    assert torch.equal(tiny.sample(patched), wanted)
    assert trace.routed == 2 * BLOCKS and not trace.records and not len(trace._queue)
    assert "a step is missing from the heatmap (OutOfMemoryError: 2 GiB)" in trace.report()


@pytest.mark.parametrize("workflow", ["text", None, [], {"id": 7}])
def test_whatever_a_script_calls_its_workflow_a_run_is_told_of(workflow):
    queue = SimpleNamespace(
        get_current_queue_volatile=lambda: ([(0, "id", {"1": {}}, {"extra_pnginfo": {"workflow": workflow}})], [])
    )
    assert push._running(SimpleNamespace(prompt_queue=queue)) == ({"1": {}}, "7" if workflow == {"id": 7} else "")


@pytest.mark.parametrize("cancelled", [False, True])
def test_nothing_is_left_on_the_model_after_a_run(cancelled):
    def cancel(*_):
        raise comfy.model_management.InterruptProcessingException()

    patched, trace = routed(tiny.load())
    if cancelled:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            tiny.sample(patched, callback=cancel)
    else:
        tiny.sample(patched)
        assert trace.routed
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in patched.model.diffusion_model.modules())


def test_two_branches_with_other_settings_do_not_touch_each_other():
    one, trace_one = routed(tiny.load(), little())
    two, trace_two = routed(tiny.load(), MoCSettings(RoutingConfig.of(top_k=1, own="chunk", tile=(1, 2, 2))))
    alone = tiny.sample(one), tiny.sample(two)
    assert apart(*alone) > 1e-3
    assert torch.equal(tiny.sample(one), alone[0]) and torch.equal(tiny.sample(two), alone[1])
    assert trace_one.records[0].chosen.shape != trace_two.records[0].chosen.shape


def test_applying_twice_replaces():
    once, first = routed(tiny.load(), little())
    twice, second = routed(once, everything())
    assert apart(tiny.sample(twice), tiny.sample(tiny.load())) < 1e-5
    assert second.routed == 2 * BLOCKS and not first.routed
    assert not first.dense and not first.notes and not first.steps, "the first one never ran"
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        assert len(twice.get_wrappers(kind, KEY)) == len(once.get_wrappers(kind, KEY)) == 1


def test_nodes_downstream_that_clone_the_model_keep_moc():
    patched, trace = routed(tiny.load())
    expected = tiny.sample(patched)
    assert torch.equal(tiny.sample(patched.clone().clone()), expected) and trace.routed == 2 * BLOCKS


@pytest.mark.parametrize("settings", [everything(), little()], ids=["k=all", "k=1"])
def test_cond_and_uncond_in_one_batch_or_one_after_the_other(settings, monkeypatch):
    patched, trace = routed(tiny.load(), settings)
    together = tiny.sample(patched, cfg=3.0)
    assert trace.routed == 2 * BLOCKS
    monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
    assert apart(tiny.sample(patched, cfg=3.0), together) < 1e-4
    assert trace.routed == 2 * 2 * BLOCKS


def test_a_negative_prompt_of_another_length():
    patched, trace = routed(tiny.load(), everything())
    options = {"cfg": 3.0, "negative_text": tiny.TEXT + 4}
    assert apart(tiny.sample(patched, **options), tiny.sample(tiny.load(), **options)) < 1e-5
    assert trace.routed == 2 * 2 * BLOCKS


def test_every_sample_of_a_batch_is_routed_on_its_own():
    patched, _ = routed(tiny.load())
    batch = tiny.sample(patched, shape=(2, *tiny.LATENT[1:]))
    noise = tiny.random(2, *tiny.LATENT[1:], seed=1)
    alone = [tiny.sample(patched, noise=noise[i : i + 1]) for i in range(2)]
    assert apart(batch, torch.cat(alone)) < 1e-4


def test_cancelling_in_the_middle_leaves_the_next_run_clean():
    patched, trace = routed(tiny.load())
    expected = tiny.sample(patched, steps=3)

    def cancel(step, *_):
        if step == 1:
            raise comfy.model_management.InterruptProcessingException()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(patched, steps=3, callback=cancel)
    assert not trace.records and not trace.routed
    assert torch.equal(tiny.sample(patched, steps=3), expected) and trace.routed == 3 * BLOCKS


def test_a_cut_beyond_the_end_is_told_before_the_first_step():
    calls: list = []
    patched, _ = routed(watched(tiny.load(), calls), shots=Shots(cuts=(9, 200)))
    with pytest.raises(MoCError, match="cut 2 is at frame 200, but this video has only 17 frames"):
        tiny.sample(patched)
    assert not calls


def test_a_cut_that_had_to_move_is_noted():
    patched, trace = routed(tiny.load(), shots=Shots(cuts=(8,)))
    tiny.sample(patched)
    assert trace.notes == ["cut 1 moved from frame 8 to 9, the nearest one this model can cut at"]
    assert trace.records[0].axes.shots == (0, 0, 0, 1, 1)


def test_without_shots_the_video_is_one_shot():
    patched, trace = routed(tiny.load(), shots=None)
    tiny.sample(patched)
    assert set(trace.records[0].axes.shots) == {0}


@pytest.mark.parametrize("sampler, evaluations", [("euler", 4), ("heun", 7), ("uni_pc", 5)])
def test_steps_are_counted_for_samplers_that_look_twice(sampler, evaluations):
    patched, trace = routed(tiny.load())
    tiny.sample(patched, steps=4, sampler=sampler)
    steps = [step for step, block, _ in trace.calls if block == 0]
    assert len(steps) >= evaluations - 1 and steps == sorted(steps) and set(steps) == set(range(max(steps) + 1))


def test_start_and_end_percent_keep_steps_dense():
    patched, trace = routed(tiny.load(), little(start_percent=0.3, end_percent=0.8))
    tiny.sample(patched, steps=5)
    sampling = tiny.load().get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 5)[:-1].tolist()
    inside = [sampling.percent_to_sigma(0.8) <= s <= sampling.percent_to_sigma(0.3) for s in sigmas]
    assert {step for step, _, _ in trace.calls} == {i for i, on in enumerate(inside) if on} != set()
    assert trace.dense == {Reason.SCHEDULE: BLOCKS * inside.count(False)}


def test_first_and_last_blocks_can_stay_dense():
    patched, trace = routed(tiny.load("animate"), little(dense_first=1, dense_last=2))
    tiny.sample(patched, tiny.variant_of("animate"), steps=1)
    assert trace.blocks_seen == [1, 2] and trace.dense == {Reason.BLOCK: 3}


@pytest.mark.parametrize(
    "settings, shape, reason",
    [
        (little(min_tokens=81), tiny.LATENT, Reason.SHORT),
        (little(), (1, 16, 1, 8, 8), Reason.ONE_FRAME),
        (MoCSettings(RoutingConfig.of(own="shot")), tiny.LATENT, Reason.NO_CHOICE),
    ],
)
def test_what_has_no_use_for_routing_is_bitwise_the_unpatched_model(settings, shape, reason):
    patched, trace = routed(tiny.load(), settings, shots=None)
    assert torch.equal(tiny.sample(patched, shape=shape), tiny.sample(tiny.load(), shape=shape))
    assert trace.dense == {reason: 2 * BLOCKS} and not trace.routed


@pytest.mark.parametrize(
    "error, reason", [(torch.OutOfMemoryError("full"), Reason.MEMORY), (RuntimeError("a bug"), Reason.FAILED)]
)
def test_a_failure_inside_moc_runs_dense_and_says_so_once(error, reason, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(override, "moc_attention", broken)
    patched, trace = routed(tiny.load())
    assert torch.equal(tiny.sample(patched), tiny.sample(tiny.load()))
    assert trace.dense == {reason: 2 * BLOCKS} and len(trace.notes) == 1
    assert len([r for r in caplog.records if r.exc_info]) == (reason is Reason.FAILED)


def test_an_image_model_is_refused_when_the_graph_is_built():
    model = tiny.load().clone()
    model.add_object_patch("latent_format", comfy.latent_formats.SDXL())
    with pytest.raises(MoCError, match="This is not a video model"):
        apply_moc(model, None, little(), Trace())


def test_a_video_model_without_an_adapter_runs_unchanged_and_says_so(monkeypatch):
    monkeypatch.delitem(ADAPTERS, "WanModel")
    patched, trace = routed(tiny.load(), shots=TWO_SHOTS)
    assert torch.equal(tiny.sample(patched), tiny.sample(tiny.load()))
    assert trace.dense == {Reason.MODEL: 2} and "WanModel" in trace.report()


@pytest.mark.parametrize("where", ["everywhere", "one block"])
def test_another_number_of_densities_than_heads_is_told_before_the_first_step(where):
    heads = RoutingConfig.of(own="frame", head_density=(0.5, 0.5, 0.5))
    settings = MoCSettings(heads) if where == "everywhere" else MoCSettings(blocks=((1, heads),))
    passes: list = []
    patched, trace = routed(watched(tiny.load(), passes), settings)
    with pytest.raises(MoCError, match="head_density has 3 numbers, but this model has 2 heads"):
        tiny.sample(patched)
    assert not passes and not trace.routed


def test_a_model_that_hides_its_heads_gets_the_wrong_number_of_densities_reported(monkeypatch):
    def hidden(diffusion_model):
        raise AttributeError

    monkeypatch.setitem(ADAPTERS, "WanModel", replace(ADAPTERS["WanModel"], heads=hidden))
    patched, trace = routed(tiny.load(), MoCSettings(RoutingConfig.of(own="frame", head_density=(0.5,) * 3)))
    tiny.sample(patched)
    assert not trace.routed and "head_density has 3 numbers" in trace.report()


@pytest.mark.parametrize("late", [0.0, 0.5])
def test_a_density_below_what_is_always_seen_is_told_before_the_first_step_with_one_that_works(late, caplog):
    def settings(density: float) -> MoCSettings:
        return MoCSettings(RoutingConfig.of(own="frame", density=density), Schedule(start_percent=late))

    patched, trace = routed(tiny.load(), settings(0.1))
    told: list = []

    def see(executor, *args, **kwargs):
        told.append(caplog.text)
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key("diffusion_model", "test", see)
    tiny.sample(patched)
    (note,) = trace.notes
    assert note.startswith("a density of 0.1 chooses nothing: 20.0% of all pairs are always seen anyway")
    assert note in told[0] and max(record.density for record in trace.records) == pytest.approx(0.2)
    least = float(re.search(r"Use a density of ([0-9.]+) or more", note)[1])
    patched, trace = routed(tiny.load(), settings(least))
    tiny.sample(patched)
    assert not trace.notes and min(record.density for record in trace.records) > 0.3, "own frame and one more of five"


def test_what_became_of_equal_shots_and_of_a_longer_length_stands_in_the_report():
    patched, trace = routed(tiny.load(), shots=Shots(even=3, length=500))
    tiny.sample(patched)
    assert "they begin at frames 0, 1, 9" in trace.report()
    assert "made for a video of 500 frames, but this one has 17" in trace.report()
    patched, _ = routed(tiny.load(), shots=Shots(even=20, length=17))
    with pytest.raises(MoCError, match="at most 5"):
        tiny.sample(patched)
