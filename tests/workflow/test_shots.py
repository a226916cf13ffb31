"""MoC Shots and what other nodes hand it, through a real server."""

import json

import pytest

from demo.server import RunFailed

SCENES = json.dumps({"fps": 8, "scenes": [{"start_frame": 0, "end_frame": 30}, {"start_frame": 30, "end_frame": 81}]})


def run(server, **inputs):
    """What MoC Shots says and what it tells the timeline."""
    prompt = {
        "1": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": SCENES}},
        "2": {"class_type": "MoCShots", "inputs": {"how": "detected", "detected": ["1", 0], **inputs}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 3]}},
    }
    outputs = server.wait(server.queue(prompt), timeout=60).outputs
    return outputs["3"]["text"][0], outputs["2"]


def test_scenes_json_becomes_shots(server):
    summary, told = run(server)
    assert summary == "2 shots, frames 0-29, 30-80."
    assert [told[name][0]["cuts"] for name in ("moc_shots", "moc_detected")] == [[30], [30]]


def test_a_family_moves_the_cuts_and_the_timeline_still_knows_where_they_were_found(server):
    summary, told = run(server, family="Wan")
    assert summary.startswith("2 shots, frames 0-28, 29-80. Cut 1 moved from frame 30 to 29")
    assert [told[name][0]["cuts"] for name in ("moc_shots", "moc_detected")] == [[29], [30]]


def test_detected_without_a_connection_says_what_to_do(server):
    with pytest.raises(RunFailed, match="nothing is connected to detected"):
        run(server, detected=None)
