"""The demo's runs differ in what is compared, and in nothing else."""

import json

import pytest
import torch

from demo.clips import sb
from demo.film import MOC, WINDOWS, prompt_of
from demo.hosting.common import HostError
from demo.hosting.installer import Installer
from demo.run import GRAPH, WORKFLOW, Clock, is_link, main, prefixed, without_moc
from demo.server import Progress

PROMPT = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "a.safetensors"}},
    "2": {"class_type": "MoCShots", "inputs": {"how": "cuts", "times": "9, 21"}},
    "3": {"class_type": "MoCApply", "inputs": {"model": ["1", 0], "shots": ["2", 0]}},
    "4": {"class_type": "KSampler", "inputs": {"model": ["3", 0], "seed": 1, "latent_image": ["9", 0]}},
    "5": {"class_type": "MoCRoutingHeatmap", "inputs": {"trace": ["3", 1], "after_sample": ["4", 0]}},
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 2]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "heatmap"}},
    "8": {"class_type": "SaveVideo", "inputs": {"video": ["6", 0], "filename_prefix": "video"}},
    "9": {"class_type": "EmptyLatent", "inputs": {}},
}


def test_moc_is_bridged_and_what_only_it_feeds_is_left_out():
    dense = without_moc(PROMPT)
    assert set(dense) == {"1", "2", "4", "6", "8", "9"}
    assert dense["4"]["inputs"] == {"model": ["1", 0], "seed": 1, "latent_image": ["9", 0]}
    assert dense["6"]["inputs"]["samples"] == ["4", 0]
    assert all(v[0] in dense for n in dense.values() for v in n["inputs"].values() if is_link(v))
    assert "3" in PROMPT and PROMPT["4"]["inputs"]["model"] == ["3", 0]  # the original is untouched


def test_the_two_runs_write_different_files():
    names = {node["inputs"]["filename_prefix"] for name in ("dense", "MoC") for node in (prefixed(PROMPT, name)["8"],)}
    assert len(names) == 2


def test_sampling_is_timed_from_the_steps_that_were_seen(monkeypatch, capsys):
    now = iter([10.0, 10.0, 12.0, 14.0])
    monkeypatch.setattr("demo.run.time.monotonic", lambda: next(now))
    clock = Clock("dense")
    for step in (1, 2, 3):  # three reports of a run of eight steps, two seconds apart
        clock(Progress("4", "KSampler", step, 3, 0.0))
    assert clock.seconds == 6.0
    assert "step 3/3" in capsys.readouterr().out


def test_a_python_that_makes_no_environments_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("demo.hosting.installer.importlib.util.find_spec", lambda name: None)
    venv = tmp_path / "venv"
    venv.mkdir()
    with pytest.raises(HostError, match="install python3-venv"):
        Installer(tmp_path).make_venv()
    assert venv.exists(), "nothing is taken away before"


def test_the_graph_to_open_is_the_prompt_that_runs():
    prompt, graph = (json.loads(path.read_text("utf-8")) for path in (WORKFLOW, GRAPH))
    nodes = {node["id"]: node for node in graph["nodes"]}
    saved = {node["type"]: node["widgets_values"] for node in nodes.values()}
    assert sorted(node["type"] for node in nodes.values()) == sorted(node["class_type"] for node in prompt.values())
    wires = ((nodes[a], slot, nodes[b], into) for _, a, slot, b, into, _ in graph["links"])
    wired = {(a["type"], slot, b["type"], b["inputs"][into]["name"]) for a, slot, b, into in wires}
    inputs = [(node["class_type"], name, value) for node in prompt.values() for name, value in node["inputs"].items()]
    assert wired == {(prompt[v[0]]["class_type"], v[1], kind, name) for kind, name, v in inputs if is_link(v)}
    assert [(kind, name) for kind, name, v in inputs if not is_link(v) and v not in saved[kind]] == []


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("shots", [6, 24])
def test_the_long_film_is_a_whole_graph_that_differs_in_its_windows_alone(windows, shots):
    prompt = prompt_of(windows, shots, "", 1)
    links = [v for node in prompt.values() for v in node["inputs"].values() if is_link(v)]
    assert {key for key, _ in links} | {"cuts", "save", "sheet"} == set(prompt), "ComfyUI's windows know no cuts"
    others = [{k: v for k, v in p.items() if k != "windows"} for p in (prompt, prompt_of(MOC, shots, "", 1))]
    assert others[0] == others[1]
    assert prompt["windows"]["class_type"] == WINDOWS[windows][0]
    assert prompt["film"]["inputs"]["shots"] == shots


def test_a_film_of_three_times_six_has_a_box_for_every_frame_and_changes_shots_where_it_says():
    parts = [sb.boxes(sb.parse("", seed)[0]) for seed in range(3)]
    box, control = sb.joined(parts)
    cuts = sb.first_frames(18)
    assert len(box) == 4 * control.shape[2] - 3 == 12 * 18 - 3
    assert sb.first_frames(6) == sb.CUTS and sb.first_frames(18, 6) == [69, 141] == cuts[5::6]
    for part, start in zip(parts[1:], (69, 141), strict=True):
        assert torch.equal(box[start + 3 : start + 72], part) and torch.equal(
            box[start : start + 3], part[:1].expand(3, -1)
        )
    latents = control[0, :, 18:36], sb.joined(parts[1:2])[1][0]
    assert torch.equal(*latents), "every six are told where they stand as a film of their own"


def test_the_sheet_shows_the_middle_of_every_shot_and_fills_its_last_row():
    frames = torch.arange(9.0).view(9, 1, 1, 1).expand(9, 4, 4, 3) / 10
    sheet = sb.sheet(frames, [0, 0, 0, 1, 1, 1, 2, 2, 2], across=2)
    assert sheet.shape == (1, 4, 4, 3)
    assert torch.allclose(sheet[0, ::2, ::2, 0], torch.tensor([[0.1, 0.4], [0.7, 1.0]]))


@pytest.mark.parametrize("shots", ["7", "0", "-6"])
def test_a_film_that_is_no_multiple_of_six_is_refused_before_anything_starts(shots, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "--shots", shots])
    monkeypatch.setattr("demo.run.prepare", lambda: pytest.fail("started"))
    assert main() == 1
    assert "multiple of 6" in capsys.readouterr().err
