"""Shots from footage: cuts are found to the frame, and what only looks like a cut is none."""

import pytest
import torch

from benchmarks.shot_clips import Clip, clip
from moc.errors import MoCError
from moc.shots.detect import BUILT_IN, DETECTORS, detect
from moc.shots.detect.builtin import Change, keep_apart
from moc.shots.detect.footage import ImageFootage, pick


@pytest.fixture(autouse=True)
def one_thread():
    """Such small work only gets slower when it is shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def found(made: Clip, **settings) -> list[int]:
    return list(detect(ImageFootage(made.frames / 255, fps=24), **settings).cuts)


@pytest.mark.parametrize("seed", range(4))
def test_hard_cuts_are_found_to_the_frame(seed):
    made = clip(["hard"] * 4, seed, length=24)
    assert found(made) == list(made.cuts)


@pytest.mark.parametrize("kind", ["fade", "dissolve"])
@pytest.mark.parametrize("seed", range(4))
def test_a_gradual_change_is_one_cut_inside_it(kind, seed):
    made = clip([kind], seed, length=24, calm=2.0)
    ((begin, end),) = made.spans.values()
    (change,) = detect(ImageFootage(made.frames / 255, fps=24)).changes
    assert begin <= change.frame <= end and change.kind == kind


@pytest.mark.parametrize("kind", ["flash", "blink", "whip", "lights", "none"])
@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_what_happens_inside_a_shot_is_no_cut(kind, seed):
    assert found(clip([kind, kind], seed, length=24)) == []


def test_a_cut_behind_a_flash_is_still_found():
    made = clip(["flash", "hard"], seed=1, length=20)
    assert found(made) == list(made.cuts)


def test_a_film_that_begins_and_ends_in_black_has_no_cut_there():
    made = clip(["none"], seed=2, length=30)
    level = torch.linspace(0, 1, 12)
    frames = made.frames / 255
    frames[:12] *= level[:, None, None, None]
    frames[-12:] *= level.flip(0)[:, None, None, None]
    black = torch.zeros(6, *frames.shape[1:])
    assert detect(ImageFootage(torch.cat([black, frames, black]), fps=24)).cuts == ()


def test_pictures_of_one_colour_cut_where_the_colour_changes():
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.5, 0.5, 0.5]])
    images = colours.repeat_interleave(20, 0)[:, None, None].expand(-1, 32, 32, -1)
    assert detect(ImageFootage(images, fps=24)).cuts == (20, 40)


def test_a_higher_threshold_finds_fewer_cuts():
    made = clip(["hard"] * 3, seed=5, length=20)
    assert len(found(made, threshold=1000.0)) < len(found(made))


def test_shots_are_at_least_as_long_as_asked():
    made = clip(["hard"] * 6, seed=6, length=10)
    cuts = [0, *found(made, min_length=25), len(made.frames)]
    assert len(cuts) > 2 and min(b - a for a, b in zip(cuts, cuts[1:])) >= 25


def test_between_two_cuts_that_are_too_near_the_stronger_stays():
    changes = [Change(20, "cut", 2.0), Change(24, "cut", 5.0), Change(60, "cut", 2.0), Change(97, "cut", 9.0)]
    assert [change.frame for change in keep_apart(changes, length=100, min_length=8)] == [24, 60]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_colour_and_transparent_frames_are_looked_at(channels):
    made = clip(["hard"], seed=7, length=20)
    frames = made.frames / 255
    images = {1: frames.mean(-1, keepdim=True), 3: frames, 4: torch.cat([frames, frames[..., :1] * 0 + 0.5], -1)}
    assert detect(ImageFootage(images[channels], fps=24)).cuts == made.cuts


@pytest.mark.parametrize("images", [torch.rand(1, 64, 64, 3), torch.zeros(40, 16, 16, 3), torch.ones(40, 1, 1, 3)])
def test_one_frame_black_frames_and_single_pixels_are_one_shot(images):
    assert detect(ImageFootage(images, fps=24)).cuts == ()


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(0, 8, 8, 3), "there are no frames in the images"),
        (torch.zeros(3, 8, 8, 2), r"the images have the shape \(3, 8, 8, 2\); expected "),
        (torch.zeros(8, 8, 3), r"the images have the shape \(8, 8, 3\)"),
    ],
)
def test_images_that_are_no_film_are_told(images, sentence):
    with pytest.raises(MoCError, match=sentence):
        ImageFootage(images, fps=24)


def test_a_frame_of_nan_is_named():
    images = torch.rand(30, 8, 8, 3)
    images[17, 3, 3, 1] = torch.nan
    with pytest.raises(MoCError, match="frame 17 holds values that are no numbers"):
        detect(ImageFootage(images, fps=24))


def test_half_precision_and_views_are_looked_at_as_they_are():
    made = clip(["hard"], seed=8, length=20)
    images = (made.frames / 255).to(torch.bfloat16).flip(2)
    assert detect(ImageFootage(images, fps=24)).cuts == made.cuts


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"detector": "best"}, f"detector is 'best'; choose one of: {', '.join(DETECTORS)}"),
        ({"threshold": -1.0}, "threshold is -1.0 and min_length is 0: use more, or 0 for the detector's own"),
        ({"min_length": -1}, "min_length is -1"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, sentence):
    with pytest.raises(MoCError, match=sentence):
        detect(ImageFootage(torch.zeros(2, 8, 8, 3), fps=24), **settings)


def test_progress_is_told_and_can_stop_it():
    seen = []
    images = torch.zeros(50, 600, 600, 3)  # several blocks
    detect(ImageFootage(images, fps=24), BUILT_IN, tick=seen.append)
    assert len(seen) > 1 and seen == sorted(seen) and seen[-1] == 50

    def stop(frames: int) -> None:
        raise InterruptedError(frames)

    with pytest.raises(InterruptedError, match=str(seen[0])):
        detect(ImageFootage(images, fps=24), BUILT_IN, tick=stop)


class Stream:
    """Ten frames, three at a time; frame n has the value n everywhere."""

    count, fps = None, 24.0

    def read(self, size=None):
        for block in torch.arange(10, dtype=torch.uint8).split(3):
            yield block[:, None, None, None].expand(-1, *(size or (4, 6)), 3)


@pytest.mark.parametrize("footage", [ImageFootage(torch.cat(list(Stream().read())) / 255, 24), Stream()])
def test_frames_are_picked_in_any_order_and_the_last_one_for_those_behind_the_end(footage):
    picked = pick(footage, [7, 0, 7, 9, 12], (2, 3))
    assert picked.shape == (5, 2, 3, 3) and picked[:, 0, 0, 0].tolist() == [7, 0, 7, 9, 9]


def test_no_more_is_read_than_the_last_frame_asked_for():
    seen = []
    pick(Stream(), [1, 4], (2, 3), seen.append)
    assert seen == [3, 6]
