"""What is measured and checked inside ComfyUI does what it says: dry runs on a small model."""

import json
import subprocess
import sys

from conftest import COMFYUI, REPO

ASK_A_GPU = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider"]


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


def test_what_is_asked_of_a_gpu_inside_comfyui_holds_on_the_cpu_and_is_reported_without_folders(tmp_path):
    out = tmp_path / "found.json"
    command = [*ASK_A_GPU, "-k", "test_graph", "--dry", f"--comfyui={COMFYUI}", f"--report={out}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    found = json.loads(out.read_text())
    assert found["right"] == "38 of 38" and all(row.get("ok", True) for row in found["results"])
    left_out = [(row["test"], row["skipped"]) for row in found["results"] if "ok" not in row]
    assert len(left_out) == 2, "what is timed needs the GPU itself"
    assert all("measured_to_be_faster" in test and "no CUDA device" in why for test, why in left_out)
    assert found["command"].endswith("-k test_graph --dry --comfyui=FOLDER")
    assert str(tmp_path) not in out.read_text() and str(COMFYUI) not in out.read_text()


def test_a_shard_takes_its_part_of_what_is_asked_of_a_gpu_and_all_shards_take_all():
    def asked(*more):
        command = [*ASK_A_GPU, "--collect-only", "-q", *more]
        lines = subprocess.run(command, cwd=REPO, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if "::" in line]

    parts = [asked(f"--shard={i}/3") for i in range(3)]
    together = [test for part in parts for test in part]
    assert sorted(together) == sorted(asked()) and len(together) > 200
    assert all(len(part) > 50 for part in parts)
    inside = [part for part in parts if any("test_graph" in test for test in part)]
    assert len(inside) == 1, "one model serves all that is asked inside ComfyUI"


def test_a_recording_that_cannot_be_asked_counts_as_failed_and_says_where(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.gpu.check_recording", "--comfyui", COMFYUI, "--out", out, "--cold"]
    command += ["--aimdo", tmp_path]  # no comfy-aimdo records without a GPU
    done = subprocess.run([str(part) for part in command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1
    (run,) = json.loads(out.read_text())["runs"]
    assert run["failed"] == "ended with 1" and any('File "check_recording.py"' in line for line in run["errors"])
    assert str(tmp_path) not in out.read_text() and str(COMFYUI) not in out.read_text()
