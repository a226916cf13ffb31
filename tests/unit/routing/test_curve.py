"""The budget by noise: named curves, and what they and `dense_above` make of a few steps at the shifts people use."""

import pack
import pytest

from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import CURVES, Budget, RoutingConfig, Schedule
from moc.config.schedule import ROUNDING

choices = pack.load("nodes.widgets.routing")


def noises(steps: int, shift: float) -> list[float]:
    """Of every step, as ComfyUI's "simple" scheduler spaces them for a model of flow matching."""
    return [shift * t / (1 + (shift - 1) * t) for t in (1 - step / steps for step in range(steps))]


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_begins_with_the_whole_budget_and_falls_in_few_levels(curve):
    levels = CURVES[curve].levels
    assert levels[0][1] == 1.0 and levels[-1][0] == 0.0 and len(levels) <= 4
    assert list(levels) == sorted(levels, reverse=True) and all(0 < share <= 1 for _, share in levels)


@pytest.mark.parametrize(
    ("curve", "noise", "share"),
    [
        ("constant", 0.01, 1.0),
        ("falling", 1.0, 1.0),
        ("falling", 0.91, 1.0),
        ("falling", 0.9, 0.75),
        ("falling", 0.9 * (1 + ROUNDING / 2), 0.75),
        ("falling", 0.75, 0.5),
        ("falling", 0.5, 0.25),
        ("falling", 0.0, 0.25),
        ("falling early", 0.96, 1.0),
        ("falling early", 0.95, 0.5),
        ("falling early", 0.85, 0.25),
    ],
)
def test_a_level_holds_down_to_its_noise(curve, noise, share):
    assert Schedule(curve=curve).share(noise) == share


@pytest.mark.parametrize(
    ("steps", "shift", "shares"),
    [
        (4, 3, [1.0, 0.75, 0.5, 0.25]),  # noises 1, .9, .75, .5
        (4, 5, [1.0, 1.0, 0.75, 0.5]),  # 1, .94, .83, .63
        (4, 12, [1.0, 1.0, 1.0, 0.75]),  # 1, .97, .92, .8
        (8, 3, [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]),
        (8, 5, [1.0, 1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25]),
        (8, 12, [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.75, 0.5]),
    ],
)
def test_few_steps_read_by_their_noise_and_not_by_their_number(steps, shift, shares):
    assert [Schedule(curve="falling").share(noise) for noise in noises(steps, shift)] == shares


def test_a_fifth_of_the_steps_is_another_noise_at_every_shift():
    after = [round(noises(50, shift)[10], 3) for shift in (3, 5, 12)]
    assert after == [0.923, 0.952, 0.980]


def test_a_share_of_a_number_of_chunks_is_one_at_least():
    assert [Budget().settled(20, share, 0.1).top_k for share in (1.0, 0.75, 0.5, 0.25)] == [20, 15, 10, 5]
    assert Budget().settled(1, 0.25, 0.1).top_k == 1 and Budget().settled(0, 1.0, 0.1).top_k == 0
    assert Budget(density=0.3).settled(7, 1.0, 0.1) == Budget(top_k=7)


def test_of_a_density_for_every_head_that_falls_which_is_not_always_seen():
    budget = Budget(head_density=(0.1, 0.3, 0.5))
    assert budget.settled(5, 0.5, 0.2).head_density == pytest.approx((0.2, 0.25, 0.35))
    assert budget.settled(5, 1.0, 0.2).head_density == budget.head_density


def test_what_is_chosen_by_density_falls_by_the_share_whatever_is_always_seen():
    table = build_chunks(TokenLayout(20 * 64, (20, 8, 8)), (0, 10), RoutingConfig.of(own="shot", tile=(1, 2, 2)))
    seen = table.density(0, False)
    whole, half = (table.density(Budget().settled(table.top_k_at(0.7, False), s, seen).top_k, False) for s in (1, 0.5))
    assert (half - seen) / (whole - seen) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("widgets", "told"),
    [
        ({"curve": "falling"}, "the budget falling with the noise."),
        ({"curve": "falling early", "rule": "top-k or top-p"}, "the budget falling early with the noise."),
        ({"curve": "falling", "rule": "top-p"}, "top-p the same at every noise."),
        ({"curve": "falling", "rule": "threshold"}, "threshold the same at every noise."),
        ({"dense_above": 0.95}, "dense above a noise of 0.95."),
    ],
)
def test_the_summary_tells_what_follows_the_noise(widgets, told):
    assert choices.tell_routing(choices.read_routing(preset="fast", **widgets)).endswith(f", {told}")
