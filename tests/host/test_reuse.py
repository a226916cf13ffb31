"""Choices of earlier steps inside the host: who takes them, who does not, and that they go with the run."""

from __future__ import annotations

import comfy.model_management
import pytest
import tiny
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from mixture_of_contexts.moc.backends import eager
from mixture_of_contexts.moc.backends.kept import KeptChoice
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.host import override, patch, state
from mixture_of_contexts.moc.methods import METHODS
from mixture_of_contexts.moc.trace.reasons import Anew
from spies import apart, routed

BLOCKS = 3
TILES = RoutingConfig.of(top_k=2, own="frame", tile=(1, 2, 2), tail="pooled")
SECOND = MoCSettings(TILES, Schedule(choosing="every second step"))
EVERY = MoCSettings(TILES)


@pytest.fixture
def selected(monkeypatch):
    """A list that grows with every call that selects."""
    made = []
    real = eager.Selection
    monkeypatch.setattr(eager, "Selection", lambda *args, **how: made.append(args[0].shape[0]) or real(*args, **how))
    return made


@pytest.fixture
def kept(monkeypatch):
    """All that runs keep."""
    made = []
    real = KeptChoice.__init__
    monkeypatch.setattr(KeptChoice, "__init__", lambda one, *a, **k: (made.append(one), real(one, *a, **k))[1])
    return made


def film(settings, **options):
    patched, trace = routed(tiny.load(), settings)
    return tiny.sample(patched, **{"steps": 6, **options}), trace


@pytest.mark.parametrize(
    ("choosing", "chooses"),
    [("every step", [0, 1, 2, 3, 4, 5]), ("every second step", [0, 1, 3, 5]), ("every fourth step", [0, 1, 5])],
)
def test_steps_choose_as_the_setting_says_and_the_others_select_nothing(choosing, chooses, selected, monkeypatch):
    steps = []
    real = override._route
    monkeypatch.setattr(
        override, "_route", lambda forward, *a, **k: (steps.append(forward.step), real(forward, *a, **k))[1]
    )
    made = []
    monkeypatch.setattr(
        eager, "Selection", lambda *a, real=eager.Selection, **k: made.append(steps[-1]) or real(*a, **k)
    )
    sampled, trace = film(MoCSettings(TILES, Schedule(choosing=choosing)))
    assert made == [step for step in chooses for _ in range(BLOCKS)]
    assert trace.routed == 6 * BLOCKS and trace.again == trace.routed - len(made) and not trace.anew
    report = trace.report()
    told = f"used again in {trace.again} of {trace.routed} routed calls"
    assert (told in report and "MiB were kept" in report and "a call to keep" in report) == (choosing != "every step")
    assert trace.summary()["choices_used_again"] == trace.again
    want, _ = film(EVERY)
    assert torch.equal(sampled, want) == (choosing == "every step") and apart(sampled, want) < 0.5


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_sde"])
def test_a_sampler_that_calls_the_model_more_than_once_a_step_chooses_every_time(sampler, selected):
    want, _ = film(EVERY, sampler=sampler)
    calls = len(selected)
    sampled, trace = film(SECOND, sampler=sampler)
    assert torch.equal(sampled, want) and len(selected) == 2 * calls
    assert not trace.again and trace.anew[Anew.SAMPLER] and set(trace.anew) == {Anew.SAMPLER}
    assert "chose anew: this sampler calls the model more than once a step" in trace.report()


def test_a_sampler_that_goes_back_later_is_known_from_then_on():
    """heunpp2 looks two steps ahead before it goes back."""
    _, trace = film(SECOND, sampler="heunpp2")
    assert trace.again == BLOCKS and set(trace.anew) == {Anew.SAMPLER}


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "uni_pc", "lcm"])
def test_a_sampler_that_calls_the_model_once_a_step_takes_choices(sampler):
    _, trace = film(SECOND, sampler=sampler)
    assert trace.again == 2 * BLOCKS and not trace.anew


def test_with_a_dense_start_the_sampler_is_known_when_the_first_step_chooses(selected):
    _, trace = film(MoCSettings(TILES, Schedule(start_percent=0.5, choosing="every second step")))
    first = 6 - trace.routed // BLOCKS
    assert first >= 2 and trace.again == (6 - first) // 2 * BLOCKS


def test_twice_chooses_at_the_start_and_after_a_part_of_the_sampling(monkeypatch):
    steps, made = [], []
    real = override._route
    monkeypatch.setattr(
        override, "_route", lambda forward, *a, **k: (steps.append(forward.sigma), real(forward, *a, **k))[1]
    )
    monkeypatch.setattr(
        eager, "Selection", lambda *a, real=eager.Selection, **k: made.append(steps[-1]) or real(*a, **k)
    )
    patched, trace = routed(
        ModelSamplingSD3().patch(tiny.load(), 1.0)[0], MoCSettings(TILES, Schedule(choosing="twice"))
    )
    tiny.sample(patched, steps=10)
    assert [round(sigma, 2) for sigma in made[::BLOCKS]] == [1.0, 0.9, 0.4]
    assert trace.again == 7 * BLOCKS


def test_another_budget_is_chosen_for(selected):
    """Shift 3, 8 steps: the curve's levels change between steps 1 and 2, 3 and 4, 5 and 6."""
    model = ModelSamplingSD3().patch(tiny.load(), 3)[0]
    patched, trace = routed(
        model, MoCSettings(TILES.changed(top_k=8), Schedule(curve="falling", choosing="every fourth step"))
    )
    tiny.sample(patched, steps=8)
    assert trace.again == 3 * BLOCKS, "steps 3, 5 and 7"


@pytest.mark.parametrize("joined", [True, False])
def test_both_prompts_take_their_own_choices_joined_in_a_batch_and_apart(joined, monkeypatch, selected):
    monkeypatch.setattr(patch, "_has_room", lambda *_: True)
    patched, trace = routed(tiny.load(), SECOND)
    monkeypatch.setattr(patched.model, "memory_required", lambda shape, **_: 0 if joined or shape[0] == 1 else 1e18)
    tiny.sample(patched, steps=6, cfg=2.0)
    assert selected == ([2] * BLOCKS if joined else [1] * 2 * BLOCKS) * 4
    assert trace.again == len(selected) // 2 and not trace.anew


def test_a_batch_that_is_split_on_the_way_chooses_anew(monkeypatch):
    monkeypatch.setattr(patch, "_has_room", lambda *_: True)
    steps = []
    patched, trace = routed(tiny.load(), SECOND)
    monkeypatch.setattr(
        patched.model, "memory_required", lambda shape, **_: 0 if len(steps) < 2 or shape[0] == 1 else 1e18
    )
    tiny.sample(patched, steps=6, cfg=2.0, callback=lambda *_: steps.append(0))
    assert trace.anew == {Anew.CHANGED: 2 * BLOCKS} and trace.again == 2 * BLOCKS, "steps 2 and 4"


def test_where_memory_does_not_suffice_every_step_chooses(monkeypatch, kept):
    def free(device=None, torch_free_too=False):
        return (2**30, 2**30) if torch_free_too else 2**30

    want, _ = film(EVERY)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", free)
    patched, trace = routed(tiny.load(), SECOND)
    monkeypatch.setattr(type(patched), "memory_required", lambda model, shape: 2**30)
    assert torch.equal(tiny.sample(patched, steps=6), want)
    assert kept and not trace.kept and not trace.again and trace.anew == {Anew.MEMORY: 2 * BLOCKS}


def test_a_call_that_runs_out_of_memory_ends_all_keeping(monkeypatch):
    """The first one that would take a choice."""
    real, calls = override.moc_attention, []

    def short(*args, kept=None, **kwargs):
        calls.append(kept)
        if len(calls) == 2 * BLOCKS + 1:
            kept.give_up()
            kept = None
        return real(*args, kept=kept, **kwargs)

    monkeypatch.setattr(override, "moc_attention", short)
    _, trace = film(SECOND)
    assert not trace.again and trace.anew == {Anew.MEMORY: 4 * BLOCKS}
    assert not any(one.bytes for one in calls if one)


def test_in_training_every_step_chooses(monkeypatch):
    want, _ = film(EVERY)
    monkeypatch.setattr(override, "is_training", lambda q: True)
    sampled, trace = film(SECOND)
    assert torch.equal(sampled, want) and not trace.again and trace.anew == {Anew.TRAINING: 6 * BLOCKS}


def test_heads_that_cut_the_video_for_themselves_choose_in_every_step():
    settings = MoCSettings(METHODS["SVG"].settings.routing.changed(chunk_tokens=16), SECOND.schedule)
    _, trace = film(settings)
    assert trace.routed == 6 * BLOCKS and not trace.again and trace.anew == {Anew.HEADS: 6 * BLOCKS}


@pytest.mark.parametrize("cancelled", [False, True])
def test_no_choice_outlives_its_run(cancelled, kept):
    def cancel(step, *_):
        if step == 3:
            assert any(one.bytes for one in kept)
            raise comfy.model_management.InterruptProcessingException()

    patched, trace = routed(tiny.load(), SECOND)
    want = tiny.sample(patched, steps=6)
    kept.clear()
    if cancelled:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            tiny.sample(patched, steps=6, callback=cancel)
        assert not trace.again and not trace.kept
    assert not any(one.bytes for one in kept)
    assert torch.equal(tiny.sample(patched, steps=6), want) and trace.again == 2 * BLOCKS
    assert not any(one.bytes for one in kept)


def test_choices_that_are_made_in_every_step_are_not_kept(kept):
    film(EVERY)
    assert not [one for one in kept if one.bytes] and state.CHOOSING["every step"].every == 1
