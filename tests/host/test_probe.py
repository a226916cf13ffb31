"""The probe in the host: it looks, says what it saw, and the picture is the one it would have been without it."""

from __future__ import annotations

import comfy.model_management
import numpy as np
import pytest
import tiny
import torch
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.host import apply_probe, probed_call
from mixture_of_contexts.moc.probe.advice import SCOPES, advise, tabulate
from mixture_of_contexts.moc.probe.log import ProbeLog
from mixture_of_contexts.moc.trace.reasons import Reason
from mixture_of_contexts.moc.trace.trace import Trace
from spies import TWO_SHOTS, routed, watched

BLOCKS = 3
ROUTING = RoutingConfig.of(top_k=2, own="frame", tile=(1, 2, 2))
TILES = ((1, 1, 1), (1, 2, 2), None)


def probed(model, *, settings=None, shots=TWO_SHOTS, **asked):
    log = ProbeLog(settings or MoCSettings(ROUTING), chunkings=TILES, **asked)
    trace = Trace()
    return apply_probe(model, shots, log, trace), log, trace


@pytest.mark.parametrize("name", ["t2v", "i2v"])
@pytest.mark.parametrize("options", [{}, {"cfg": 3.0}, {"sampler": "heun", "steps": 3}], ids=str)
def test_the_picture_is_untouched_bit_for_bit(name, options):
    variant = tiny.variant_of(name)
    patched, log, _ = probed(tiny.load(name))
    assert torch.equal(tiny.sample(patched, variant, **options), tiny.sample(tiny.load(name), variant, **options))
    assert log.calls


def test_other_attention_overrides_compute_what_is_handed_on():
    calls: list = []
    patched, _, _ = probed(watched(tiny.load(), calls))
    tiny.sample(patched)
    assert len(calls) >= 2 * BLOCKS


def test_chosen_steps_alone_are_looked_at_in_every_block():
    patched, log, trace = probed(tiny.load(), steps_asked=(1, 3, 99))
    tiny.sample(patched, steps=5)
    assert set(log.calls) == {(step, block) for step in (1, 3) for block in range(BLOCKS)}
    assert log.blocks == BLOCKS and log.steps == 5 and trace.dense == {Reason.SCHEDULE: 3 * BLOCKS}


def test_the_error_is_what_routing_does_to_the_output_of_the_same_call():
    """In the first block of the first step both runs see the same input."""
    patched, log, _ = probed(tiny.load(), steps_asked=(0,), rows_asked=10_000)
    tiny.sample(patched, steps=1)
    call = log.calls[0, 0]
    on_rows, on_all = call.look.error[0] / call.look.size, call.error / call.size
    torch.testing.assert_close(on_rows, on_all, rtol=1e-4, atol=1e-9)
    assert (on_all > 1e-4).all() and call.dense_seconds[0] > 0 < call.routed_seconds[0]
    moc, trace = routed(tiny.load(), MoCSettings(ROUTING))
    tiny.sample(moc, steps=1)
    assert call.density == [pytest.approx(trace.records[0].density)]
    assert float(call.look.kept[0].mean()) / call.look.rows / log.tokens == pytest.approx(call.density[0], rel=1e-3)


def test_two_probed_models_in_one_graph_do_not_touch_each_other():
    one, first, _ = probed(tiny.load())
    two, second, _ = probed(tiny.load(), settings=MoCSettings(RoutingConfig.of(top_k=1, own="chunk", tile=(1, 4, 4))))
    tiny.sample(one)
    alone = [call.error for call in first.calls.values()]
    tiny.sample(two)
    assert all(torch.equal(a, call.error) for a, call in zip(alone, first.calls.values(), strict=True))
    assert first.options[0] != second.options[0] and len(second.calls) == len(first.calls)


def test_cancelling_leaves_nothing_behind():
    def cancel(*_):
        raise comfy.model_management.InterruptProcessingException()

    patched, log, _ = probed(tiny.load())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(patched, callback=cancel)
    assert not log.calls and not log.steps
    tiny.sample(patched)
    assert len(log.calls) == 2 * BLOCKS


def test_a_look_that_fails_costs_the_look_and_not_the_picture(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(probed_call, "moc_attention", broken)
    patched, log, trace = probed(tiny.load())
    assert torch.equal(tiny.sample(patched), tiny.sample(tiny.load()))
    assert not log.calls and trace.dense == {Reason.FAILED: 2 * BLOCKS} and "a bug" in trace.notes[0]


def test_the_same_seed_gives_the_same_advice():
    def once(scope):
        patched, log, _ = probed(tiny.load())
        tiny.sample(patched, steps=4)
        return advise(log, 0.2, scope)

    for scope in SCOPES:
        first, second = once(scope), once(scope)
        assert first.settings == second.settings and first.work == second.work


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_advised_reaches_the_error_when_it_is_probed_itself(scope):
    patched, log, _ = probed(tiny.load(), steps_asked=4, rows_asked=10_000)
    tiny.sample(patched, steps=4)
    advice = advise(log, 0.15, scope)
    assert advice.routes and 0 < advice.work < 1
    assert not advice.settings.blocks or scope != SCOPES[0]
    again, second, _ = probed(tiny.load(), settings=advice.settings, steps_asked=4)
    tiny.sample(again, steps=4)
    error = tabulate(second).asked_error[advice.first : advice.stop, advice.choice >= 0]
    assert (np.sqrt((error**2).mean(0)) <= 0.15).all()


def test_a_block_with_a_routing_of_its_own_is_judged_by_that():
    finer = RoutingConfig.of(top_k=3, own="frame", tile=(1, 1, 2))
    patched, log, _ = probed(tiny.load(), settings=MoCSettings(ROUTING, blocks=((0, finer),)), rows_asked=10_000)
    tiny.sample(patched)
    alone, other, _ = probed(tiny.load(), settings=MoCSettings(finer), rows_asked=10_000)
    tiny.sample(alone)
    for step in log.chosen:
        one, two = log.calls[step, 0], other.calls[step, 0]
        assert torch.equal(one.error, two.error)
        torch.testing.assert_close(one.asked.error[0] / one.asked.size, one.error / one.size, rtol=1e-4, atol=1e-9)
    assert not torch.equal(log.calls[log.chosen[0], 1].error, other.calls[log.chosen[0], 1].error)


def test_the_advised_schedule_routes_from_a_step_on():
    patched, log, _ = probed(tiny.load(), steps_asked=(2, 5))
    tiny.sample(patched, steps=6)
    assert log.percent[0] == 0.0 and log.percent[-1] == 1.0
    for step in (0, 1, 3, 5):
        model, trace = routed(tiny.load(), MoCSettings(ROUTING, Schedule(log.percent[step])))
        tiny.sample(model, steps=6)
        assert {s for s, _, _ in trace.calls} == set(range(step, 6))


def test_all_rules_can_be_compared_and_advised():
    patched, log, _ = probed(tiny.load(), steps_asked=1, all_rules=True)
    tiny.sample(patched, steps=1)
    assert {option.budget.rule for option in log.options} == {"top-k", "top-p", "threshold"}
    assert {option.score.descriptor for option in log.options} == {"mean", "minmax", "mean+max+min"}
    patched, plain, _ = probed(tiny.load(), steps_asked=1)
    tiny.sample(patched, steps=1)
    assert {option.budget.rule for option in plain.options} == {"top-k"}
    assert advise(log, 0.1).work <= advise(plain, 0.1).work  # more to choose from never costs more
    table = tabulate(log)
    for descriptor in ("mean", "minmax", "mean+max+min"):  # a larger share loses less and reads more
        rising = [
            i
            for i, o in enumerate(log.options)
            if (o.budget.rule, o.score.descriptor, o.partition.tile) == ("top-p", descriptor, (1, 2, 2))
        ]
        assert (np.diff(table.kept[..., rising]) >= 0).all() and len(rising) > 3


def test_another_film_on_the_same_model_forgets_the_first_one():
    """The node stays as it is when only the latent is changed: another size, two films at once."""
    patched, log, _ = probed(tiny.load(), rows_asked=16)
    tiny.sample(patched)
    tokens, variant = log.tokens, tiny.variant_of("t2v")
    _, _, frames, height, width = tiny.shape_of(variant)
    shape = (2, 16, frames, height, 2 * width)
    out = tiny.sample(patched, shape=shape)
    assert log.tokens == 2 * tokens and {block for _, block in log.calls} == set(range(BLOCKS))
    assert torch.equal(out, tiny.sample(tiny.load(), shape=shape))
    assert np.isfinite(tabulate(log).error).all()
