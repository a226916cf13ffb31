"""break_even "measured": the faster of both ways from the second step on, with whatever attention the host has."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import pytest
import tiny
import torch
from mixture_of_contexts.moc.backends.measured import CALLS, Stopwatch
from mixture_of_contexts.moc.host import break_even, override
from mixture_of_contexts.moc.trace.reasons import Reason
from spies import OVERRIDE, little, routed

BLOCKS, STEPS = 3, 4
TOKENS = 5 * 4 * 4


@dataclass
class Machine:
    """A device whose time passes only in attention, and how long that takes there in either way."""

    dense: float
    routed: float
    now: float = 0.0
    dense_calls: int = 0
    routed_calls: int = 0

    def runs_on(self, device):
        return True

    def mark(self, device):
        return self.now

    def between(self, begin, end):
        return end - begin


@pytest.fixture
def machine(monkeypatch):
    """machine(dense, routed, estimate) -> (a model with another pack's attention, the machine, its stopwatch)"""

    def start(dense: float, routed: float, estimate: bool = True):
        machine, real = Machine(dense, routed), override.moc_attention

        def attention_sage(func, q, k, v, heads, **kwargs):
            if q.shape == k.shape:
                machine.now, machine.dense_calls = machine.now + machine.dense, machine.dense_calls + 1
            return func(q, k, v, heads, **kwargs)

        def route(*args, **kwargs):
            machine.now, machine.routed_calls = machine.now + machine.routed, machine.routed_calls + 1
            return real(*args, **kwargs)

        monkeypatch.setattr(override, "moc_attention", route)
        monkeypatch.setattr(break_even.cost_model, "pays", lambda *_, kernels: estimate)
        model = tiny.load().clone()
        model.model_options["transformer_options"][OVERRIDE] = attention_sage
        return model, machine, Stopwatch(machine)

    return start


def for_video(compute):
    def attention(func, q, k, v, heads, **kwargs):
        return compute() if q.shape == k.shape else func(q, k, v, heads, **kwargs)

    return attention


def measured(model, stopwatch, settings=None):
    return routed(model, settings or little(break_even="measured"), stopwatch=stopwatch)


def test_where_routing_is_slower_it_ends_with_the_first_step_and_the_report_says_why(machine):
    model, device, stopwatch = machine(dense=17.2, routed=41.0)
    patched, trace = measured(model, stopwatch)
    tiny.sample(patched, steps=STEPS)
    assert {step for step, _, _ in trace.calls} == {0} and trace.routed == BLOCKS
    assert trace.dense == {Reason.SLOWER: (STEPS - 1) * BLOCKS}
    assert f"a call of {TOKENS} tokens: dense with sage 17.2 ms, MoC 41 ms: off" in trace.report()
    assert "as measured" in trace.status()
    assert device.dense_calls == (STEPS - 1) * BLOCKS + CALLS and device.routed_calls == BLOCKS


def test_where_routing_is_faster_than_estimated_it_begins_with_the_second_step(machine):
    model, device, stopwatch = machine(dense=41.0, routed=17.2, estimate=False)
    patched, trace = measured(model, stopwatch)
    tiny.sample(patched, steps=STEPS)
    assert {step for step, _, _ in trace.calls} == set(range(1, STEPS))
    assert trace.dense == {Reason.SHORT: BLOCKS}
    assert "dense with sage 41 ms, MoC 17.2 ms: on" in trace.report()
    assert device.routed_calls == (STEPS - 1) * BLOCKS + CALLS


@pytest.mark.parametrize("estimate", [True, False])
def test_the_same_seed_gives_the_same_film_whether_or_not_it_was_measured_before(machine, estimate):
    model, device, stopwatch = machine(dense=17.0 if estimate else 41.0, routed=29.0, estimate=estimate)
    patched, _ = measured(model, stopwatch)
    films, calls = [], []
    for _ in range(2):
        before = device.dense_calls + device.routed_calls
        films.append(tiny.sample(patched, steps=STEPS))
        calls.append(device.dense_calls + device.routed_calls - before)
    assert torch.equal(*films)
    assert calls == [STEPS * BLOCKS + CALLS, STEPS * BLOCKS], "nothing is measured twice"


def test_measuring_touches_no_bit_of_the_steps_in_which_it_happens(machine):
    model, _, stopwatch = machine(dense=29.0, routed=29.0)
    patched, trace = measured(model, stopwatch)
    always, plain = routed(model, little(min_tokens=1))
    assert torch.equal(tiny.sample(patched, steps=STEPS), tiny.sample(always, steps=STEPS))
    assert trace.summary()["density_of_step"] == plain.summary()["density_of_step"]
    assert "MoC 29 ms: on" in trace.report()


def test_a_new_node_and_a_new_run_find_what_was_measured(machine):
    model, device, stopwatch = machine(dense=17.0, routed=41.0)
    tiny.sample(measured(model, stopwatch)[0], steps=STEPS)
    before = device.routed_calls
    patched, trace = measured(model, stopwatch)
    tiny.sample(patched, steps=STEPS)
    assert device.routed_calls - before == BLOCKS and "MoC 41 ms: off" in trace.report()


@pytest.mark.parametrize("estimate", [True, False])
def test_a_way_that_fails_when_it_is_timed_leaves_the_film_and_the_estimate(machine, estimate, monkeypatch):
    model, device, stopwatch = machine(dense=1.0 if estimate else 41.0, routed=17.0, estimate=estimate)

    def broken(*args, **kwargs):
        raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory")

    if estimate:
        model.model_options["transformer_options"][OVERRIDE] = for_video(broken)
    else:
        monkeypatch.setattr(override, "moc_attention", broken)
    patched, trace = measured(model, stopwatch)
    other, _ = routed(model, little(min_tokens=1)) if estimate else (tiny.load(), None)
    assert torch.equal(tiny.sample(patched, steps=STEPS), tiny.sample(other, steps=STEPS))
    assert (trace.routed, trace.dense.total()) == ((STEPS * BLOCKS, 0) if estimate else (0, STEPS * BLOCKS))
    assert "was not timed, so the estimate counts" in trace.report()


def test_cancelling_is_not_taken_for_a_way_that_fails(machine):
    def cancel():
        raise comfy.model_management.InterruptProcessingException()

    model, _, stopwatch = machine(dense=1.0, routed=1.0)
    model.model_options["transformer_options"][OVERRIDE] = for_video(cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(measured(model, stopwatch)[0])


def test_another_attention_is_measured_anew(machine):
    model, device, stopwatch = machine(dense=17.0, routed=41.0)
    tiny.sample(measured(model, stopwatch)[0], steps=STEPS)
    model.model_options["transformer_options"].pop(OVERRIDE)
    before = device.routed_calls
    patched, trace = measured(model, stopwatch)
    tiny.sample(patched, steps=STEPS)
    assert "dense with sage" not in trace.report() and "0 ms, MoC 41 ms: off" in trace.report()
    assert device.routed_calls - before == BLOCKS


@pytest.mark.parametrize("settings", [little(), little(break_even="measured", min_tokens=1)])
def test_nothing_is_measured_unless_asked_for_and_free_to_choose(machine, settings):
    model, device, stopwatch = machine(dense=1.0, routed=41.0)
    patched, trace = measured(model, stopwatch, settings)
    tiny.sample(patched, steps=STEPS)
    assert trace.routed == STEPS * BLOCKS and not device.dense_calls


def test_a_cpu_is_never_measured():
    patched, trace = routed(tiny.load(), little(break_even="measured"))
    tiny.sample(patched, steps=STEPS)
    assert trace.routed == STEPS * BLOCKS and "dense with" not in trace.report()


def test_plain_torch_is_not_tried_where_kernels_are_missing(machine, monkeypatch):
    model, device, stopwatch = machine(dense=41.0, routed=1.0, estimate=False)
    taken = break_even.registry.Selected(break_even.registry.BACKENDS["eager"], "Triton is not installed")
    monkeypatch.setattr(break_even.registry, "select", lambda *_: taken)
    patched, trace = measured(model, stopwatch)
    tiny.sample(patched, steps=STEPS)
    assert trace.dense == {Reason.KERNELS: STEPS * BLOCKS} and not device.routed_calls
