"""The shipped graphs and blueprints, opened in the browser."""

import json

import pytest

from tests.tools import blueprints, templates

UNKNOWN = "() => app.graph.nodes.filter((n) => !LiteGraph.registered_node_types[n.type]).map((n) => n.type)"
VALUES = "() => app.graph.nodes.filter((n) => /^MoC/.test(n.type)).map((n) => [n.type, n.serialize().widgets_values])"
FIT = """() => {
  const [xs, ys] = [0, 1].map((i) => app.graph.nodes.flatMap((n) => [n.pos[i], n.pos[i] + n.size[i]]))
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)]
  const scale = Math.min(1180 / (right - left), 740 / (bottom - top))
  app.canvas.ds.scale = scale
  app.canvas.ds.offset = [80 / scale - left, 100 / scale - top]
  app.canvas.setDirty(true, true)
}"""


def test_every_template_opens_without_unknown_nodes_and_with_its_values(comfy):
    for name in templates.TEMPLATES:
        path = templates.FOLDER / f"{name}.json"
        comfy.load(path)
        assert comfy.page.evaluate(UNKNOWN) == [], name
        opened = comfy.page.evaluate(VALUES)
        comfy.load(comfy.saved())
        assert comfy.page.evaluate(VALUES) == opened, name
        comfy.page.evaluate(FIT)
        comfy.picture(f"template {name}")


INNER = """(kind) => {
  const { subgraph } = app.graph.nodes.find((n) => n.subgraph)
  window.mocInner = subgraph.nodes.find((n) => n.comfyClass === kind)
  return [app.graph.nodes.find((n) => n.subgraph).id, subgraph.nodes.map((n) => n.comfyClass)]
}"""


@pytest.mark.parametrize("name", blueprints.BLUEPRINTS)
def test_a_blueprint_is_offered_and_runs(comfy, name):
    offered = comfy.server.get("/global_subgraphs").values()
    assert name in [one["name"] for one in offered if one["source"] == "custom_node"]
    comfy.load(blueprints.FOLDER / f"{name}.json")
    whole, inside = comfy.page.evaluate(INNER, "MoCApply")
    assert "MoCShots" in inside and comfy.page.evaluate(UNKNOWN) == []
    (saved,) = json.loads((blueprints.FOLDER / f"{name}.json").read_text("utf-8"))["nodes"]
    assert {widget for _, widget in saved["properties"]["proxyWidgets"]} <= set(comfy.widgets(whole))
    comfy.set(whole, "times", "9")
    model, latent = comfy.add("MoCTestModel", at=(-400, 0)), comfy.add("EmptyHunyuanLatentVideo", at=(-400, 300))
    for widget, value in (("width", 64), ("height", 64), ("length", 33)):
        comfy.set(latent, widget, value)
    comfy.connect(model, 0, whole, "model")
    sampler = whole
    if name == "MoC Shots with Prompts":
        clip, sampler = comfy.add("MoCTestClip", at=(-400, 150)), comfy.add("KSampler", at=(700, 0))
        comfy.set(whole, "prompt", "a dog [shot cut] a cat")
        comfy.connect(clip, 0, whole, "clip")
        comfy.connect(whole, "model", sampler, "model")
        comfy.connect(whole, "positive", sampler, "positive")
    else:
        comfy.connect(model, 1, whole, "positive")
    comfy.connect(model, 1, sampler, "negative")
    comfy.connect(latent, 0, sampler, "latent_image")
    comfy.set(sampler, "steps", 2)
    shown = comfy.add("PreviewAny", at=(1100, 0))
    comfy.connect(sampler, 0, shown, "source")
    comfy.run()
    comfy.picture(f"blueprint {name}")
    line = "() => window.mocInner.widgets.find((w) => w.name === 'moc_report').element.textContent"
    assert comfy.page.evaluate(line).startswith("MoC on: 3 of 3 blocks")
