"""The detecting nodes inside ComfyUI: every kind of footage its sockets carry, and what they say about it."""

from __future__ import annotations

import io
import json
from fractions import Fraction

import av
import comfy.model_management
import comfy.utils
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import InputImpl, Types
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host import video as host_video
from mixture_of_contexts.moc.host.video import footage_of
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.nodes.detect import MoCDetectShots, MoCDetectShotsLatent

COLOURS = torch.tensor([[0.8, 0.2, 0.1], [0.1, 0.3, 0.9], [0.2, 0.7, 0.2]])
CUTS = (30, 51)  # of 81 frames


def film(frames: int = 81, cuts: tuple[int, ...] = CUTS, height: int = 64, width: int = 96) -> torch.Tensor:
    """[frames, height, width, 3]: a plane of another colour in every shot, with a bright square that wanders."""
    shot = torch.bucketize(torch.arange(frames), torch.tensor(cuts), right=True)
    images = COLOURS[shot % 3][:, None, None].repeat(1, height, width, 1)
    for frame in range(frames):
        left = 2 + abs(frame % 60 - 30)
        images[frame, 10:30, left : left + 20] = 0.9
    return images


def written(images: torch.Tensor, fps: int = 24, turned: bool = False) -> io.BytesIO:
    """The film as an mp4 file."""
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], "yuv420p"
        for image in (images * 255).round().to(torch.uint8).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    return file


def run(**inputs):
    shots, cuts, scenes, sheet, report = MoCDetectShots.execute(**{"detector": "built-in", **inputs}).args
    return shots, cuts, json.loads(scenes), sheet, report


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    """Without a server there is no folder for previews; the workflow tests look at those."""
    from mixture_of_contexts.nodes import detect

    class Preview:
        def __init__(self, image, cls):
            assert image.ndim == 4 and 0 <= image.min() and image.max() <= 1

        def as_dict(self):
            return {"images": []}

    monkeypatch.setattr(detect.ui, "PreviewImage", Preview)


def test_images_become_shots_text_scenes_and_a_sheet():
    shots, cuts, scenes, sheet, report = run(images=film(), fps=16.0)
    assert shots == Shots(cuts=CUTS, length=81, fps=16.0)
    assert cuts == "30, 51"
    assert [row["start_frame"] for row in scenes["scenes"]] == [0, 30, 51] and scenes["fps"] == 16.0
    assert report == "3 shots in 81 frames (built-in): 2 cuts."
    red, blue, green = (sheet[0, row, 60] for row in (110, 230, 350))
    assert red.argmax() == 0 and blue.argmax() == 2 and green.argmax() == 1


def test_a_file_is_looked_at_block_by_block_with_its_own_rate():
    footage = footage_of(InputImpl.VideoFromFile(written(film(), fps=25)))
    assert (footage.count, footage.fps) == (81, 25.0)
    assert sum(map(len, footage.read((27, 48)))) == 81
    shots, *_ = run(video=footage.video, fps=16.0)
    assert shots == Shots(cuts=CUTS, length=81, fps=25.0)


def test_a_video_made_of_frames_is_taken_as_it_is():
    parts = Types.VideoComponents(images=film(), audio=None, frame_rate=Fraction(24))
    shots, *_ = run(video=InputImpl.VideoFromComponents(parts))
    assert shots == Shots(cuts=CUTS, length=81, fps=24.0)


def test_a_trimmed_video_starts_where_it_was_trimmed(monkeypatch):
    try:
        video = InputImpl.VideoFromFile(written(film(), fps=24), start_time=0.5, duration=2.0)
    except TypeError:
        pytest.skip("this ComfyUI does not trim")
    shots, *_ = run(video=video)
    assert (shots.cuts, shots.length) == ((18, 39), 48)
    assert len(video.get_components().images) == 48
    # some ComfyUIs before 0.30.0 trim and do not tell from where: then they have to decode it
    monkeypatch.setattr(host_video, "window_of", lambda video: None)
    shots, *_ = run(video=video)
    assert (shots.cuts, shots.length) == ((18, 39), 48)


def test_frames_are_those_that_comfyui_decodes():
    video = InputImpl.VideoFromFile(written(film(), fps=24))
    theirs = video.get_components().images
    ours = torch.cat(list(footage_of(video).read())) / 255
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean((1, 2, 3)).max() < 0.02  # colours are spread over pixels in more than one way


def test_cuts_move_to_where_the_family_can_cut_and_it_is_said():
    shots, cuts, scenes, _, report = run(images=film(), family="Wan")
    assert shots.cuts == (29, 49) and cuts == "30, 51" and scenes["scenes"][1]["start_frame"] == 30
    assert "Cut 1 moved from frame 30 to 29, the nearest one this model can cut at." in report.splitlines()


def test_a_shot_shorter_than_a_latent_frame_goes_to_its_neighbour_and_it_is_said():
    shots, _, _, _, report = run(images=film(cuts=(30, 34)), min_length=2, family="LTX-Video")
    assert len(shots.cuts) == 1
    assert "LTX-Video joins 8 frames, so shots last 8 or more." in report


def test_scenes_of_another_node_are_taken_instead():
    text = '{"fps": 12, "scenes": [{"start_frame": 0}, {"start_frame": 20, "end_frame": 60}]}'
    shots, cuts, _, _, report = run(scenes_json=text)
    assert shots == Shots(cuts=(20,), length=60, fps=12.0) and cuts == "20" and report == "2 shots (scenes_json)."
    shots, _, _, sheet, _ = run(scenes_json=text, images=film())
    assert shots.length == 81 and sheet.shape[1] > 200  # two rows of pictures


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "nothing to look at: connect images, video or scenes_json"),
        ({"images": film(9), "video": 1}, "images and video are both connected"),
        ({"images": film(0)}, "there are no frames in the images"),
        ({"images": film(9) * torch.nan}, "frame 0 holds values that are no numbers"),
        ({"scenes_json": "[", "images": film(9)}, "scenes_json is no JSON"),
    ],
)
def test_what_cannot_be_looked_at_is_told(inputs, sentence):
    with pytest.raises(MoCError, match=sentence):
        run(**inputs)


def test_progress_reaches_the_end_and_a_cancelled_run_stops_in_the_middle(monkeypatch):
    told = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *rest, **more: told.append(value / total)
    )
    for inputs in ({"images": film()}, {"video": InputImpl.VideoFromFile(written(film()))}):
        told.clear()
        run(**inputs)
        assert told == sorted(told) and told[0] < 1 and told[-1] == 1.0

    def cancelled(*args, **more):
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(images=film())


def test_a_file_without_a_picture_is_told():
    file = io.BytesIO()
    with av.open(file, mode="w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(torch.zeros(1, 800, dtype=torch.int16).numpy(), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    file.seek(0)
    with pytest.raises((MoCError, ValueError), match="no picture|No video stream"):
        run(video=InputImpl.VideoFromFile(file))


def test_one_frame_is_one_shot():
    shots, cuts, _, sheet, report = run(images=film(1))
    assert (shots.count, cuts, report) == (1, "", "1 shot in 1 frames (built-in).")
    assert sheet.ndim == 4


def latent(frames: int = 12, cuts: tuple[int, ...] = (4, 9)) -> torch.Tensor:
    """[1, 16, frames, 8, 8]: a still of its own in every shot, and a little noise."""
    random = torch.Generator().manual_seed(1)
    shot = torch.bucketize(torch.arange(frames), torch.tensor(cuts), right=True)
    stills = torch.randn(len(cuts) + 1, 16, 8, 8, generator=random)
    noise = torch.randn(frames, 16, 8, 8, generator=random) * 0.15
    return (stills[shot] + noise).movedim(0, 1)[None]


@pytest.mark.parametrize("kind", ["video", "images", "video and sound", "batch"])
def test_a_latent_becomes_shots_in_latent_frames(kind):
    video = latent()
    samples = {
        "video": video,
        "images": video[0].movedim(1, 0),
        "video and sound": NestedTensor([video, torch.zeros(1, 8, 40, 16)]),
        "batch": torch.cat([video, latent(cuts=())]),
    }[kind]
    shots, report = MoCDetectShotsLatent.execute({"samples": samples}).args
    assert shots == Shots(cuts=(4, 9), unit="latent", length=12)
    assert report == "3 shots, latent frames 0-3, 4-8, 9-11."
