"""A person at ComfyUI's real front end: a page in a browser, and what one does with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ElementHandle, Locator, Page, Response

from demo.hosting.base import PACK
from demo.server import Run, Server

MODES = {"classic": False, "nodes 2.0": True}  # how ComfyUI draws nodes: name -> Comfy.VueNodes.Enabled
SETTINGS = {
    "Comfy.Locale": "en",
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,  # every page begins empty
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Workflow.WorkflowTabsPosition": "Topbar",
    "Comfy.UseNewMenu": "Top",
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Canvas.SelectionToolbox": False,
    "Comfy.EnableTooltips": False,
    "Comfy.Notification.ShowVersionUpdates": False,
}
READY = "() => window.app?.extensionManager && (window.app.vueAppReady || window.app.graph) && window.comfyAPI"
EMPTY = {"version": 0.4, "last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": []}
COUNT_RUNS = """async () => {
  window.mocEnded = new Set()
  const { api } = window.comfyAPI.api
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    api.addEventListener(kind, (event) => window.mocEnded.add(event.detail.prompt_id))
}"""


class Comfy:
    """One page. `errors` holds what went wrong in it: exceptions, the pack's console errors and failed requests."""

    def __init__(self, browser: Browser, server: Server, mode: str, pictures: Path, **context: Any) -> None:
        self.server, self.mode, self.pictures = server, mode, pictures
        self.vue = MODES[mode]
        self.errors: list[str] = []
        self.loaded: set[str] = set()  # paths of what the server answered with
        self.settings: dict[str, Any] = {}
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **context})
        self.context.route(lambda url: not url.startswith((server.url, "data:", "blob:")), lambda route: route.abort())
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("pageerror", lambda error: self.errors.append(f"exception: {error.stack or error}"))
        self.page.on("console", lambda said: said.type == "error" and self.note(said.text, str(said.location)))
        self.page.on("response", self.answered)

    def answered(self, answer: Response) -> None:
        self.loaded.add(urlsplit(answer.url).path)
        if answer.status >= 400:
            self.note(str(answer.status), answer.url)

    def note(self, text: str, where: str) -> None:
        if PACK in text + where:
            self.errors.append(f"{text} ({where})")

    # the page

    def open(self) -> None:
        """The front end, from nothing, with an empty graph."""
        settings = {**SETTINGS, "Comfy.VueNodes.Enabled": self.vue, **self.settings}
        self.server.post("/settings", settings)
        self.page.goto(self.server.url)
        self.page.wait_for_function(READY, timeout=60_000)
        self.page.evaluate(COUNT_RUNS)
        self.load(EMPTY)

    def load(self, workflow: Mapping[str, Any] | Path) -> None:
        """A workflow as ComfyUI saves it, in place of what is there; undo begins anew."""
        if isinstance(workflow, Path):
            workflow = json.loads(workflow.read_text("utf-8"))
        self.page.evaluate("(graph) => app.loadGraphData(graph, true, true)", dict(workflow))
        self.settle()

    def saved(self) -> dict[str, Any]:
        """What saving the workflow would write to the file."""
        return dict(self.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))"))

    def reload(self) -> None:
        """Save, open the page again, load what was saved."""
        workflow = self.saved()
        self.open()
        self.load(workflow)

    def settle(self) -> None:
        """Until what was changed is drawn."""
        self.page.evaluate("() => new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(() => d())))")

    def wait(self, condition: str, argument: Any = None) -> None:
        """Until a JavaScript condition holds."""
        self.page.wait_for_function(condition, arg=argument)

    def undo(self) -> None:
        self.press_slowly("Control", "z")

    def redo(self) -> None:
        self.press_slowly("Control", "Shift", "z")

    def press_slowly(self, *keys: str) -> None:
        """Keys together as a hand presses them: the front end looks at each one in the frame after it."""
        for key in keys:
            self.page.keyboard.down(key)
            self.settle()
        self.page.wait_for_timeout(300)  # the front end loads the whole graph anew
        for key in reversed(keys):
            self.page.keyboard.up(key)
        self.settle()

    def picture(self, name: str, of: Locator | ElementHandle | None = None) -> Path:
        """A screenshot of the page or of one element."""
        path = self.pictures / f"{name} ({self.mode}).png"
        self.settle()
        (of or self.page).screenshot(path=path)
        return path

    # nodes

    def add(self, kind: str, at: tuple[int, int] = (100, 120), size: tuple[int, int] | None = None, **widgets) -> int:
        """A new node of this kind; its id."""
        node = self.page.evaluate(
            """([kind, at, size]) => {
              const node = LiteGraph.createNode(kind)
              node.pos = at
              app.graph.add(node)
              if (size) node.setSize(size)
              return Number(node.id)
            }""",
            [kind, at, size],
        )
        self.settle()
        for name, value in widgets.items():
            self.set(node, name, value)
        self.remember()
        return node

    def connect(self, source: int, output: int | str, target: int, input_name: str) -> None:
        made = self.page.evaluate(
            """([source, output, target, name]) => {
              const [from, to] = [source, target].map((id) => app.graph.getNodeById(id))
              const slot = typeof output === 'number' ? output : from.findOutputSlot(output)
              return Boolean(from.connect(slot, to, to.findInputSlot(name)))
            }""",
            [source, output, target, input_name],
        )
        assert made, f"cannot connect {source}.{output} to {target}.{input_name}"
        self.remember()

    def widgets(self, node: int) -> dict[str, Any]:
        """Every widget's value by name, as soon as there is such a node: undo makes all of them anew."""
        self.wait("(id) => app.graph.getNodeById(id)", node)
        read = "(id) => Object.fromEntries((app.graph.getNodeById(id).widgets ?? []).map((w) => [w.name, w.value]))"
        return dict(self.page.evaluate(read, node))

    def set(self, node: int, name: str, value: Any) -> None:
        """Give a widget a value, as typing it does."""
        self.page.evaluate(
            """([id, name, value]) => {
              const node = app.graph.getNodeById(id)
              const widget = node.widgets.find((w) => w.name === name)
              if (!widget) throw new Error(`node ${id} has no widget ${name}`)
              widget.value = value
              widget.callback?.(value, app.canvas, node)
            }""",
            [node, name, value],
        )
        self.settle()
        self.remember()

    def remember(self) -> None:
        """What a click or key does of itself: the change becomes a step that undo takes back."""
        self.page.evaluate(
            """() => {
              const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker
              tracker?.captureCanvasState ? tracker.captureCanvasState() : tracker?.checkState?.()
            }"""
        )

    def element(self, node: int, widget: str) -> Locator:
        """The element of a DOM widget, on the page."""
        mark = f"{node} {widget}"
        find = """([id, name, mark]) => {
              const widget = app.graph.getNodeById(id)?.widgets?.find((w) => w.name === name)
              if (!widget?.element?.isConnected) return false
              widget.element.setAttribute('data-test', mark)
              return true
            }"""
        self.page.wait_for_function(find, arg=[node, widget, mark])
        return self.page.locator(f'[data-test="{mark}"]')

    def look_at(self, node: int, at: tuple[int, int] = (120, 100), scale: float = 1.0) -> None:
        """Scroll so that the node's corner is here, in pixels of the page."""
        self.page.evaluate(
            """([id, at, scale]) => {
              const { pos } = app.graph.getNodeById(id)
              app.canvas.ds.scale = scale
              app.canvas.ds.offset = [at[0] / scale - pos[0], at[1] / scale - pos[1]]
              app.canvas.setDirty(true, true)
            }""",
            [node, at, scale],
        )
        self.settle()

    def look_at_origin(self) -> None:
        self.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0] }")

    # running

    def run(self, timeout: float = 60) -> Run:
        """Queue what is on the page, as the Run button does, and wait until the page knows that it is over."""
        prompt_id = self.queue()
        run = self.server.wait(prompt_id, timeout=timeout)
        self.wait("(id) => window.mocEnded.has(id)", prompt_id)
        self.settle()
        return run

    def queue(self) -> str:
        """Queue what is on the page and do not wait; the prompt's id. A refusal is an AssertionError with its text."""
        with self.page.expect_response(lambda r: r.url.endswith("/prompt") and r.request.method == "POST") as answer:
            self.page.evaluate("() => { app.queuePrompt(0) }")
        assert answer.value.ok, answer.value.text()
        return str(answer.value.json()["prompt_id"])

    def close(self) -> None:
        self.context.close()
