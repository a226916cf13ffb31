"""A real ComfyUI server per supported version, on the CPU, with the pack and a tiny video model in it."""

from pathlib import Path

import pytest

from demo.host import NEWEST, OLDEST, prepare
from demo.server import Server

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session", params=[NEWEST, OLDEST])
def server(request):
    with Server(prepare(request.param, tools=True), nodes=[HERE / "tiny_nodes"], cpu=True) as running:
        yield running


@pytest.fixture(scope="session")
def object_info(server):
    return server.object_info()
