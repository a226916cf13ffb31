"""What the detecting nodes make of what was found: shots a model can cut, and words; and the contact sheet."""

import pack
import pytest
import torch

from benchmarks.shot_clips import clip

finding, sheet = pack.load("nodes.widgets.detect"), pack.load("nodes.render.contact_sheet")
ImageFootage = pack.load("moc.shots.detect.footage").ImageFootage
MADE = clip(["hard", "fade"], seed=1, length=21, calm=2.0)
FOOTAGE = ImageFootage(MADE.frames / 255, 24.0)


def test_without_a_family_cuts_stay_on_their_frames():
    found = finding.find_shots(FOOTAGE, "built-in", 0.0, 0, "any model")
    assert found.shots.cuts == found.cuts and found.times == ", ".join(map(str, found.cuts))
    assert found.cuts[0] == 21 and found.length == len(MADE.frames)
    assert found.report == f"3 shots in {len(MADE.frames)} frames (built-in): 1 cut, 1 fade."


def test_for_a_family_the_shots_move_and_the_cuts_that_were_found_do_not():
    found = finding.find_shots(FOOTAGE, "built-in", 0.0, 0, "LTX-Video")
    assert found.cuts[0] == 21 and found.shots.cuts[0] == 17
    assert "Cut 1 moved from frame 21 to 17, the nearest one this model can cut at." in found.report


def test_shots_that_a_family_cannot_hold_are_left_out_and_named():
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.1, 0.8, 0.1]])
    images = colours.repeat_interleave(torch.tensor([40, 6, 40]), 0)[:, None, None].expand(-1, 32, 32, -1)
    found = finding.find_shots(ImageFootage(images, 24.0), "built-in", 0.0, 3, "LTX-Video")
    assert found.shots.count == 2
    assert "LTX-Video joins 8 frames, so shots last 8 or more." in found.report


def test_scenes_from_elsewhere_are_handed_on_as_they_came():
    text = '[{"start_frame": 0}, {"start_frame": 30}]'
    found = finding.take_scenes(text, 24.0, 81, "Wan")
    assert (found.cuts, found.shots.cuts, found.scenes) == ((30,), (29,), text)
    assert found.report.startswith("2 shots (scenes_json).\nCut 1 moved from frame 30 to 29")


def test_nothing_found_is_one_shot():
    assert finding.tell_found([], 30, "built-in") == "1 shot in 30 frames (built-in)."
    assert finding.tell_found(["cut", "fade", "cut"], 90, "hash") == "4 shots in 90 frames (hash): 2 cuts, 1 fade."


def test_the_sheet_shows_first_middle_and_last_frame_of_every_shot():
    assert sheet.frames_of((4, 5), 10) == [0, 1, 3, 4, 4, 4, 5, 7, 9]
    assert len(sheet.frames_of(tuple(range(1, 1000)), 1000)) == 3 * sheet.MOST


@pytest.mark.parametrize("shots", [1, 6, 7, 25, sheet.MOST + 20])
def test_every_picture_lies_whole_and_apart_on_the_sheet(shots):
    shown = min(shots, sheet.MOST)
    pictures = torch.full((3 * shown, sheet.HEIGHT, 20, 3), 0, dtype=torch.uint8)
    pictures[..., 0] = 200
    drawn = torch.frombuffer(
        bytearray(sheet.draw_sheet(pictures, tuple(range(5, 5 * shots, 5)), 5 * shots, 24.0).tobytes()),
        dtype=torch.uint8,
    ).view(-1, 3)
    red = (drawn == torch.tensor([200, 0, 0])).all(1).sum()
    assert red == 3 * shown * sheet.HEIGHT * 20


def test_a_very_wide_film_still_fits_on_the_sheet():
    assert sheet.thumbnail_size(100, 10_000) == (sheet.HEIGHT, sheet.WIDEST)
    assert sheet.thumbnail_size(10_000, 10) == (sheet.HEIGHT, 1)
