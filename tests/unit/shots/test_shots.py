"""Cuts in the film's own frames become latent frames; texts become shots; mistakes say what to change."""

import pack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moc.errors import MoCError
from moc.shots.cuts import Shots, from_durations, latent_frames, nearest_border, parse_times, shot_of

choices = pack.load("nodes.widgets.shots")
STRIDES = st.sampled_from([1, 4, 6, 8])


def latent_of(frame: int, stride: int) -> int:
    """The first frame stands alone, then every `stride` frames share one latent frame."""
    return 0 if frame == 0 else (frame - 1) // stride + 1


@given(frames=st.integers(1, 400), stride=STRIDES)
def test_a_video_has_as_many_latent_frames_as_its_last_frame_needs(frames, stride):
    assert latent_frames(frames, stride) == latent_of(frames - 1, stride) + 1


def test_no_frames_are_no_latent_frames():
    assert latent_frames(0, 4) == 0


@given(cut=st.integers(1, 400), stride=STRIDES)
def test_a_cut_moves_to_the_nearest_border_and_back_where_two_are_as_near(cut, stride):
    borders = [f for f in range(1, cut + 2 * stride) if latent_of(f, stride) != latent_of(f - 1, stride)]
    nearest = min(borders, key=lambda border: (abs(border - cut), border))
    assert nearest_border(cut, stride) == (latent_of(nearest, stride), nearest)


def test_cuts_on_borders_stay_where_they_are():
    assert Shots(cuts=(29, 57)).starts(21, 4) == ((0, 8, 15), ())


def test_a_cut_inside_a_latent_frame_is_moved_and_the_move_is_told():
    starts, notes = Shots(cuts=(30, 57)).starts(21, 4)
    assert starts == (0, 8, 15)
    assert notes == ("cut 1 moved from frame 30 to 29, the nearest one this model can cut at",)


def test_cuts_in_latent_frames_are_taken_as_they_are():
    assert Shots(cuts=(8, 15), unit="latent").starts(21, 4) == ((0, 8, 15), ())


@given(frames=st.integers(1, 40), shots=st.integers(1, 40))
def test_equal_shots_differ_by_one_latent_frame_at_most(frames, shots):
    if shots > frames:
        with pytest.raises(MoCError, match="use fewer shots"):
            Shots(even=shots).starts(frames, 4)
        return
    starts, _ = Shots(even=shots).starts(frames, 4)
    lengths = [b - a for a, b in zip(starts, (*starts[1:], frames), strict=True)]
    assert len(lengths) == shots and max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


@pytest.mark.parametrize(
    ("shots", "frames", "sentence"),
    [
        (Shots(cuts=(29, 90)), 21, "cut 2 is at frame 90, but this video has only 81 frames"),
        (Shots(cuts=(29, 30)), 21, "leave at least 4 frames between cuts"),
        (Shots(cuts=(21,), unit="latent"), 21, "has only 21 frames"),
    ],
    ids=["beyond the end", "two cuts in one latent frame", "at the end"],
)
def test_cuts_that_do_not_fit_the_latent_are_refused(shots, frames, sentence):
    with pytest.raises(MoCError, match=sentence):
        shots.starts(frames, 4)


def test_equal_shots_that_are_only_nearly_equal_say_where_they_begin():
    assert Shots(even=3).starts(5, 4) == (
        (0, 1, 3),
        ("3 equal shots are only nearly equal here: they begin at frames 0, 1, 9",),
    )
    assert Shots(even=7).starts(21, 4)[1] == ()


def test_more_equal_shots_than_latent_frames_are_refused_with_how_many_fit():
    with pytest.raises(MoCError, match="20 shots do not fit into 5 latent frames.* 17 frames: .* at most 5"):
        Shots(even=20, length=17).starts(5, 4)


@pytest.mark.parametrize("shots", [Shots(cuts=(5,), length=500), Shots(even=5, length=500), Shots(length=500)])
def test_shots_for_a_film_of_another_length_say_so(shots):
    assert "made for a video of 500 frames, but this one has 17" in shots.starts(5, 4)[1][0]


@pytest.mark.parametrize("shots", [Shots(length=16), Shots(length=17), Shots(length=5, unit="latent"), Shots()])
def test_a_length_that_the_latent_just_holds_needs_no_word(shots):
    assert shots.starts(5, 4)[1] == ()


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"cuts": (97, 40)}, "put the cuts in order"),
        ({"cuts": (40, 40)}, "put the cuts in order"),
        ({"cuts": (0, 40)}, "cuts start at frame 1"),
        ({"cuts": (40,), "length": 40}, "move the cut or make the video longer"),
        ({"cuts": (40,), "even": 2}, "not both"),
        ({"cuts": (40,), "texts": ("one",)}, r"add \[shot cut\] marks"),
        ({"cuts": (), "texts": ("one", "two")}, r"remove \[shot cut\] marks"),
        ({"unit": "seconds"}, "choose one of: video, latent"),
        ({"cuts": (40,), "names": ("one",)}, "1 shot names for 2 shots"),
        ({"fps": 0}, "fps is 0; it must be more than 0"),
    ],
)
def test_shots_that_cannot_be_are_refused_when_built(facts, sentence):
    with pytest.raises(MoCError, match=sentence):
        Shots(**facts)


def test_every_frame_belongs_to_the_shot_that_began_last():
    assert [shot_of(f, (0, 3, 5)) for f in range(7)] == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "unit", "frames"),
    [
        ("29, 57", "frames", (29, 57)),
        ("29\n57;  80", "frames", (29, 57, 80)),
        ("1.5, 3", "seconds", (24, 48)),
        ("1.5s 48", "frames", (24, 48)),
        ("1.5 48f", "seconds", (24, 48)),
        ("", "frames", ()),
    ],
)
def test_times_are_read_in_frames_or_seconds_and_a_suffix_wins(text, unit, frames):
    assert parse_times(text, unit, fps=16) == frames


@pytest.mark.parametrize(
    ("text", "unit", "fps", "sentence"),
    [
        ("29, then 57", "frames", 16, "'then' is not a number"),
        ("29.5", "frames", 16, "write seconds as 29.5s"),
        ("29", "minutes", 16, "choose frames or seconds"),
        ("29", "seconds", 0, "fps is 0; it must be more than 0"),
    ],
)
def test_times_that_cannot_be_read_are_refused(text, unit, fps, sentence):
    with pytest.raises(MoCError, match=sentence):
        parse_times(text, unit, fps)


def test_durations_add_up_to_cuts_and_the_video_length():
    shots = from_durations((29, 28, 24))
    assert (shots.cuts, shots.length) == ((29, 57), 81)
    with pytest.raises(MoCError, match="shot 2 lasts 0 frames"):
        from_durations((29, 0))
    with pytest.raises(MoCError, match="one number per shot"):
        from_durations(())


# What the node's widgets mean.

PROMPT = "[global] a woman [shot 1] walks [shot cut] runs"


@pytest.mark.parametrize(
    ("widgets", "cuts", "even", "length"),
    [
        ({"how": "cuts"}, (), 0, None),
        ({"how": "cuts", "times": "29, 57", "length": 81}, (29, 57), 0, 81),
        ({"how": "cuts", "times": "2, 4", "unit": "seconds", "fps": 24.0}, (48, 96), 0, None),
        ({"how": "durations", "times": "29, 28, 24", "length": 81}, (29, 57), 0, 81),
        ({"how": "equal shots", "shot_count": 4, "length": 81}, (), 4, 81),
        ({"how": "prompt", "prompt": PROMPT}, (), 2, None),
        ({"how": "prompt", "prompt": PROMPT, "times": "2s, 1s"}, (32,), 0, 48),
        ({"how": "prompt", "prompt": "[1: 2s] a [2: 16f] b"}, (32,), 0, 48),
        ({"how": "prompt", "prompt": "[1: 2s] a [2] b", "length": 81}, (32,), 0, 81),
        ({"how": "prompt", "prompt": "a | b"}, (), 2, None),
    ],
    ids=["nothing", "cuts", "seconds", "durations", "equal", "prompt", "prompt with durations", "in its marks"]
    + ["last one open", "bars"],
)
def test_each_way_to_give_shots(widgets, cuts, even, length):
    shots, _, _ = choices.read_shots(**widgets)
    assert (shots.cuts, shots.even, shots.length, shots.unit) == (cuts, even, length, "video")


def test_the_prompt_goes_on_whole_and_shot_by_shot():
    shots, whole, each = choices.read_shots("cuts", times="29", prompt=PROMPT)
    assert shots.texts == ("walks", "runs")
    assert whole == "a woman\nwalks\nruns"
    assert each == ["a woman\nwalks", "a woman\nruns"]


def test_a_prompt_without_marks_belongs_to_every_shot():
    shots, whole, each = choices.read_shots("equal shots", shot_count=3, prompt="a woman walks")
    assert shots.texts == ()
    assert whole == "a woman walks" and each == ["a woman walks"] * 3


def test_names_and_what_is_common_travel_with_the_shots():
    shots, _, _ = choices.read_shots("prompt", prompt='[global] a woman [shot 1 "door"] walks [shot 2] runs', fps=24.0)
    assert (shots.common, shots.names, shots.fps) == ("a woman", ("door", ""), 24.0)
    assert shots.prompts == ("a woman\nwalks", "a woman\nruns")


def test_bars_are_shots_where_as_many_are_asked_for():
    assert choices.read_shots("cuts", times="29", prompt="walks | runs")[0].texts == ("walks", "runs")
    assert choices.read_shots("cuts", prompt="walks | runs")[0].common == "walks | runs"


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"how": "prompt", "prompt": "[1: 2s] a [2] b [3: 1s] c"}, "shot 2 has no duration, but others have"),
        ({"how": "prompt", "prompt": "[1: 2s] a [2: 1s] b", "times": "2s, 1s"}, "both the prompt's marks and times"),
        ({"how": "prompt", "prompt": "[1: 2s] a [2: 1s] b", "length": 81}, "last 48 frames together, but length is 81"),
        ({"how": "equal shots", "prompt": "[1: 2s] a [2: 1s] b"}, "set how to prompt"),
        ({"how": "cuts", "times": "97, 40"}, "put the cuts in order"),
        ({"how": "durations"}, "one number per shot"),
        ({"how": "durations", "times": "29, 28", "length": 81}, "last 57 frames together, but length is 81"),
        ({"how": "equal shots", "shot_count": 0}, "shot_count is 0"),
        ({"how": "prompt"}, "the prompt is empty"),
        ({"how": "prompt", "prompt": PROMPT, "times": "29"}, r"2 shot texts for 1 shots"),
        ({"how": "cuts", "length": -1}, "length is -1"),
        ({"how": "cut"}, "choose one of: cuts, durations, equal shots, prompt"),
    ],
)
def test_widgets_that_contradict_each_other_say_what_to_change(widgets, sentence):
    with pytest.raises(choices.MoCError, match=sentence):
        choices.read_shots(**widgets)


@pytest.mark.parametrize(
    ("shots", "sentence"),
    [
        ({}, "1 shot."),
        ({"even": 3}, "3 shots of equal length."),
        ({"cuts": (29, 57), "length": 81}, "3 shots, frames 0-28, 29-56, 57-80."),
        ({"cuts": (29,)}, "2 shots, frames 0-28, 29 to the end."),
    ],
)
def test_the_summary_is_one_sentence(shots, sentence):
    assert choices.tell_shots(Shots(**shots)) == sentence
