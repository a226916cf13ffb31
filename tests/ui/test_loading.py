"""The pack's scripts load into the front end without errors, and its nodes can be used there."""

from comfy import EMPTY


def test_every_node_can_be_added_saved_and_loaded(comfy, server):
    kinds = [kind for kind in server.object_info() if kind.startswith("MoC")]
    assert len(kinds) >= 5
    for kind in kinds:
        comfy.load(EMPTY)
        node = comfy.add(kind)
        before = comfy.widgets(node)
        comfy.load(comfy.saved())
        assert comfy.widgets(node) == before, kind


def test_every_script_of_the_pack_is_loaded(comfy, server):
    scripts = [path for path in server.get("/extensions") if "mixture-of-contexts" in path]
    assert any(path.endswith("/advanced.js") for path in scripts)
    assert [path for path in scripts if path not in comfy.loaded] == []


def test_a_change_is_undone_with_the_keyboard(comfy):
    node = comfy.add("MoCShots", times="29")
    holds = "([id, text]) => app.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'times').value === text"
    comfy.set(node, "times", "41")
    comfy.set(node, "times", "57")
    comfy.undo()
    comfy.wait(holds, [node, "41"])
    comfy.redo()
    comfy.wait(holds, [node, "57"])


def test_a_graph_runs(comfy):
    shots = comfy.add("MoCShots", times="29, 57")
    shown = comfy.add("PreviewAny", at=(600, 120))
    comfy.connect(shots, "summary", shown, "source")
    assert comfy.run().outputs[str(shown)]["text"] == ["3 shots, frames 0-28, 29-56, 57 to the end."]
