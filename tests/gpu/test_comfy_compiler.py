"""Does MoC stay out of what newer ComfyUIs record? Each comfy-aimdo in a process of its own (`check_recording.py`)."""

from __future__ import annotations

import argparse

import pytest

from tests.gpu.check_recording import MOST, in_a_process

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group(name="recording")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = metafunc.config.getoption("--aimdo", None) or [None]
    metafunc.parametrize("aimdo", folders, ids=lambda folder: "installed" if folder is None else folder.name)


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
def test_a_recorded_film_is_the_one_that_comes_without_recording(aimdo, cold, this_card, comfyui, noted):
    if aimdo is None:
        pytest.importorskip("comfy_aimdo", reason="give a comfy-aimdo by --aimdo=FOLDER")
    args = argparse.Namespace(comfyui=comfyui, most=MOST, cold=cold, collecting=False, unguarded=False)
    found = in_a_process(args, aimdo)
    noted(**found)
    assert "failed" not in found, found["failed"]
