"""Cuts in a latent: where its frames change at once, in latent frames."""

import pack
import pytest
import torch

from moc.errors import MoCError
from moc.shots.cuts import Shots
from moc.shots.detect.latent import find_cuts, unlike

finding = pack.load("nodes.widgets.detect")


def latent(shots: list[int], seed: int = 0, noise: float = 0.2, channels: int = 16) -> torch.Tensor:
    """[1, C, T, 6, 8]: a slowly changing picture of its own in every shot."""
    random = torch.Generator().manual_seed(seed)
    frames = []
    for length in shots:
        still, way = torch.randn(2, channels, 6, 8, generator=random)
        frames += [still + way * 0.1 * at + torch.randn(still.shape, generator=random) * noise for at in range(length)]
    return torch.stack(frames, 1)[None]


def found(samples: torch.Tensor, **settings) -> list[int]:
    return [change.frame for change in find_cuts(samples, **settings)[0]]


@pytest.mark.parametrize("seed", range(6))
def test_a_cut_on_a_border_is_found_there(seed):
    assert found(latent([6, 9, 4], seed)) == [6, 15]


def test_the_scale_and_the_middle_of_a_channel_do_not_matter():
    """Every family's latents have others."""
    samples = latent([6, 6])
    scale, middle = torch.rand(2, 1, 16, 1, 1, 1) * 50
    assert found(samples * scale + middle) == [6]


def test_a_cut_inside_a_latent_frame_is_one_cut_at_one_of_its_ends():
    samples = latent([6, 6])
    samples[:, :, 6] = (samples[:, :, 5] + samples[:, :, 7]) / 2
    (cut,) = found(samples)
    assert cut in (6, 7)


def test_a_flash_is_no_cut():
    samples = latent([12])
    samples[:, :, 5] += 3 * torch.randn(16, 6, 8, generator=torch.Generator().manual_seed(3))
    assert found(samples) == []


@pytest.mark.parametrize(
    "samples", [latent([12]), torch.zeros(1, 16, 12, 6, 8), latent([1]), torch.randn(1, 16, 12, 6, 8)]
)
def test_one_shot_nothing_one_frame_and_mere_noise_have_no_cut(samples):
    assert found(samples) == []


def test_a_higher_threshold_finds_less_and_shots_are_as_long_as_asked():
    samples = latent([3, 3, 3, 3])
    assert len(found(samples)) == 3 > len(found(samples, threshold=1e6))
    cuts = [0, *found(samples, min_length=5), 12]
    assert min(b - a for a, b in zip(cuts, cuts[1:])) >= 5


def test_unrelated_pictures_are_about_one_apart():
    first, second = torch.randn(2, 16, 40, 40, generator=torch.Generator().manual_seed(1))
    assert unlike(first, second) == pytest.approx(1, abs=0.02) and unlike(first, first) == 0


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (torch.zeros(16, 6, 8), r"the latent has the shape \(16, 6, 8\): connect the LATENT of a video or of images"),
        (torch.zeros(1, 16, 0, 6, 8), "the latent is empty"),
        (torch.zeros(0, 16, 5, 6, 8), "the latent is empty"),
        (latent([6]).index_fill(2, torch.tensor([4]), torch.nan), "latent frame 4 holds values that are no numbers"),
    ],
)
def test_what_is_no_latent_of_a_video_is_told(samples, sentence):
    with pytest.raises(MoCError, match=sentence):
        find_cuts(samples)


def test_settings_that_cannot_be_are_told():
    with pytest.raises(MoCError, match="threshold is -1.0 and min_length is 2"):
        find_cuts(latent([6]), threshold=-1.0)


def test_the_node_says_what_it_found_in_latent_frames():
    shots, report = finding.find_in_latent(latent([6, 9]), 0.0, 0)
    assert (shots.cuts, shots.unit, shots.length) == ((6,), "latent", 15)
    assert report == "2 shots, latent frames 0-5, 6-14."
    assert shots.to("video", "Wan")[0].cuts == Shots(cuts=(21,)).cuts
