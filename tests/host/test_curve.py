"""The budget by noise inside the host: real schedulers, few steps, the shifts that people use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from mixture_of_contexts.moc.chunks.layout import TokenLayout
from mixture_of_contexts.moc.config import PRESETS, MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.host.state import Patch, Run
from mixture_of_contexts.moc.trace.reasons import Reason
from mixture_of_contexts.moc.trace.trace import Trace
from spies import TWO_SHOTS, routed

BLOCKS = 3
EIGHT = RoutingConfig.of(top_k=8, own="chunk", tile=(1, 1, 2))


def shifted(shift: float):
    return ModelSamplingSD3().patch(tiny.load(), shift)[0]


def chosen(trace, steps: int) -> list[float]:
    """Of every step, the share of pairs that was chosen, as a part of the first routed step's."""
    found = trace.summary()["density_of_step"]
    table = trace.calls[0][2]
    own = 2 / table.length
    return [round((found[s] - own) / (max(found.values()) - own), 2) if s in found else 0.0 for s in range(steps)]


@pytest.mark.parametrize(
    ("shift", "steps", "shares"),
    [
        (3, 4, [1.0, 0.75, 0.5, 0.25]),
        (5, 4, [1.0, 1.0, 0.75, 0.5]),
        (12, 4, [1.0, 1.0, 1.0, 0.75]),
        (3, 8, [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]),
        (12, 8, [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.75, 0.5]),
    ],
)
def test_what_is_chosen_falls_with_the_noise_at_every_shift_and_number_of_steps(shift, steps, shares):
    patched, trace = routed(shifted(shift), MoCSettings(EIGHT, Schedule(curve="falling")), shots=None)
    tiny.sample(patched, steps=steps)
    assert chosen(trace, steps) == shares


@pytest.mark.parametrize(("shift", "dense"), [(3, 1), (5, 1), (12, 2)])
def test_a_dense_start_by_noise_is_another_number_of_steps_at_every_shift(shift, dense):
    """4 steps: after the first, 0.9, 0.94 or 0.97 of it is noise; after the second 0.75, 0.83 or 0.92."""
    patched, trace = routed(shifted(shift), MoCSettings(EIGHT, Schedule(dense_above=0.95)))
    tiny.sample(patched, steps=4)
    assert {step for step, _, _ in trace.calls} == set(range(dense, 4))
    assert trace.dense == {Reason.SCHEDULE: dense * BLOCKS}


def test_the_later_of_a_start_by_noise_and_one_by_percent_counts():
    for schedule in (Schedule(dense_above=0.95, start_percent=0.5), Schedule(dense_above=0.85, start_percent=0.1)):
        patched, trace = routed(shifted(5), MoCSettings(EIGHT, schedule))
        tiny.sample(patched, steps=4)
        assert {step for step, _, _ in trace.calls} == {2, 3}


def test_a_rule_that_settles_how_much_by_itself_does_not_follow_the_curve():
    films = []
    for curve in ("constant", "falling"):
        settings = MoCSettings(EIGHT.changed(rule="top-p", top_p=0.5), Schedule(curve=curve))
        films.append(tiny.sample(routed(shifted(3), settings)[0], steps=4))
    assert torch.equal(*films)


def test_a_noise_level_that_is_a_ratio_counts_as_the_share_that_it_is():
    run = Run(Patch(TWO_SHOTS, MoCSettings(EIGHT, Schedule(curve="falling")), Trace(), "auto"), [], (0, 80), (0,))
    ratio = replace(run, flow=False)
    assert [ratio.share(sigma) for sigma in (80.0, 9.0, 3.0, 1.0)] == [run.share(s / (1 + s)) for s in (80, 9, 3, 1)]
    assert [ratio.share(sigma) for sigma in (80.0, 8.0, 2.0, 0.5)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(("name", "sigma"), [("Cosmos 1 t2v", 19.0), ("Wan 2.1/2.2 t2v", 0.95)])
def test_a_dense_start_by_noise_is_the_models_own_noise_level(name, sigma, monkeypatch):
    active = []
    monkeypatch.setattr(
        Run, "__post_init__", lambda run, real=Run.__post_init__: (active.append(run.active), real(run))
    )
    variant = tiny.variant_of(name)
    tiny.sample(routed(tiny.load(name), MoCSettings(EIGHT, Schedule(dense_above=0.95)))[0], variant, steps=1)
    assert active[0][1] == pytest.approx(sigma, rel=1e-4)


@pytest.mark.parametrize(("frame", "tile", "k"), [((4, 4), (1, 4, 4), 20), ((30, 52), (1, 8, 8), 32)])
def test_the_report_tells_the_tiles_of_large_pictures(frame, tile, k):
    trace = Trace()
    run = Run(Patch(None, PRESETS["recommended"], trace, "auto"), [], (0, 1), (0,))
    table, routing = run.table(TokenLayout(4 * frame[0] * frame[1], (4, *frame)), 0, 1.0)
    assert (routing.partition.tile, routing.budget.top_k) == (tile, k) and table.top_k(routing) == k
    told = f"1,560 tokens a frame: every token sees its {k} best chunks (tiles of 1x8x8 tokens, minmax)"
    assert trace.notes == [told] * (tile == (1, 8, 8))
