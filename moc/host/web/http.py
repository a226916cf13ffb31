"""What a browser may ask of a trace: a part of it as a map, all of it as a file, and what a node showed last."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from aiohttp import web

from ...errors import MoCError
from ...trace.export import MOST_LINES, npz, of_heatmap
from ...trace.heatmap import BANK, VIEWS, Collected, pick
from ...trace.trace import Trace
from . import push

NUMBER = re.compile(r"-?\d{1,5}")
NAME = re.compile(r"[0-9A-Za-z:_-]{0,64}")
GONE = "This run is no longer in memory: run the workflow again."


def add_routes(routes: web.RouteTableDef) -> None:
    @routes.get("/moc/heatmap/{trace}")
    async def heatmap(request: web.Request) -> web.Response:
        trace = _trace(request)
        view, choice = _choice(request.query)
        try:
            data = await _aside(_map, trace, view, choice)
        except MoCError as error:
            return web.json_response({"error": str(error)}, status=400)
        answer = web.json_response(data)
        answer.enable_compression()
        return answer

    @routes.get("/moc/npz/{trace}")
    async def file(request: web.Request) -> web.Response:
        data = await _aside(npz, _trace(request))
        name = {"Content-Disposition": 'attachment; filename="moc_routing.npz"'}
        return web.Response(body=data, content_type="application/octet-stream", headers=name)

    @routes.get("/moc/last")
    async def last(request: web.Request) -> web.Response:
        asked = [request.query.get(name, "") for name in ("client", "workflow", "node")]
        if not all(map(NAME.fullmatch, asked)):
            raise web.HTTPBadRequest(text="client, workflow and node are ids.")
        return web.json_response(push.last(*asked))


def _trace(request: web.Request) -> Trace:
    trace = push.traces.get(request.match_info["trace"])  # a look-up in a dictionary: nothing to escape from
    if trace is None:
        raise web.HTTPNotFound(text=GONE)
    return trace


def _choice(query: Mapping[str, str]) -> tuple[str, dict[str, int]]:
    view, choice = query.get("view", VIEWS[0]), {}
    for name, default in (("first_step", "0"), ("last_step", "-1"), ("block", "-1"), ("head", "-1")):
        number = query.get(name, default)
        if not NUMBER.fullmatch(number):
            raise web.HTTPBadRequest(text=f"{name} is a whole number.")
        choice[name] = int(number)
    if view not in (*VIEWS, BANK):
        raise web.HTTPBadRequest(text=f"view is one of {', '.join((*VIEWS, BANK))}.")
    return view, choice


def _map(trace: Trace, view: str, choice: dict[str, int]) -> dict:
    head = choice.pop("head")
    collected = Collected(head)
    collected.add(pick(trace, **choice, view=view))
    return of_heatmap(collected.heatmap(view, MOST_LINES[view]))


async def _aside(work, *args):
    """Not on the server's own thread, which has to go on answering."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)
