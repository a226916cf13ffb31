"""What is made of a finished film, in latent frames and in shots."""

import pytest

from moc.errors import MoCError
from moc.shots.cuts import Shots
from moc.windows import AGAIN, CONTINUE, INSERT, Making
from moc.windows.remake import plan, with_text

THREE = Shots(cuts=(2, 5), unit="latent", texts=("a", "b", "c"), names=("x", "y", "z"))


def test_a_shot_that_is_remade_leaves_the_film_as_long_as_it_was():
    making, shots = plan(THREE, 9, "Wan", AGAIN, 2, 81)
    assert making == Making(((0, 2), (2, 5), (5, 9)), 1) and shots is THREE
    assert making.others == [0, 1, 5, 6, 7, 8] and making.windows(8, 0) == [[2, 3, 4]]


def test_looks_hold_what_is_kept_shot_by_shot():
    making, _ = plan(THREE, 9, "Wan", AGAIN, 2, 81)
    assert making.looks({0, 5, 7}, 4) == [[0], [5, 7]]
    assert making.looks(set(making.others), 3) == [[0, 1], [5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("do", "number", "spans", "made", "texts"),
    [
        (INSERT, 1, ((0, 2), (2, 4), (4, 7), (7, 11)), 1, ("a", "", "b", "c")),
        (INSERT, 3, ((0, 2), (2, 5), (5, 9), (9, 11)), 3, ("a", "b", "c", "")),
        (CONTINUE, 1, ((0, 2), (2, 5), (5, 9), (9, 11)), 3, ("a", "b", "c", "")),
    ],
)
def test_a_new_shot_moves_back_what_follows(do, number, spans, made, texts):
    making, shots = plan(THREE, 9, "Wan", do, number, 8)
    assert making == Making(spans, made)
    assert shots.texts == texts and shots.names.index("") == made
    assert shots.starts(11, "Wan") == (tuple(first for first, _ in spans), ())


def test_equal_shots_and_cuts_in_frames_become_cuts_in_latent_frames():
    for shots in (Shots(even=2), Shots(cuts=(9,), length=17)):
        making, longer = plan(shots, 5, "Wan", CONTINUE, 1, 1)
        assert longer.starts(6, "Wan")[0] == tuple(first for first, _ in making.shots) and longer.count == 3
        assert making.frames == 6, "a new shot has at least one latent frame"


def test_a_model_with_uneven_latent_frames_remakes_but_puts_nothing_in():
    assert plan(THREE, 9, "MiniMax H3", AGAIN, 1, 8)[0].made == 0
    with pytest.raises(MoCError, match="no shot can be put in"):
        plan(THREE, 9, "MiniMax H3", INSERT, 1, 8)


@pytest.mark.parametrize("number", [0, 4])
def test_a_shot_that_is_not_there_is_refused(number):
    with pytest.raises(MoCError, match=f"there is no shot {number}: the film has 3"):
        plan(THREE, 9, "Wan", INSERT, number, 8)


def test_one_shot_gets_another_text_also_where_none_had_one():
    assert with_text(THREE, 1, "new").texts == ("a", "new", "c")
    assert with_text(Shots(even=3), 1, "new").texts == ("", "new", "")
