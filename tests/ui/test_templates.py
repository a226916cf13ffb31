"""The shipped graphs, opened in the browser."""

from tests.tools import templates

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
