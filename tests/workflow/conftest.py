"""A real ComfyUI server per supported version, on the CPU, with the pack and a tiny video model in it."""

import os
from pathlib import Path

import pytest

from demo.host import NEWEST, OLDEST, prepare
from demo.server import Server

HERE = Path(__file__).resolve().parent
CHOSEN = os.environ.get("MOC_COMFYUI_VERSION")  # `tests/run.py` takes one at a time; by hand, both run


@pytest.fixture(scope="session", params=[CHOSEN] if CHOSEN else [NEWEST, OLDEST])
def server(request):
    with Server(prepare(request.param, tools=True), nodes=[HERE / "tiny_nodes"], cpu=True) as running:
        yield running


@pytest.fixture(scope="session")
def object_info(server):
    return server.object_info()
