"""ComfyUI's real front end in a real browser, against a real server on the CPU. Run it with `python tests/run.py ui`.

`comfy` is a page with an empty graph, in both ways ComfyUI draws nodes: classic canvas and Nodes 2.0. A test fails
when the page reports an error. MOC_CHROMIUM names the browser; MOC_UI_PICTURES the folder for screenshots.
"""

import os
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser tests drive Chromium with Playwright")

from browsers import ARGUMENTS, find_browser, front_end
from comfy import EMPTY, MODES, Comfy
from playwright.sync_api import sync_playwright

from demo.host import NEWEST, prepare
from demo.server import Server

TINY_NODES = Path(__file__).resolve().parent.parent / "workflow" / "tiny_nodes"
VERSION = os.environ.get("MOC_COMFYUI_VERSION", NEWEST)


@pytest.fixture(scope="session")
def server():
    host = prepare(VERSION, tools=True)
    with Server(host, nodes=[TINY_NODES], cpu=True, args=front_end(host)) as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    chosen = find_browser(prepare(VERSION, tools=True))
    environment = {**os.environ, **chosen.environment}
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chosen.path, args=ARGUMENTS, env=environment)
        yield running
        running.close()


@pytest.fixture(scope="session")
def pictures(server):
    folder = Path(os.environ.get("MOC_UI_PICTURES") or server.host.home / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session", params=MODES)
def opened(request, browser, server, pictures):
    """Opening takes seconds, so the tests of a mode share a page."""
    page = Comfy(browser, server, request.param, pictures)
    page.open()
    yield page
    page.close()


@pytest.fixture
def comfy(opened):
    opened.errors.clear()
    opened.load(EMPTY)
    opened.look_at_origin()
    yield opened
    assert opened.errors == []


@pytest.fixture
def new_page(browser, server, pictures):
    """For tests that need a page of their own: new_page(mode, **browser context options); call open() on it."""
    pages = []

    def make(mode="classic", **context):
        pages.append(Comfy(browser, server, mode, pictures, **context))
        return pages[-1]

    yield make
    for page in pages:
        page.close()
