"""What a browser is told while a film is sampled, and what it may ask: over the server's own websocket and HTTP."""

import io
import json
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from test_server import film

from demo.host import NEWEST
from demo.hosting.websocket import WebSocket


def fetch(server, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path) as answer:
        return answer.read()


def ask(server, path: str) -> dict:
    return json.loads(fetch(server, path))


def listen(server, prompt: dict, client: str, workflow: str = "") -> list[dict]:
    """Queue as a browser does; every moc.trace message that reaches this client until the run is over."""
    socket = WebSocket("127.0.0.1", server.port, f"/ws?clientId={client}")
    extra = {"extra_pnginfo": {"workflow": {"id": workflow}}}
    asked = {"prompt": prompt, "client_id": client, "extra_data": extra}
    prompt_id = server.post("/prompt", asked)["prompt_id"]
    told, deadline = [], time.monotonic() + 60
    while time.monotonic() < deadline:
        message = json.loads(socket.receive(1.0) or "{}")
        if message.get("type") == "moc.trace":
            told.append(message["data"])
        elif message.get("type") in ("execution_success", "execution_error"):
            assert message["data"]["prompt_id"] == prompt_id and message["type"] == "execution_success"
            return told
    raise AssertionError("the run did not end")


def two_films(seed: int, steps: int = 4) -> dict:
    """Two models in one graph with a heatmap each, and a second heatmap of the first; nodes of the second end in 2."""
    one, other = film(seed), film(seed + 1)
    del other["model"]
    joined = {**one, "again": {**one["heatmap"], "inputs": {**one["heatmap"]["inputs"], "view": "flow"}}}
    for name, node in other.items():
        inputs = {
            key: [f"{value[0]}2", value[1]] if isinstance(value, list) and value[0] in other else value
            for key, value in node["inputs"].items()
        }
        joined[f"{name}2"] = {**node, "inputs": inputs}
    for name in ("sampler", "sampler2"):
        joined[name]["inputs"]["steps"] = steps
    return joined


@pytest.fixture(scope="module")
def told(server):
    """Messages of one run of two films, and the traces' ids by the nodes that show them."""
    messages = listen(server, two_films(seed=20), "a", workflow="films")
    return messages, {node: m["trace"] for m in messages for node in m["shown_on"]}


def test_every_map_is_told_of_its_own_film(told):
    messages, traces = told
    assert {(m["node"], *m["shown_on"]) for m in messages} == {("apply", "heatmap", "again"), ("apply2", "heatmap2")}
    assert traces["heatmap"] == traces["again"] != traces["heatmap2"]
    assert {m["workflow"] for m in messages} == {"films"}, "another tab may have nodes of the same numbers"


def test_a_step_is_told_at_most_once_and_the_end_always(told):
    messages, traces = told
    for trace in set(traces.values()):
        mine = [m for m in messages if m["trace"] == trace]
        steps = [m["step"] for m in mine if m["running"]]
        assert steps == sorted(set(steps)) and steps[0] == 0
        assert [m["running"] for m in mine] == [True] * len(steps) + [False]
        assert mine[-1]["recorded_steps"] == [0, 1, 2, 3] and mine[-1]["heads"] == 2
        assert mine[-1]["status"] == "MoC on: 3 of 3 blocks routed, 30.0% of pairs kept."


def test_a_part_of_the_trace_is_what_the_whole_file_holds(server, told):
    trace = told[1]["heatmap"]
    kept = np.load(io.BytesIO(fetch(server, f"/moc/npz/{trace}")))
    call = list(zip(kept["step_0"], kept["block_0"])).index((2, 1))
    part = ask(server, f"/moc/heatmap/{trace}?view=chunks&first_step=2&last_step=2&block=1&head=1")
    share = np.array(part["share"]) / part["parts"]
    open_pairs = kept["open_0"] > 0
    np.testing.assert_allclose(
        share[open_pairs], (kept["share_0"][call][1] / np.maximum(kept["open_0"], 1e-9))[open_pairs], atol=2e-3
    )
    assert (share[~open_pairs] < 0).all() and part["steps"] == [2, 2] and part["blocks"] == [1]


def test_a_page_loaded_anew_is_told_what_each_node_showed(server, told):
    traces = told[1]
    for node in ("heatmap", "heatmap2", "again"):
        assert ask(server, f"/moc/last?client=a&workflow=films&node={node}")["trace"] == traces[node]
    assert ask(server, "/moc/last?client=a&workflow=films&node=apply")["status"].startswith("MoC on")
    assert ask(server, "/moc/last?client=a&workflow=another&node=heatmap") == {}


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/moc/heatmap/no-such-trace", 404, "run the workflow again"),
        ("/moc/npz/..%2F..%2Fetc", 404, "run the workflow again"),
        ("/moc/heatmap/{trace}?view=film", 400, "view is one of frames, chunks, shots, bank"),
        ("/moc/heatmap/{trace}?block=one", 400, "block is a whole number"),
        ("/moc/heatmap/{trace}?head=1000000", 400, "head is a whole number"),
        ("/moc/heatmap/{trace}?head=7", 400, "this model has heads 0 to 1"),
        ("/moc/heatmap/{trace}?first_step=9", 400, "choose from steps 0-3"),
        ("/moc/last?client=a&node=%3Cscript%3E", 400, "client, workflow and node are ids"),
    ],
)
def test_questions_without_an_answer_say_so(server, told, path, status, sentence):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        fetch(server, path.format(trace=told[1]["heatmap"]))
    assert refusal.value.code == status and sentence in refusal.value.read().decode()


def test_what_windows_read_in_the_bank_is_told_while_they_are_sampled(server):
    prompt = film(seed=21, view="bank")
    keeps = {"windows": "shots", "length": 9, "overlap": 0, "bank": "on", "bank_shots": ""}
    prompt["windows"] = {
        "class_type": "MoCWindows",
        "inputs": {"model": ["model", 0], "shots": ["shots", 0], **keeps},
    }
    prompt["apply"]["inputs"]["model"] = ["windows", 0]
    messages = listen(server, prompt, "e")
    assert len(messages) > 1 and "bank" in messages[-1]["maps"]
    told = messages[-1]
    part = ask(server, f"/moc/heatmap/{told['trace']}?view=bank")
    assert part["share"] == told["maps"]["bank"]["share"] and part["view"] == "bank"
    # where the host can do it, the frame of shot 2 runs along in front of the window of shot 3
    read = [0, 2] if server.host.version == NEWEST else [0, 1, 2]
    assert part["rows"]["shot"] == [0, 1, 2] and part["columns"]["shot"] == read
    kept = np.load(io.BytesIO(fetch(server, f"/moc/npz/{told['trace']}")))
    assert np.nansum(kept["bank_mass_0"]) > 0


# Below, other graphs run: the host then lets go of the films above.


def test_a_workflow_of_the_same_template_shows_nobody_else_s_film(server, told):
    listen(server, film(seed=40, times="9"), "b", workflow="films")
    mine, theirs = (ask(server, f"/moc/last?client={client}&workflow=films&node=heatmap") for client in "ab")
    assert mine["trace"] == told[1]["heatmap"] != theirs["trace"]
    for other in ("client=c&", ""):
        assert ask(server, f"/moc/last?{other}workflow=films&node=heatmap") == {}


def test_fast_steps_do_not_flood_the_browser(server):
    prompt = film(seed=30, times="9")
    prompt["sampler"]["inputs"]["steps"] = 60
    started = time.monotonic()
    messages = listen(server, prompt, "b")
    seconds = time.monotonic() - started
    assert 2 <= len(messages) <= seconds / 0.2 + 2 and len(messages) < 40


def test_nobody_else_is_told(server):
    """A run that another client queued says nothing here."""
    other = WebSocket("127.0.0.1", server.port, "/ws?clientId=c")
    listen(server, film(seed=31, times="9"), "d")
    kinds = set()
    while text := other.receive(0.3):
        kinds.add(json.loads(text).get("type"))
    assert "moc.trace" not in kinds
