"""What is measured and checked inside ComfyUI does what it says: dry runs on a small model."""

import json
import subprocess
import sys

from conftest import COMFYUI, REPO


def test_a_step_inside_comfyui_routes_every_block_and_its_attention_is_part_of_its_time(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.end_to_end", "--comfyui", COMFYUI, "--out", out, "--tiny"]
    command += ["--blocks", "3", "--runs", "8shots:paper,8shots:ComfyUI's default"]
    done = subprocess.run([str(part) for part in command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    routed, dense = found["results"]
    assert "failed" not in routed and "failed" not in dense
    assert routed["report"].startswith("MoC on: 3 of 3 self-attention calls routed")
    assert routed["kept"] < 0.5 < dense["kept"] == 1
    (step,) = routed["steps_s"]
    assert 0 < routed["attention_s"] < step
    assert "steps_s" not in dense and dense["step_from_few_s"] > 0, "timed on a few blocks only"
    assert f"{routed['kept']:.1%}" in done.stdout, "the table is printed"


def test_the_check_inside_comfyui_asks_all_its_questions_and_all_hold_on_the_cpu(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.gpu.check_graph", "--comfyui", COMFYUI, "--out", out, "--tiny"]
    done = subprocess.run([str(part) for part in command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(out.read_text())["results"]
    assert len(results) == 38 and "38 of 38 hold" in done.stdout
    assert [r["question"] for r in results if not r["holds"]] == []


def test_a_recording_that_cannot_be_asked_counts_as_failed_and_says_where(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.gpu.check_recording", "--comfyui", COMFYUI, "--out", out, "--cold"]
    command += ["--aimdo", tmp_path]  # no comfy-aimdo records without a GPU
    done = subprocess.run([str(part) for part in command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1
    (run,) = json.loads(out.read_text())["runs"]
    assert run["failed"] == "ended with 1" and any('File "check_recording.py"' in line for line in run["errors"])
    assert str(tmp_path) not in out.read_text() and str(COMFYUI) not in out.read_text()
