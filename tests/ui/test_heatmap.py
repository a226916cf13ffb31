"""MoC Routing Heatmap and the line on MoC Apply, as a person meets them in ComfyUI's front end."""


import numpy as np

EVERY_SHOT_A_FRAME = "1, 5, 9, 13"  # 17 frames of video are 5 latent frames
READS = {4: 0, 3: 2, 2: 1, 1: 0, 0: 3}  # latent frame: the one its queries fit


def film(comfy, *, reads=READS, steps=2, seconds=0.0, heatmaps=1, seed=1, x=40, images=False, **heatmap):
    """MoC Apply, a sampler and heatmaps on a tiny model whose attention is planted; ids by name."""
    size = {"width": 64, "height": 64, "length": 17}
    ids = {
        "model": comfy.add("MoCTestModel", (x, 40)),
        "shots": comfy.add("MoCShots", (x, 200), times=EVERY_SHOT_A_FRAME),
        "routing": comfy.add(
            "MoCRouting", (x + 320, 200), budget="top-k", top_k=1, chunking="frame", own="frame", causal="off"
        ),
        "apply": comfy.add("MoCApply", (x + 640, 40)),
        "plant": comfy.add(
            "MoCTestPlant", (x + 640, 300), reads=",".join(f"{a}>{b}" for a, b in reads.items()), seconds=seconds
        ),
        "latent": comfy.add("EmptyHunyuanLatentVideo", (x, 420), **size),
        "sampler": comfy.add("KSampler", (x + 960, 300), steps=steps, cfg=1.0, sampler_name="euler", seed=seed),
    }
    for source, output, target, name in (
        ("model", "model", "apply", "model"),
        ("shots", 0, "apply", "shots"),
        ("routing", 0, "apply", "routing"),
        ("apply", 0, "plant", "model"),
        ("plant", 0, "sampler", "model"),
        ("model", 1, "sampler", "positive"),
        ("model", 1, "sampler", "negative"),
        ("latent", 0, "sampler", "latent_image"),
    ):
        comfy.connect(ids[source], output, ids[target], name)
    for i in range(heatmaps):
        node = comfy.add("MoCRoutingHeatmap", (x + 1300 + 520 * i, 40), **heatmap)
        ids["heatmap" if not i else f"heatmap {i + 1}"] = node
        comfy.connect(ids["apply"], 1, node, "trace")
        comfy.connect(ids["sampler"], 0, node, "after_sample")
    if images:
        picture = comfy.add("EmptyImage", (x, 620), width=64, height=64, batch_size=17, color=0x3366AA)
        comfy.connect(picture, 0, ids["heatmap"], "images")
    return ids


class Map:
    """The map on a node: what it holds, and its controls."""

    def __init__(self, comfy, node, scale=1.0):
        comfy.look_at(node, scale=scale)
        self.comfy, self.node = comfy, node
        self.element = comfy.element(node, "moc_map")

    def view(self, expression):
        """Of the HeatmapView behind the element."""
        get = f"(id) => {{ const view = app.graph.getNodeById(id).mocMap; return {expression} }}"
        return self.comfy.page.evaluate(get, self.node)

    def share(self):
        """[R, C] in 0..1, NaN where nothing was to be chosen."""
        told = np.array(self.view("view.map.share"), float)
        return np.where(told < 0, np.nan, told / self.view("view.map.parts"))

    def of_video(self):
        """The share between video rows and columns."""
        rows, columns = ([kind == "video" for kind in self.view(f"view.map.{n}.kind")] for n in ("rows", "columns"))
        return self.share()[np.ix_(rows, columns)]

    def slide(self, label, value):
        slider = self.element.get_by_label(label, exact=True)
        slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input', { bubbles: true })) }", str(value))
        self.comfy.page.wait_for_timeout(50)
        self.comfy.wait("(id) => !app.graph.getNodeById(id).mocMap.asking", self.node)

    def show(self, view):
        self.element.get_by_label(view, exact=True).check(force=True)
        self.comfy.settle()

    def place(self, row, column):
        """Where a cell lies on the canvas, in the canvas's own pixels."""
        drawn = self.view("view.drawn.cells")
        middle = [(e[i] + e[i + 1]) / 2 for e, i in ((drawn["x"], column), (drawn["y"], row))]
        return drawn["plot"]["x"] + middle[0], drawn["plot"]["y"] + middle[1]

    def point(self, row, column, click=False):
        x, y = self.place(row, column)
        canvas = self.element.locator("canvas")
        position = {"x": x * self.scale(), "y": y * self.scale()}
        canvas.click(position=position) if click else canvas.hover(position=position)

    def scale(self):
        return self.element.locator("canvas").evaluate("(c) => c.getBoundingClientRect().width / c.clientWidth")

    def said(self):
        return self.element.locator("output").inner_text()

    def status(self):
        return self.element.get_by_role("status").inner_text()


def test_an_unused_heatmap_says_what_to_do(comfy):
    shown = Map(comfy, comfy.add("MoCRoutingHeatmap"))
    assert shown.element.get_by_text("Run the workflow to see which frames read which.").is_visible()
    assert not shown.element.get_by_role("button", name="Save PNG").is_visible()
    comfy.picture("heatmap unused")


def test_what_was_planted_is_what_the_map_shows(comfy):
    """Shot 5 must read shot 1, and so on: one bright cell in every row, everything else dark, the own frame always."""
    ids = film(comfy, view="shots")
    comfy.run()
    shown = Map(comfy, ids["heatmap"])
    expected = np.zeros((5, 5))
    expected[list(READS), list(READS.values())] = 1
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(shown.of_video(), expected)
    shown.point(4, 0)
    assert shown.said() == "Shot 5 reads shot 1: 100 % chosen."
    shown.point(4, 2)
    assert shown.said() == "Shot 5 reads shot 3: 0 % chosen."
    shown.point(2, 2)
    assert shown.said() == "Shot 3 reads shot 3: always seen."
    shown.show("Flow")
    arcs = shown.view("view.drawn.flow.spots.map((s) => [s.reader, s.read, s.share])")
    assert sorted(arcs) == [[reader, read, 1] for reader, read in sorted(READS.items())]
    comfy.picture("heatmap planted flow", shown.element)
