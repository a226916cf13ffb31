"""Shots from a video file, from frames and from a latent, through a real server."""

import json

import av
import pytest
from PIL import Image

from benchmarks.shot_clips import clip
from demo.server import RunFailed

MADE = clip(["hard", "flash", "hard"], seed=3, length=24)


@pytest.fixture(scope="module")
def video(server):
    """A file in ComfyUI's input folder."""
    with av.open(str(server.folder / "input" / "moc_cuts.mp4"), mode="w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = MADE.frames.shape[1], MADE.frames.shape[2], "yuv420p"
        for frame in MADE.frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return "moc_cuts.mp4"


def show(node, output):
    return {"class_type": "PreviewAny", "inputs": {"source": [node, output]}}


def detect(**inputs):
    return {"class_type": "MoCDetectShots", "inputs": {"detector": "built-in", **inputs}}


def test_a_video_file_becomes_shots_with_progress_and_a_contact_sheet(server, video):
    prompt = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": video}},
        "detect": detect(video=["load", 0], family="Wan"),
        "cuts": show("detect", 1),
        "scenes": show("detect", 2),
        "again": {"class_type": "MoCShots", "inputs": {"how": "detected", "detected": ["detect", 0]}},
        "summary": show("again", 3),
    }
    told = []
    run = server.wait(server.queue(prompt), on_progress=told.append)
    assert run.texts["cuts"] == ", ".join(map(str, MADE.cuts))
    assert [row["start_frame"] for row in json.loads(run.texts["scenes"])["scenes"]] == [0, *MADE.cuts]
    assert run.texts["detect"].startswith(f"3 shots in {len(MADE.frames)} frames (built-in): 2 cuts.\nCut 1 moved from")
    assert run.texts["summary"].startswith("3 shots, frames 0-")
    (sheet,) = run.files["detect"]
    with Image.open(sheet) as picture:
        assert picture.width > 300 and picture.height > 300
    steps = [progress for progress in told if progress.node == "detect" and progress.total]
    assert steps and steps[-1].value == steps[-1].total


def test_frames_become_shots_of_which_one_may_be_edited_by_hand(server):
    colour = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 20}}
    prompt = {
        "red": {**colour, "inputs": {**colour["inputs"], "color": 0xC02010}},
        "blue": {**colour, "inputs": {**colour["inputs"], "color": 0x1020C0}},
        "film": {"class_type": "ImageBatch", "inputs": {"image1": ["red", 0], "image2": ["blue", 0]}},
        "detect": detect(images=["film", 0]),
        "by hand": {"class_type": "MoCShots", "inputs": {"how": "cuts", "times": ["detect", 1]}},
        "summary": show("by hand", 3),
    }
    run = server.wait(server.queue(prompt))
    assert run.texts["detect"] == "2 shots in 40 frames (built-in): 1 cut."
    assert run.texts["summary"] == "2 shots, frames 0-19, 20 to the end."


def test_a_still_latent_is_one_shot(server):
    size = {"width": 64, "height": 64, "length": 33, "batch_size": 1}
    prompt = {
        "latent": {"class_type": "EmptyHunyuanLatentVideo", "inputs": size},
        "detect": {"class_type": "MoCDetectShotsLatent", "inputs": {"latent": ["latent", 0]}},
        "report": show("detect", 1),
    }
    assert server.wait(server.queue(prompt)).texts["report"] == "1 shot, 9 latent frames."


def test_nothing_to_look_at_stops_the_node(server):
    with pytest.raises(RunFailed, match="connect images, video or scenes_json to MoC Detect Shots"):
        server.wait(server.queue({"detect": detect(), "report": show("detect", 4)}))
