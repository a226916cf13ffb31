"""MoC Shots with a model family, and with shots that come from another node."""

import pack
import pytest

from moc.shots.time_rules import FAMILIES

choices = pack.load("nodes.widgets.shots")
Shots, MoCError = choices.Shots, choices.MoCError
NOT_SAID = "any model"


def test_the_families_are_those_of_the_method_and_one_for_nobody_said():
    assert choices.FAMILY_NAMES == (NOT_SAID, *FAMILIES)


def test_without_a_family_cuts_stay_where_they_are():
    shots = Shots(cuts=(30, 31), length=80)
    assert choices.at_borders(shots, NOT_SAID) == (shots, ())


@pytest.mark.parametrize(
    "family, cuts, borders",
    [("Wan", (30, 57), (29, 57)), ("LTX-Video", (30,), (33,)), ("MiniMax H3", (18, 21), (18, 22))],
)
def test_a_family_moves_cuts_to_its_borders_and_says_which(family, cuts, borders):
    shots, notes = choices.at_borders(Shots(cuts=cuts, texts=("a",) * (len(cuts) + 1)), family)
    assert (shots.cuts, shots.unit, len(shots.texts)) == (borders, "video", len(cuts) + 1)
    moved = [(a, b) for a, b in zip(cuts, borders) if a != b]
    assert len(notes) == len(moved)
    for note, (a, b) in zip(notes, moved):
        assert f"from frame {a} to {b}" in note


def test_a_cut_nearest_to_the_end_of_the_film_goes_to_the_last_border_before_it():
    assert choices.at_borders(Shots(cuts=(80,), length=81), "Wan")[0].cuts == (77,)


def test_cuts_that_join_one_latent_frame_are_an_error_before_sampling():
    with pytest.raises(MoCError, match="shot 2 is too short"):
        choices.at_borders(Shots(cuts=(29, 30)), "Wan")


def test_a_length_that_the_family_cannot_make_is_said_and_kept():
    shots, notes = choices.at_borders(Shots(length=80), "Wan")
    assert shots.length == 80
    assert notes == ("Wan makes videos of 4n+1 frames, not of 80: use 77 or 81.",)


def test_detected_shots_are_used_as_they_are():
    found = Shots(cuts=(12, 40), length=81, texts=("a", "b", "c"), names=("x", "y", "z"), fps=25.0)
    shots, whole, each = choices.read_shots("detected", times="5", fps=24.0, detected=found)
    assert (shots.cuts, shots.length, shots.names, shots.fps) == ((12, 40), 81, ("x", "y", "z"), 24.0)
    assert (whole, each) == ("a\nb\nc", ["a", "b", "c"])


def test_a_prompt_gives_detected_shots_their_texts():
    shots, _, each = choices.read_shots("detected", prompt="a woman", detected=Shots(cuts=(12,), texts=("a", "b")))
    assert (shots.texts, each) == ((), ["a woman"] * 2)


def test_shots_found_in_a_latent_need_the_family_that_made_it():
    found = Shots(cuts=(3,), unit="latent", length=6)
    assert choices.read_shots("detected", family="Wan", detected=found)[0] == Shots(cuts=(9,), length=21, fps=16.0)
    with pytest.raises(MoCError, match="set family"):
        choices.read_shots("detected", detected=found)


def test_detected_without_a_connection_says_what_to_do():
    with pytest.raises(MoCError, match="nothing is connected to detected"):
        choices.read_shots("detected")


def test_the_timeline_is_told_everything_that_it_shows():
    shots = Shots(cuts=(29,), length=81, texts=("a", "b"), names=("", "door"), common="c")
    told = {"cuts": (29,), "even": 0, "length": 81, "texts": ("a", "b"), "common": "c", "names": ("", "door")}
    assert choices.for_timeline(shots) == told
