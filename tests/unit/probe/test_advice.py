"""Advice follows from the probe's numbers: on planted ones it can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moc.config import MoCSettings, RoutingConfig, Schedule
from moc.errors import MoCError
from moc.probe.advice import MARGINS, SCOPES, advise, choosing, tabulate
from moc.probe.log import Call, ProbeLog, borders, read_steps, spread
from moc.probe.sampled_error import SampledError

OPTIONS = tuple(RoutingConfig.of(top_k=k, own="frame") for k in (5, 1, 2, 10))
KEPT = (0.3, 0.1, 0.2, 0.5)
TOKENS, ROWS, SHARE = 100, 10, 0.02


def planted(errors, *, steps=6, across=0.8, settings=None) -> ProbeLog:
    """errors [S, B, O]: what every option loses in every probed step and block; 2 heads that do alike."""
    log = ProbeLog(settings or MoCSettings(OPTIONS[0]), steps_asked=len(errors))
    log.start(np.linspace(1.0, 0.0, steps + 1).tolist(), lambda percent: 1.0 - percent)
    log.options, log.chunk_share, log.density = OPTIONS, (SHARE,) * 4, KEPT
    log.tokens, log.blocks = TOKENS, len(errors[0])
    for step, of_blocks in zip(log.chosen, errors, strict=True):
        for block, of_options in enumerate(of_blocks):
            error, kept = (torch.tensor(x, dtype=torch.float64)[:, None].expand(-1, 2) for x in (of_options, KEPT))
            look = SampledError(
                error=error**2 * 7.0,
                size=torch.full((2,), 7.0, dtype=torch.float64),
                kept=kept * TOKENS * ROWS,
                mass=torch.full((4, 2), 0.9 * ROWS, dtype=torch.float64),
                across=torch.full((4, 2), across * 0.3 * ROWS, dtype=torch.float64),
                abroad=torch.full((2,), 0.3 * ROWS, dtype=torch.float64),
                rows=ROWS,
            )
            mine = look.at(0)
            call = Call(look, mine, mine.error[0], look.size, OPTIONS[0], SHARE, [0.3], [2.0], [1.0])
            log.calls[step, block] = call
    return log


FALLING = [0.04, 0.20, 0.10, 0.01]  # error of the options; options 1 < 2 < 0 < 3 by work
EXTRA = choosing(OPTIONS[0]) * SHARE


def test_the_least_work_within_the_error_is_taken():
    for target, option in [(0.3, 1), (0.15, 2), (0.05, 0), (0.03, 3)]:
        advice = advise(planted([[FALLING] * 3] * 2), target)
        assert advice.settings.routing == OPTIONS[option] and (advice.choice == option).all()
        assert advice.settings.schedule == Schedule() and advice.settings.blocks == ()
        assert advice.work == pytest.approx(KEPT[option] + EXTRA) and advice.kept == pytest.approx(KEPT[option])
        assert advice.error == pytest.approx(FALLING[option])


def test_it_aims_lower_than_asked():
    assert advise(planted([[FALLING] * 2]), 0.1).settings.routing == OPTIONS[0]
    assert advise(planted([[FALLING] * 2]), 0.1 / MARGINS[SCOPES[0]] + 1e-6).settings.routing == OPTIONS[2]


def test_a_block_that_nothing_cheap_serves_stays_dense_where_that_costs_less():
    """Option 3 for all would be .5; option 1 for three blocks and one dense (.1 * 3 + 1) / 4 = .325."""
    hard = [0.9, 0.9, 0.9, 0.01]
    advice = advise(planted([[FALLING, hard, FALLING, FALLING]] * 2), 0.25)
    assert advice.settings.routing == OPTIONS[1] and advice.settings.schedule.dense_blocks == (1,)
    assert advice.choice.tolist() == [1, -1, 1, 1] and advice.error[1] == 0
    assert advice.work == pytest.approx((3 * (KEPT[1] + EXTRA) + 1) / 4)
    advice = advise(planted([[FALLING, hard]] * 2), 0.25)  # here a finer setting for both is cheaper
    assert advice.settings.routing == OPTIONS[3] and advice.settings.schedule.dense_blocks == ()


def test_steps_at_the_start_stay_dense_where_that_costs_less():
    """Step 1 stands for steps 0-1 of 6, a third of the run. Its percent of the sampling is searched for."""
    hard = [0.9, 0.9, 0.9, 0.5]
    advice = advise(planted([[hard] * 2, [FALLING] * 2, [FALLING] * 2]), 0.25)
    assert (advice.first, advice.stop) == (1, 3)
    schedule = advice.settings.schedule
    assert schedule.start_percent == pytest.approx(1.5 / 6, abs=1e-4) and schedule.end_percent == 1.0
    assert advice.work == pytest.approx((2 * (KEPT[1] + EXTRA) + 1) / 3)


def test_steps_at_the_end_stay_dense_where_that_costs_less():
    """Of 9 steps 1, 4 and 7 are probed; step 7 stands for the last three, which begin behind step 5."""
    hard = [0.9, 0.9, 0.9, 0.5]
    advice = advise(planted([[FALLING] * 2, [FALLING] * 2, [hard] * 2], steps=9), 0.25)
    assert (advice.first, advice.stop) == (0, 2)
    schedule = advice.settings.schedule
    assert schedule.start_percent == 0.0 and schedule.end_percent == pytest.approx(5.5 / 9, abs=1e-4)
    assert advice.work == pytest.approx((2 * (KEPT[1] + EXTRA) + 1) / 3)


def test_the_error_of_a_block_is_the_root_mean_square_over_its_routed_steps():
    advice = advise(planted([[[0.04] * 4], [[0.08] * 4]]), 0.09)
    assert advice.error[0] == pytest.approx(np.sqrt((0.04**2 + 0.08**2) / 2))


def test_every_block_can_have_a_setting_of_its_own():
    easy = [0.01] * 4
    log = planted([[FALLING, easy, FALLING]] * 2)
    advice = advise(log, 0.065, SCOPES[1])
    assert advice.choice.tolist() == [0, 1, 0]
    assert advice.settings.routing == OPTIONS[0] and advice.settings.blocks == ((1, OPTIONS[1]),)
    assert [advice.settings.routing_of(b).budget.top_k for b in range(3)] == [5, 1, 5]
    assert advice.work < advise(log, 0.065).work


def test_heads_that_need_more_get_more():
    """Head 0 does well with anything, head 1 only with much: together they read what one setting for both would not."""
    log = planted([[FALLING, FALLING]] * 2)
    for call in log.calls.values():
        call.look.error[:, 0] *= 0.01
        call.look.error[:, 1] *= 1.99
    plain, mixed = advise(log, 0.1, SCOPES[1]), advise(log, 0.1, SCOPES[2])
    assert mixed.work < plain.work and mixed.error.max() <= mixed.aim
    first, second = mixed.settings.routing.budget.head_density
    assert first < second and {first, second} <= set(KEPT)
    assert mixed.kept == pytest.approx((first + second) / 2)
    expected = [np.array(FALLING)[KEPT.index(d)] ** 2 * f for d, f in ((first, 0.01), (second, 1.99))]
    assert mixed.error[0] == pytest.approx(np.sqrt(np.mean(expected)))


def test_what_is_read_across_shots_can_be_asked_for():
    log = planted([[FALLING] * 2], across=0.8)
    assert advise(log, 0.3, across=0.8 - 1e-9).routes
    assert not advise(log, 0.3, across=0.81).routes


def test_without_any_setting_within_the_error_everything_stays_dense():
    log = planted([[[0.5] * 4] * 3])
    advice = advise(log, 0.05)
    assert not advice.routes and advice.work == 1.0
    assert all(advice.settings.schedule.is_dense(block, log.blocks) for block in range(3))


def test_the_user_keeps_what_the_advice_is_not_about():
    kept = Schedule(min_tokens=500, break_even="measured")
    log = planted([[FALLING]], settings=MoCSettings(OPTIONS[0], replace(kept, dense_first=3)))
    assert advise(log, 0.3).settings.schedule == kept


def test_rivals_tell_what_the_other_chunks_would_cost():
    ((routing, work),) = advise(planted([[FALLING] * 2]), 0.15).rivals
    assert routing == OPTIONS[2] and work == pytest.approx(KEPT[2] + EXTRA)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"target": 0.0}, "use more than 0 and less than 1"), ({"target": 0.1, "scope": "some"}, "choose one of: one")],
)
def test_wrong_questions_are_told(wrong, sentence):
    with pytest.raises(MoCError, match=sentence):
        advise(planted([[FALLING]]), **wrong)


def test_a_probe_that_saw_nothing_says_so():
    with pytest.raises(MoCError, match="no attention call in the probed steps could be routed"):
        tabulate(ProbeLog(MoCSettings()))


def test_steps_are_spread_over_the_middles_of_equal_parts():
    assert spread(3, 9) == (1, 4, 7) and spread(1, 8) == (4,) and spread(5, 2) == (0, 1)
    assert spread((5, 0, 8, 99), 8) == (0, 5)
    assert read_steps(3, "") == 3 and read_steps(3, " 4, 0 ") == (0, 4)
    with pytest.raises(MoCError, match="write step numbers from 0 on"):
        read_steps(3, "1.5")


def test_borders_lie_between_the_noise_levels_of_steps():
    """Steps crowd where the noise is high: a shift as video models have."""

    def sigma(percent):
        return 5 * (1 - percent) / (1 + 4 * (1 - percent))

    sigmas = [sigma(i / 4) for i in range(5)]
    found = borders(sigmas, sigma)
    assert found[0] == 0.0 and found[-1] == 1.0
    assert all(i / 4 - 0.25 < found[i] < i / 4 for i in range(1, 4))
