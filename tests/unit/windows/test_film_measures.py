"""What `benchmarks/windows.py` reads off a film, on films whose character is known."""

import pytest
import torch

from benchmarks.windows_film import clips, film, measure, sb

BOARD = film(6, 0)
TRUE = clips.render(BOARD.parts[0])[0].movedim(1, -1)  # [frames, H, W, 3]


def test_a_film_of_twelve_shots_has_a_place_and_words_for_every_frame():
    twelve = film(12, 0)
    assert len(twelve.box) == 4 * twelve.latents - 3 and twelve.control.shape[2] == twelve.latents == 36
    assert twelve.cuts() == tuple(range(3, 36, 3)) and twelve.cuts(6) == (18,) and len(twelve.words) == 2
    assert torch.equal(twelve.box[: sb.FRAMES], BOARD.box)
    assert torch.equal(twelve.box[sb.FRAMES + 3 :], twelve.parts[1]["box"][0])


def test_shots_come_by_sixes():
    with pytest.raises(ValueError, match="no multiple of six"):
        film(8, 0)


def test_the_generators_own_film_agrees_in_everything():
    found = measure(BOARD, TRUE, 2)
    assert min(found["across"], found["inside"], found["within"]) > 0.98
    assert found["off"] == 0 and found["colour"] < 1e-6 and 0.1 < found["contrast"] < 0.4


def test_another_character_in_other_windows_is_seen_across_and_not_inside():
    other = clips.recipe(clips.EVALUATION_SEEDS + 77)["texture"]
    part = BOARD.parts[0] | {"texture": torch.tensor(other)[None]}
    mixed = TRUE.clone()
    begin = sb.CUTS[1]  # shots three to six, at two shots a window
    mixed[begin:] = clips.render(part)[0].movedim(1, -1)[begin:]
    found, before = measure(BOARD, mixed, 2), measure(BOARD, TRUE, 2)
    assert found["across"] < before["across"] - 0.2 and found["inside"] == pytest.approx(before["inside"], abs=0.02)


def test_fading_is_seen_in_contrast_and_hardly_in_likeness():
    faded = 0.5 + 0.5 * (TRUE - 0.5)
    found, before = measure(BOARD, faded, 2), measure(BOARD, TRUE, 2)
    assert found["contrast"] == pytest.approx(before["contrast"] / 2, rel=0.01)
    assert found["across"] == pytest.approx(before["across"], abs=0.01)
