"""Inputs that do not count now are not shown, keep their values, and come back where they count."""

import pytest

SHOWN = """(id) => {
  const node = app.graph.getNodeById(id)
  return node.widgets.filter((w) => !w.hidden && !w.options.hidden && node.isWidgetVisible(w)).map((w) => w.name)
}"""


def shown(comfy, node):
    """In both ways of drawing: what the canvas leaves out, and what is marked for Nodes 2.0."""
    return set(comfy.page.evaluate(SHOWN, node))


def labels(comfy, node):
    """What Nodes 2.0 has on the page."""
    return comfy.page.locator(f'[data-node-id="{node}"]').inner_text().splitlines()


@pytest.mark.parametrize(
    ("kind", "widget", "value", "appears"),
    [
        ("MoCRouting", "budget", "top-k", {"top_k"}),
        ("MoCRouting", "budget", "density", {"density"}),
        ("MoCShots", "how", "equal shots", {"shot_count"}),
        ("MoCWindows", "windows", "shots", set()),
    ],
)
def test_an_input_is_shown_where_it_counts(comfy, kind, widget, value, appears):
    node = comfy.add(kind)
    before, values = shown(comfy, node), comfy.widgets(node)
    assert not appears & before
    comfy.set(node, widget, value)
    assert shown(comfy, node) - before == appears
    comfy.set(node, widget, values[widget])
    assert shown(comfy, node) == before
    assert comfy.widgets(node) == values


def test_advanced_inputs_are_shown_only_where_they_count(comfy):
    node = comfy.add("MoCRouting")
    comfy.page.evaluate("(id) => { app.graph.getNodeById(id).showAdvanced = true }", node)
    assert shown(comfy, node) >= {"chunking", "window", "schedule", "rule"}
    assert not shown(comfy, node) & {"tile", "chunk_tokens", "start_percent", "min_tokens", "top_p", "beta"}
    comfy.set(node, "schedule", "custom")
    assert shown(comfy, node) >= {"start_percent", "end_percent", "dense_first", "dense_last", "min_tokens"}
    comfy.set(node, "preset", "paper multi-shot")  # its own is the whole shot
    assert "window" not in shown(comfy, node)


def test_a_saved_node_shows_what_counts_in_it(comfy):
    node = comfy.add("MoCRouting", budget="top-k", top_k=7)
    saved = comfy.saved()
    comfy.load(saved)
    assert "top_k" in shown(comfy, node) and comfy.widgets(node)["top_k"] == 7
    assert comfy.saved()["nodes"][0]["widgets_values"] == saved["nodes"][0]["widgets_values"]


def test_a_node_is_as_large_after_it_was_loaded_as_before(comfy):
    node = comfy.add("MoCRouting", budget="top-k")
    size = "(id) => [...app.graph.getNodeById(id).size]"
    before = comfy.page.evaluate(size, node)
    for _ in range(2):
        comfy.load(comfy.saved())
    assert comfy.page.evaluate(size, node) == pytest.approx(before, abs=2)


def test_an_input_that_another_takes_the_place_of_is_hidden_while_that_is_connected(comfy):
    apply, routing = comfy.add("MoCApply"), comfy.add("MoCRouting", at=(-300, 100))
    comfy.set(apply, "quality", "fastest")
    assert "quality" in shown(comfy, apply)
    comfy.connect(routing, "routing", apply, "routing")
    assert "quality" not in shown(comfy, apply)
    comfy.reload()
    assert "quality" not in shown(comfy, apply) and comfy.widgets(apply)["quality"] == "fastest"
    comfy.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput(2)", apply)
    assert "quality" in shown(comfy, apply)


def test_the_page_shows_and_hides_the_row(comfy):
    node = comfy.add("MoCRouting")
    comfy.look_at(node, at=(80, 80))
    if comfy.vue:
        assert "top_k" not in labels(comfy, node)
    comfy.set(node, "budget", "top-k")
    comfy.picture("routing by top-k")
    if comfy.vue:
        assert "top_k" in labels(comfy, node) and "density" not in labels(comfy, node)


def test_an_input_that_something_is_wired_to_is_not_hidden(comfy):
    node = comfy.add("MoCShots")
    other = comfy.add("PrimitiveString", at=(-300, 100))
    comfy.connect(other, 0, node, "times")
    comfy.set(node, "how", "equal shots")
    hidden = "(id) => app.graph.getNodeById(id).widgets.filter((w) => w.options.hidden).map((w) => w.name)"
    assert comfy.page.evaluate(hidden, node) == ["unit"]
