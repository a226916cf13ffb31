"""scenes_json: what other packs' shot lists become, and what ours look like to them."""

import json

import pytest

from moc.errors import MoCError
from moc.shots.cuts import Shots
from moc.shots.detect.scenes_json import read_scenes, timecode, write_scenes


def test_what_is_written_is_read_back():
    shots = Shots(cuts=(29, 57), length=81, fps=16.0)
    text = write_scenes(shots, "built-in", 0.5, 8)
    assert read_scenes(text, fps=25) == shots


def test_the_rows_are_those_of_scene_detection_packs():
    data = json.loads(write_scenes(Shots(cuts=(10,), length=25, fps=10.0), "content", 27.0, 15))
    assert (data["fps"], data["method"], data["threshold"], data["min_scene_len_frames"]) == (10.0, "content", 27.0, 15)
    assert data["scenes"][1] == {
        "index": 2,
        "start_frame": 10,
        "end_frame": 25,
        "duration_frames": 15,
        "fps": 10.0,
        "start_time": "00:00:01.000",
        "end_time": "00:00:02.500",
        "duration_sec": 1.5,
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"fps": 10, "scenes": [{"start_frame": 0, "end_frame": 10}, {"start_frame": 10, "end_frame": 25}]}',
        '[{"start_frame": 0}, {"start_frame": 10, "end_frame": 25}]',
        '{"fps": 10, "scenes": [{"start_time": 0, "end_time": 1}, {"start_time": 1.0, "end_time": 2.5}]}',
        '[{"start_time": "00:00:00.000"}, {"start_time": "00:00:01.000", "end_time": "00:00:02.500"}]',
        "[[0, 9], [10, 24]]",
    ],
    ids=["an object", "a bare list", "seconds", "time codes", "pairs, the last frame included"],
)
def test_forms_that_packs_write(text):
    assert read_scenes(text, fps=10.0, length=None if text[1] != "[" else 25) == Shots(cuts=(10,), length=25, fps=10.0)


def test_the_first_scene_need_not_start_at_the_first_frame():
    """PySceneDetect leaves out what comes before the first fade in; here every frame belongs to a shot."""
    assert read_scenes('[{"start_frame": 5}, {"start_frame": 20}]', 24, 40).cuts == (20,)


def test_no_scenes_are_one_shot():
    assert read_scenes('{"scenes": []}', 24, 40) == Shots(length=40, fps=24.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("soon", "scenes_json is no JSON"),
        ('{"cuts": [3]}', "scenes_json holds no list of scenes"),
        ('[{"start_frame": 0}, {"end_frame": 9}]', "scene 2 of scenes_json does not say where it starts"),
        ("[7]", r"scene 1 of scenes_json is 7: expected an object or \[first, last\]"),
        ('[{"start_time": "soon"}]', "scene 1 of scenes_json has the time 'soon'"),
        ('[{"start_frame": 0}, {"start_frame": 90}]', "the last cut is at frame 90, but the video ends at frame 40"),
    ],
)
def test_what_cannot_be_read_is_told(text, sentence):
    with pytest.raises(MoCError, match=sentence):
        read_scenes(text, 24, 40)


def test_times_round_to_the_millisecond():
    assert timecode(3725.0304) == "01:02:05.030"
    assert timecode(59.9996) == "00:01:00.000"
