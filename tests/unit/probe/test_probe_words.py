"""What a person reads after a probe: what was seen, what to use, and why."""

import json

import pack
import pytest

from moc.config import MoCSettings
from moc.probe.advice import SCOPES, advise
from moc.probe.log import ProbeLog
from moc.trace.reasons import Reason
from moc.trace.trace import Trace
from tests.unit.probe.test_advice import FALLING, OPTIONS, planted

words = pack.load("nodes.render.probe_text")
picture = pack.load("nodes.render.probe")
packed = pack.load("moc.trace.trace")

HARD = [0.9, 0.9, 0.9, 0.01]


def told(log, target=0.25, scope=SCOPES[0], trace=None):
    advice = advise(log, target, scope)
    return words.tell(log, trace or Trace(), advice.table, advice)


def test_it_says_what_was_seen_and_what_to_use():
    report = told(planted([[FALLING] * 4] * 3))
    assert report.startswith("MoC Probe looked at steps 1, 3, 5 of 6 (counted from 0), 4 of 4 blocks, 100 tokens.")
    assert "- The output of a block is off by 4.0%" in report
    assert "It reads 90% of what full attention reads, and 80% of what falls on other shots (30% of all)." in report
    assert "One attention call: 2.00 s in full, 1.00 s routed (620 ms if time followed work)." in report
    assert "Advice for an error of at most 25% in every routed block:" in report
    assert "its own frame and its best chunk" in report and "11% of the work of full attention" in report


def test_blocks_kept_in_full_are_named_with_the_error_they_would_have():
    assert "Kept in full, with the error they would have: block 1 (90%)." in told(
        planted([[FALLING, HARD, FALLING, FALLING]])
    )


def test_steps_kept_in_full_are_named():
    report = told(planted([[[0.9, 0.9, 0.9, 0.5]] * 2, [FALLING] * 2, [FALLING] * 2]))
    assert "the parts of the run around step 1, for the same reason." in report


def test_every_block_with_settings_of_its_own_is_listed():
    assert "- Block 1: its best chunk (whole latent frames, mean)." in told(
        planted([[FALLING, [0.01] * 4, FALLING]]), 0.05, SCOPES[1]
    )


def test_a_loss_between_shots_is_warned_of():
    assert "characters may look different from shot to shot" in told(planted([[FALLING]], across=0.1))
    assert "characters may look different" not in told(planted([[FALLING]], across=0.8))


def test_without_other_shots_nothing_is_said_of_them():
    log = planted([[FALLING]])
    for call in log.calls.values():
        call.look.abroad[:] = call.look.across[:] = 0.0
    report = told(log)
    assert "other shots" not in report and "nan" not in report


def test_slow_routing_is_told():
    log = planted([[FALLING]])
    for call in log.calls.values():
        call.routed_seconds[:] = [3.0]
    assert "Routing is slower than full attention here." in told(log)


def test_no_setting_is_an_answer_too():
    report = told(planted([[[0.5] * 4] * 3]), 0.05)
    assert "None of 4 settings stays within that error" in report and "The smallest error was 50%" in report


def test_too_much_asked_of_other_shots_is_told_as_such():
    log = planted([[FALLING]], across=0.5)
    advice = advise(log, 0.25, across=0.9)
    report = words.tell(log, Trace(), advice.table, advice)
    assert "None of 4 settings reads 90% of what falls on other shots within that error" in report
    assert "lower across, or choose a larger error" in report


def test_calls_that_were_not_looked_at_are_told_but_not_the_steps_nobody_asked_for():
    trace = packed.Trace()
    for reason in (packed.Reason.MEMORY, packed.Reason.SCHEDULE):
        trace.ran_dense(reason)
    report = told(planted([[FALLING]]), trace=trace)
    assert f"1 call not looked at: {Reason.MEMORY.value}." in report and Reason.SCHEDULE.value not in report


@pytest.mark.parametrize(
    ("sigmas", "asked", "sentence"),
    [
        ([], 3, "nothing was sampled yet. Connect the sampler's LATENT"),
        ([1.0, 0.0], (7,), "none of the steps asked for is part of this run of 1 steps"),
        ([1.0, 0.0], 1, "no attention call in the probed steps could be routed"),
    ],
)
def test_a_run_without_a_look_says_why(sigmas, asked, sentence):
    log = ProbeLog(MoCSettings(OPTIONS[0]), asked)
    log.start(sigmas, lambda percent: 1 - percent)
    assert sentence in words.tell_nothing(log, Trace())


@pytest.mark.parametrize("scope", SCOPES)
def test_the_data_are_json_and_hold_every_head(scope):
    log = planted([[FALLING, HARD]] * 2)
    log.calls[log.chosen[0], 0].look.abroad[0] = 0.0
    advice = advise(log, 0.25, scope)
    data = json.loads(json.dumps(words.data(log, Trace(), advice.table, advice, scope), allow_nan=False))
    assert [(c["step"], c["block"]) for c in data["asked"]["calls"]] == [(s, b) for s in log.chosen for b in (0, 1)]
    assert len(data["asked"]["calls"][0]["recall_across_shots_of_head"]) == 2
    assert data["asked"]["calls"][0]["recall_across_shots_of_head"][0] is None
    assert sum(data["asked"]["calls"][0]["estimated_seconds_of_head"]) == pytest.approx(2.0 * 0.31)
    assert data["advice"]["work"] == advice.work and len(data["options"]) == len(OPTIONS)


@pytest.mark.parametrize("blocks", [1, 40])
@pytest.mark.parametrize("target", [0.01, 0.25])
def test_the_picture_is_drawn_for_few_and_many_blocks_with_and_without_advice(blocks, target):
    advice = advise(planted([[[0.5, 0.9, 0.4, 0.02]] * blocks]), target)
    drawn = picture.draw_probe(planted([[[0.5, 0.9, 0.4, 0.02]] * blocks]), advice.table, advice)
    assert drawn.width == 1000 and len(drawn.getcolors(drawn.width * drawn.height)) > 20


def test_tiles_are_read_and_others_are_told_how_to_write_them():
    assert words.read_tiles("1x2x2, frame;2x4x4") == ((1, 2, 2), None, (2, 4, 4))
    assert words.read_tiles("") == ()
    with pytest.raises(words.MoCError, match="write sizes like 1x2x2"):
        words.read_tiles("small")
