"""Tells the browser that started a run what was routed so far, and remembers it for a page that is loaded anew."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

from ...trace.export import MOST_LINES, of_heatmap, of_trace
from ...trace.heatmap import BANK, Collected, Records
from ...trace.trace import Trace

EVENT = "moc.trace"
PAUSE = 0.2  # seconds between two messages at least
MOST_REMEMBERED = 32

log = logging.getLogger("mixture_of_contexts")
traces: WeakValueDictionary[str, Trace] = WeakValueDictionary()  # by id, as long as the host keeps them
# (client, workflow, node) -> what the node showed last. Workflows made of one template have one id: only the client
# that started a run is told of it.
_last: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()


class Live:
    """One message per step of one run. Without a server, or without a browser that waits for this run, nothing."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self._collected = trace, Collected()
        self._step, self._time = -1, 0.0
        self._lock = threading.Lock()  # several devices may end a pass at once
        server = _server()
        self._server = None if server is None or server.client_id is None else server
        if server is not None:
            traces[trace.id] = trace
            self._prompt, self._workflow = _running(server)

    def update(self, records: Records, step: int) -> None:
        """After every forward pass, with what is new."""
        if self._server is None:
            return
        with self._lock:
            self._collected.add(records)
            if step != self._step and time.monotonic() - self._time >= PAUSE:
                self._step, self._time = step, time.monotonic()
                self._send(running=True)

    def end(self, *, stopped: bool = False) -> None:
        if self._server is not None:
            self._send(running=False, stopped=stopped)

    def _send(self, **state: bool) -> None:
        try:
            self._tell(**state)
        except Exception as error:  # a picture is no reason to end somebody's sampling
            self._server = None
            log.warning("MoC: the live heatmap stopped", exc_info=error)

    def _tell(self, **state: bool) -> None:
        # two of them in one graph: each of their nodes is told by its own id
        shown_on = [
            node
            for node, what in self._prompt.items()
            if what.get("class_type") == "MoCRoutingHeatmap"
            and what.get("inputs", {}).get("trace") == [self.trace.node, 1]
        ]
        message = {**describe(self.trace, self._collected), **state, "step": self._step, "shown_on": shown_on}
        message["workflow"] = self._workflow
        for node in (self.trace.node, *shown_on):
            _remember(self._server, node, message)
        if self._server is not None:
            self._server.send_sync(EVENT, message, self._server.client_id)


def describe(trace: Trace, collected: Collected | None = None) -> dict[str, Any]:
    """What a node shows before anything is asked for: the mean of all, by frame and by shot."""
    if collected is None:
        collected = Collected()
        collected.add([*trace.records, *trace.reads])
    views = [*(("frames", "shots") if collected else ()), *((BANK,) if collected.bank else ())]
    maps = {view: of_heatmap(collected.heatmap(view, MOST_LINES[view])) for view in views}
    return {**of_trace(trace), "maps": maps}


def shown(node: str, message: dict[str, Any]) -> None:
    """A heatmap node of the running graph shows this; the message learns of which workflow it is."""
    server = _server()
    if server is not None:
        message["workflow"] = _running(server)[1]
        _remember(server, node, message)


def last(client: str, workflow: str, node: str) -> dict[str, Any]:
    """What a node showed last in a run that this client started; empty where it showed nothing."""
    return _last.get((client, workflow, node), {})


def _remember(server, node: str, message: dict[str, Any]) -> None:
    if server is None or server.client_id is None:  # nobody could ask for it
        return
    key = str(server.client_id), message["workflow"], node
    _last[key] = message
    _last.move_to_end(key)
    while len(_last) > MOST_REMEMBERED:
        _last.popitem(last=False)


def _server():
    module = sys.modules.get("server")  # not there when the pack is used without ComfyUI's server
    return getattr(getattr(module, "PromptServer", None), "instance", None)


def _running(server) -> tuple[dict[str, Any], str]:
    """(graph that runs now, id of the workflow it was queued from)."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    if not running:
        return {}, ""
    _, _, prompt, extra, *_ = running[0]
    info = extra.get("extra_pnginfo")
    workflow = info.get("workflow") if isinstance(info, dict) else None  # a script may send anything
    return prompt, str(workflow.get("id") or "") if isinstance(workflow, dict) else ""
