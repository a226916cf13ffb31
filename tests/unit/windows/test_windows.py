"""Which frames share a window: along the shots, and drawn anew at every step."""

from itertools import combinations

import pytest

from moc.errors import MoCError
from moc.shots.time_rules import FAMILIES
from moc.windows import DRAWN, Drawing, WindowSettings, by_shots, cut
from moc.windows.shots import spans


def equal(count: int, size: int = 3) -> list[tuple[int, int]]:
    return [(i * size, (i + 1) * size) for i in range(count)]


def test_shots_are_what_lies_between_their_starts():
    assert spans((0, 3, 5), 9) == [(0, 3), (3, 5), (5, 9)]


def test_a_window_holds_as_many_neighbouring_shots_as_fit():
    assert by_shots([(0, 2), (2, 5), (5, 6), (6, 9)], 6, 1) == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]


def test_a_shot_as_long_as_a_window_is_one():
    assert by_shots([(0, 4), (4, 8)], 4, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(("length", "overlap"), [(4, 0), (4, 1), (5, 3), (2, 1)])
def test_a_longer_shot_is_cut_into_full_windows_that_overlap_by_at_least_so_much(length, overlap):
    windows = cut((3, 16), length, overlap)
    assert sorted({f for window in windows for f in window}) == list(range(3, 16))
    assert all(window == list(range(window[0], window[0] + length)) for window in windows)
    assert all(a[-1] - b[0] + 1 >= overlap for a, b in zip(windows, windows[1:]))
    assert len(windows) == -(-(13 - overlap) // (length - overlap)), "and no more than it takes"


def test_a_longer_shot_shares_its_windows_with_nobody():
    assert by_shots([(0, 2), (2, 7), (7, 9)], 4, 0) == [[0, 1], [2, 3, 4, 5], [3, 4, 5, 6], [7, 8]]


@pytest.mark.parametrize(("count", "per_window"), [(6, 2), (6, 3), (12, 6), (24, 6), (7, 3)])
def test_a_drawing_holds_every_frame_once_in_as_few_windows_as_possible(count, per_window):
    drawing = Drawing(equal(count), 3 * per_window, 0, "0")
    for step in range(6):
        windows = drawing.windows(step)
        assert sorted(f for window in windows for f in window) == list(range(3 * count))
        assert len(windows) == -(-count // per_window) and max(map(len, windows)) <= 3 * per_window
        assert all(window == sorted(window) for window in windows)


def test_windows_are_filled_evenly():
    """Nobody is left alone where it can be helped: 7 shots at 6 a window are 4 and 3, not 6 and 1."""
    drawing = Drawing(equal(7), 18, 0, "0")
    assert {tuple(sorted(map(len, drawing.groups(step)))) for step in range(4)} == {(3, 4)}


def test_shots_of_any_length_find_a_place():
    shots = spans((0, 3, 4, 9, 11, 12, 16), 20)  # 3 1 5 2 1 4 4
    drawing = Drawing(shots, 7, 0, "0")
    for step in range(5):
        windows = drawing.windows(step)
        assert sorted(f for window in windows for f in window) == list(range(20)) and max(map(len, windows)) <= 7


def test_a_shot_longer_than_a_window_stays_out_of_the_drawing():
    drawing = Drawing([(0, 2), (2, 9), (9, 11)], 4, 1, "0")
    assert drawing.windows(0) == [[0, 1, 9, 10], [2, 3, 4, 5], [5, 6, 7, 8]] and drawing.mixes


def test_nothing_mixes_where_no_two_shots_fit():
    assert not Drawing(equal(4), 5, 0, "0").mixes
    assert not Drawing([(0, 2), (2, 9)], 4, 0, "0").mixes


def test_the_same_seed_draws_the_same_whichever_step_is_asked_for_first():
    one, two = (Drawing(equal(12), 9, 0, "7") for _ in range(2))
    later = two.windows(5)
    assert [one.windows(step) for step in range(6)][5] == later
    assert [one.groups(s) for s in range(3)] == [two.groups(s) for s in range(3)]
    other = Drawing(equal(12), 9, 0, "8")
    assert [one.groups(s) for s in range(3)] != [other.groups(s) for s in range(3)]


def test_pairs_meet_in_a_tournaments_time():
    """Six shots two by two need five rounds, and no pair meets twice before all have met in nearly every drawing."""
    rounds = []
    for seed in range(8):
        drawing, met, step = Drawing(equal(6), 6, 0, str(seed)), set(), 0
        while len(met) < 15:
            met |= {pair for group in drawing.groups(step) for pair in combinations(group, 2)}
            step += 1
        rounds.append(step)
    assert min(rounds) == 5 and sum(rounds) / 8 <= 5.5


def test_what_one_shot_knows_reaches_all_of_twelve_in_two_steps():
    """Each window of the second step holds as many of either window of the first."""
    for seed in range(8):
        drawing = Drawing(equal(12), 18, 0, str(seed))
        first, second = drawing.groups(0), drawing.groups(1)
        assert all(len(set(group) & set(first[0])) == 3 for group in second)


@pytest.mark.parametrize(
    ("family", "length", "overlap", "latents"),
    [
        ("Wan", 81, 16, (21, 4)),
        ("Wan", 80, 15, (20, 3)),
        ("LTX-Video", 97, 16, (13, 2)),
        ("MiniMax H3", 34, 17, (10, 5)),
        ("every frame", 16, 4, (16, 4)),
    ],
)
def test_length_and_overlap_are_frames_of_the_film(family, length, overlap, latents):
    assert WindowSettings(DRAWN, length, overlap).latents(FAMILIES[family]) == latents


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"follow": "sometimes"}, "choose one of: shots, drawn anew"),
        ({"fuse": "loud"}, "choose one of: pyramid"),
        ({"follow": "batched", "keep_first": True}, "keep_first goes with windows that follow shots"),
        ({"length": 1, "overlap": 0, "keep_first": True}, "make it longer"),
        ({"length": 13, "overlap": 16}, "cannot overlap by 16"),
    ],
)
def test_settings_that_make_no_sense_say_what_to_change(options, match):
    with pytest.raises(MoCError, match=match):
        WindowSettings(**options).latents("Wan")
