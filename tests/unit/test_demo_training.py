"""The demo's table of rules can be made again, and training does not hide that it could not be made.

Each runs as a program of its own: the scripts of `demo/training` import each other by short names. Shots of one latent
frame in place of three keep it to half a minute on two cores; the weights are the shipped ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
DEMO = Path(__file__).resolve().parents[2] / "demo"
SHORT_SHOTS = f"""
import sys
sys.path[:0] = [{str(DEMO / "training")!r}, {str(DEMO)!r}]
import clips
sb = clips.sb
sb.LATENTS_PER_SHOT, sb.LATENT_FRAMES, sb.FRAMES = 1, sb.SHOTS, 4 * sb.SHOTS - 3
sb.CUTS = [4 * shot - 3 for shot in range(1, sb.SHOTS)]
sb.SHOT_OF_FRAME = [sum(frame >= cut for cut in sb.CUTS) for frame in range(sb.FRAMES)]
whole = sb.random_storyboard
sb.random_storyboard = lambda rng: [dict(shot, steps=shot["steps"][:1]) for shot in whole(rng)]
import evaluate, train
"""


@pytest.fixture
def weights(tmp_path) -> Path:
    for name, shipped in (("vae", "moc_demo_vae"), ("moc", "moc_demo_wan")):
        os.link(DEMO / f"models/{shipped}.safetensors", tmp_path / f"{name}.safetensors")
    return tmp_path


def program(text: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SHORT_SHOTS + text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_the_table_of_rules_is_made_of_the_shipped_weights(weights):
    remembers, forgets = "dense", "own shot only"
    made = program(
        "evaluate.main()", "--weights", weights, "--out", weights / "out",
        "--clips", 1, "--steps", 2, "--shift", 5, "--only", remembers, forgets,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    rules = json.loads((weights / "out/evaluation_moc.json").read_text())["rules"]
    assert list(rules) == [remembers, forgets]
    assert (rules[remembers]["kept"], rules[forgets]["kept"]) == (1.0, round(1 / 6, 5))
    assert rules[remembers]["between"] > 0.8, "the character is the same in all shots"
    assert rules[forgets]["between"] < 0.5, "and another one where a shot sees only itself"
    assert (weights / "out/moc_rules.png").is_file()


def test_training_ends_with_an_error_when_its_table_could_not_be_made(weights):
    made = program(
        "def fails(*_, **__): raise RuntimeError('no such table')\nevaluate.evaluate = fails\ntrain.main()",
        "--tiny", "--steps", 1, "--vae", 0, "--dense", 1, "--out", weights / "out", "--resume", weights,
    )  # fmt: skip
    assert made.returncode == 1
    assert "no such table" in made.stderr and "No table of rules for the weights dense" in made.stderr
    assert (weights / "out/dense.safetensors").is_file(), "the weights are not lost for it"
