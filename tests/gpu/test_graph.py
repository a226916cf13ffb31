"""Does MoC behave inside ComfyUI on a GPU? LoRAs, CFG, cancelled runs, models by turns, other resolutions, two films at
once, other packs, float16: against the same without MoC. The tests under tests/host ask the same and more of the CPU;
here the GPU engine runs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import host
from benchmarks.end_to_end_model import TINY_SIZE, new_model, noise_of
from moc.config import Schedule
from moc.trace.reasons import Reason
from tests.gpu.check_graph import ALL, FILM, RULES, SIZE, TINY_FILM, browser, film, moc, off, rounding_of, with_lora

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group(name="inside ComfyUI")]
each_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(scope="module")
def start(comfyui, device, dry):
    """make(dtype) -> a model, its noise, its dense film, how far another kernel's dense film is from that."""
    host.start(comfyui, "--highvram" if device == "cuda" else "--cpu")
    browser()
    size, which = (TINY_SIZE, TINY_FILM) if dry else (SIZE, FILM)
    place = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")

    def make(dtype: torch.dtype) -> SimpleNamespace:
        model, noise = new_model(4, size, place, dtype if device == "cuda" else torch.float32), noise_of(which, False)
        first, dense = film(model, noise), film(model, noise)
        return SimpleNamespace(
            model=model, noise=noise, which=which, first=first, dense=dense, rounding=rounding_of(model, noise, dense)
        )

    return make


@pytest.fixture(scope="module")
def wan(start):
    return start(torch.bfloat16)


@pytest.fixture(scope="module")
def half(start):
    return start(torch.float16)


@pytest.fixture(scope="module")
def routed(wan):
    """routed(rule) -> the film that the rule makes, from a run of its own."""
    films: dict[str, torch.Tensor] = {}

    def make(rule: str) -> torch.Tensor:
        if rule not in films:
            films[rule] = film(moc(wan.model, RULES[rule], wan.which)[0], wan.noise)
        return films[rule]

    return make


@pytest.fixture(scope="module")
def changed(wan):
    """(the model with a LoRA, its dense film)."""
    lora = with_lora(wan.model, 7)
    return lora, film(lora, wan.noise)


def test_comfyui_by_itself_repeats_itself_once_warm(wan, noted):
    noted(first_film_off=off(wan.first, wan.dense))
    assert torch.equal(film(wan.model, wan.noise), wan.dense)


def test_all_chunks_chosen_is_dense(wan, noted):
    found = off(film(moc(wan.model, ALL, wan.which)[0], wan.noise), wan.dense)
    noted(off=found, by_another_kernel=wan.rounding)
    assert found < 3 * wan.rounding


def test_every_call_is_routed(wan, noted):
    patched, trace = moc(wan.model, ALL, wan.which)
    film(patched, wan.noise)
    noted(report=trace.report().splitlines()[0])
    assert "dense" not in trace.report().splitlines()[0]


def test_a_lora_changes_the_routed_film_as_it_changes_the_dense_one(wan, changed, noted):
    lora, want = changed
    found, effect = off(film(moc(lora, ALL, wan.which)[0], wan.noise), want), off(want, wan.dense)
    noted(off=found, effect=effect, by_another_kernel=wan.rounding)
    assert found < 3 * wan.rounding < effect


def test_a_lora_may_come_after_moc(wan, changed, noted):
    found = off(film(with_lora(moc(wan.model, ALL, wan.which)[0], 7), wan.noise), changed[1])
    noted(off=found)
    assert found < 3 * wan.rounding


def test_without_lora_and_moc_nothing_is_left_of_them(wan, changed):
    film(moc(changed[0], ALL, wan.which)[0], wan.noise)
    assert torch.equal(film(wan.model, wan.noise), wan.dense)


@each_rule
def test_a_rule_makes_the_same_film_twice(wan, routed, rule, noted):
    patched, trace = moc(wan.model, RULES[rule], wan.which)
    once, again = film(patched, wan.noise), film(patched, wan.noise)
    noted(off_dense=off(once, wan.dense), report=trace.report().splitlines()[0])
    assert once.isfinite().all() and torch.equal(once, again) and torch.equal(once, routed(rule))


@each_rule
def test_a_cancelled_run_leaves_the_next_one_alone(wan, routed, rule):
    import comfy.model_management

    def cancel(step, *_):
        raise comfy.model_management.InterruptProcessingException()

    patched = moc(wan.model, RULES[rule], wan.which)[0]
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        film(patched, wan.noise, cancel)
    assert torch.equal(film(patched, wan.noise), routed(rule))


@each_rule
def test_a_browser_is_told_while_a_film_is_made_and_all_at_its_end(wan, rule, noted):
    from moc.host.web.push import describe

    patched, trace = moc(wan.model, RULES[rule], wan.which)
    told = browser()
    film(patched, wan.noise)
    running, last, at_end = [m["step"] for m in told if m["running"]], told[-1], describe(trace)
    noted(steps=running)
    assert not last["running"] and {key: last[key] for key in at_end} == at_end
    assert len(trace.records) == trace.routed > 0
    assert 0 in running and running == sorted(running)


def test_models_by_turns_get_what_each_got_alone(wan, routed):
    alone = [routed(rule) for rule in RULES]
    turns = [moc(wan.model, routing, wan.which)[0] for routing in RULES.values()]
    assert all(torch.equal(film(m, wan.noise), out) for m, out in zip(turns[::-1], alone[::-1], strict=True))


def test_after_all_rules_the_model_itself_gets_what_it_got_at_first(wan, routed):
    for rule in RULES:
        routed(rule)
    assert torch.equal(film(wan.model, wan.noise), wan.dense)


@each_rule
def test_another_length_and_resolution_in_between_change_nothing(wan, routed, rule):
    length, height, width = wan.which.latent
    small = noise_of(replace(wan.which, latent=(length // 2, height // 2, width)), white=False)
    patched = moc(wan.model, RULES[rule], wan.which)[0]
    once, between, again = (film(patched, x) for x in (wan.noise, small, wan.noise))
    assert torch.equal(once, again) and torch.equal(once, routed(rule))
    assert torch.equal(film(moc(wan.model, RULES[rule], wan.which)[0], small), between)


def test_two_films_at_once_with_all_chunks_chosen_are_dense(wan, noted):
    two = torch.cat([wan.noise, wan.noise.flip(2)])
    dense = film(wan.model, two)
    rounding, found = rounding_of(wan.model, two, dense), off(film(moc(wan.model, ALL, wan.which)[0], two), dense)
    noted(off=found, by_another_kernel=rounding)
    assert found < 3 * rounding


@pytest.mark.parametrize("order", ["before", "after"])
@each_rule
def test_another_packs_attention_gets_all_that_is_not_routed(wan, routed, rule, order, noted):
    seen: list[bool] = []

    def pack(func, q, k, v, heads, *args, **kwargs):
        seen.append(q.shape == k.shape)
        return func(q, k, v, heads, *args, **kwargs)

    def with_pack(base):
        base = base.clone()
        base.model_options["transformer_options"]["optimized_attention_override"] = pack
        return base

    patched = with_pack(wan.model) if order == "before" else wan.model
    patched = moc(patched, RULES[rule], wan.which)[0]
    patched = with_pack(patched) if order == "after" else patched
    want = routed(rule)
    seen.clear()
    assert torch.equal(film(patched, wan.noise), want)
    noted(calls=len(seen))
    assert seen and not any(seen), "none of them is the video's self-attention"


@pytest.mark.parametrize("dense", ["the host's", "faster than any"])
def test_the_way_that_is_measured_to_be_faster_is_taken_from_the_second_step_on(wan, this_card, dense, noted):
    def attention(func, q, k, v, *args, **kwargs):
        return v.clone() if dense != "the host's" and q.shape == k.shape else func(q, k, v, *args, **kwargs)

    model = wan.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    patched, trace = moc(model, next(iter(RULES.values())), wan.which, Schedule(break_even="measured"))
    once, again = film(patched, wan.noise), film(patched, wan.noise)
    told = [note for note in trace.notes if "dense with attention" in note]
    noted(told=told, report=trace.report().splitlines()[0])
    assert torch.equal(once, again), "measured in the first film, and not in the second"
    assert [note.endswith("on") for note in told] == [dense == "the host's"]
    assert trace.dense == ({} if dense == "the host's" else {Reason.SLOWER: trace.routed})


def test_in_float16_all_chunks_chosen_is_dense(half, noted):
    found = off(film(moc(half.model, ALL, half.which)[0], half.noise), half.dense)
    noted(off=found, by_another_kernel=half.rounding)
    assert found < 3 * half.rounding


@each_rule
def test_in_float16_a_rule_makes_the_same_film_twice(half, rule, noted):
    patched, trace = moc(half.model, RULES[rule], half.which)
    out = film(patched, half.noise)
    noted(off_dense=off(out, half.dense), report=trace.report().splitlines()[0])
    assert out.isfinite().all() and torch.equal(film(patched, half.noise), out)
