"""MoC Routing Heatmap and the line on MoC Apply, as a person meets them in ComfyUI's front end."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from moc.trace.axes import Axes, Column
from moc.trace.bank_reads import BankAxes, BankRecord
from moc.trace.cells import Line
from moc.trace.export import of_heatmap, of_trace
from moc.trace.heatmap import heatmap
from moc.trace.trace import Record, Trace

EVERY_SHOT_A_FRAME = "1, 5, 9, 13"  # 17 frames of video are 5 latent frames
READS = {4: 0, 3: 2, 2: 1, 1: 0, 0: 3}  # latent frame: the one its queries fit


def film(comfy, *, reads=READS, steps=2, seconds=0.0, heatmaps=1, seed=1, y=0, images=False, **heatmap):
    """MoC Apply, a sampler and heatmaps on a tiny model whose attention is planted; ids by name."""
    size, x = {"width": 64, "height": 64, "length": 17}, 40
    ids = {
        "model": comfy.add("MoCTestModel", (x, y + 40)),
        "shots": comfy.add("MoCShots", (x, y + 200), times=EVERY_SHOT_A_FRAME),
        "routing": comfy.add(
            "MoCRouting", (x + 320, y + 200), budget="top-k", top_k=1, chunking="frame", own="frame", causal="off"
        ),
        "apply": comfy.add("MoCApply", (x + 640, y + 40)),
        "plant": comfy.add(
            "MoCTestPlant", (x + 640, y + 300), reads=", ".join(f"{a}>{b}" for a, b in reads.items()), seconds=seconds
        ),
        "latent": comfy.add("EmptyHunyuanLatentVideo", (x, y + 420), **size),
        "sampler": comfy.add("KSampler", (x + 960, y + 300), steps=steps, cfg=1.0, sampler_name="euler", seed=seed),
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
        node = comfy.add("MoCRoutingHeatmap", (x + 1300 + 520 * i, y + 40), **heatmap)
        ids["heatmap" if not i else f"heatmap {i + 1}"] = node
        comfy.connect(ids["apply"], 1, node, "trace")
        comfy.connect(ids["sampler"], 0, node, "after_sample")
    if images:
        picture = comfy.add("EmptyImage", (x, y + 620), width=64, height=64, batch_size=17, color=0x3366AA)
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
        return self.element.locator(".status").inner_text()


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


def test_the_sliders_choose_step_block_and_head(comfy):
    """Nothing planted: every step, block and head differs. The file with every record is the truth."""
    ids = film(comfy, reads={}, steps=3)
    comfy.run()
    shown = Map(comfy, ids["heatmap"])
    answer = comfy.page.request.get(f"{comfy.server.url}/moc/npz/{shown.view('view.info.trace')}")
    kept = np.load(io.BytesIO(answer.body()))
    share = {(step, block): s for step, block, s in zip(kept["step_0"], kept["block_0"], kept["share_0"])}
    every = np.mean(list(share.values()), 0)

    def check(expected, **widgets):
        expected = np.where(kept["always_0"] > 0, np.nan, expected)
        np.testing.assert_allclose(shown.share(), expected, atol=2e-3)
        assert {name: comfy.widgets(ids["heatmap"])[name] for name in widgets} == widgets

    check(every.mean(0), block=-1, head=-1, first_step=0, last_step=-1)
    shown.slide("Block", 3)
    check(np.mean([s for (_, block), s in share.items() if block == 2], (0, 1)), block=2)
    shown.slide("Step", 2)
    check(share[1, 2].mean(0), first_step=1, last_step=1)
    shown.slide("Head", 1)
    check(share[1, 2][0], head=0)
    assert "step 1, block 2, head 0" in shown.said()
    shown.slide("to step", 2)
    check(np.mean([share[1, 2][0], share[2, 2][0]], 0), last_step=2)
    for name in ("Step", "Block", "Head"):
        shown.slide(name, 0)
    check(every.mean(0), block=-1, head=-1, first_step=0, last_step=-1)


def test_the_map_fills_while_the_sampler_works(comfy):
    ids = film(comfy, steps=5, seconds=0.4, seed=2)
    shown, line = Map(comfy, ids["heatmap"], scale=0.5), comfy.element(ids["apply"], "moc_report")
    comfy.page.evaluate(
        """([id, apply]) => {
          const [map, line] = [id, apply].map((n, i) => app.graph.getNodeById(n)
            .widgets.find((w) => w.name === ['moc_map', 'moc_report'][i]).element.querySelector('[role=status]'))
          window.mocSaid = [[], []]
          const look = () => [map, line].forEach((e, i) => window.mocSaid[i].at(-1) !== e.textContent
            && window.mocSaid[i].push(e.textContent))
          new MutationObserver(look).observe(map, { childList: true, subtree: true, characterData: true })
        }""",
        [ids["heatmap"], ids["apply"]],
    )
    comfy.run()
    for said in comfy.page.evaluate("() => window.mocSaid"):
        steps = [text.partition(".")[0] for text in said if text.startswith("Step")]
        assert steps == sorted(set(steps)) and len(steps) >= 4 and steps[0] == "Step 1 of 5"
        assert "MoC on: 3 of 3 blocks routed, 40.0% of pairs kept." in said[0]
    done = "MoC on: 3 of 3 blocks routed, 40.0% of pairs kept."
    assert shown.status() == done
    comfy.look_at(ids["apply"])
    assert line.get_by_role("status").inner_text() == done


def test_a_reloaded_page_shows_the_last_run(comfy):
    ids = film(comfy, view="shots", seed=3)
    comfy.run()
    before = Map(comfy, ids["heatmap"])
    before.slide("Block", 2)
    share, status = before.share(), before.status()
    comfy.reload()
    comfy.wait("(id) => app.graph.getNodeById(id).mocMap.map", ids["heatmap"])
    after = Map(comfy, ids["heatmap"])
    assert comfy.widgets(ids["heatmap"])["block"] == 1 and comfy.widgets(ids["heatmap"])["view"] == "shots"
    np.testing.assert_allclose(after.share(), share)
    assert after.status() == status
    comfy.look_at(ids["apply"])
    assert comfy.element(ids["apply"], "moc_report").get_by_role("status").inner_text() == status


def test_the_map_is_saved_as_picture_table_and_arrays(comfy, tmp_path):
    ids = film(comfy, view="shots", seed=4)
    comfy.run()
    shown = Map(comfy, ids["heatmap"])

    def saved(kind):
        with comfy.page.expect_download() as download:
            shown.element.get_by_role("button", name=f"Save {kind}").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    with Image.open(saved("PNG")) as image:
        assert image.size == (1800, 1520) and len(image.getcolors(2**20)) > 100
    rows = list(csv.DictReader(saved("CSV").open(newline="")))
    chosen = {(int(r["reader_shot"]) - 1, int(r["read_shot"]) - 1) for r in rows if float(r["chosen"] or 0) == 1}
    assert len(rows) == 25 and chosen == set(READS.items())
    arrays = np.load(saved("NPZ"))
    assert arrays["share_0"].shape == (6, 2, 5, 5) and sorted(arrays["step_0"]) == [0, 0, 0, 1, 1, 1]


def test_two_films_in_one_graph_keep_apart(comfy):
    """Two models, each with its own map, and a second map of the first film in another view."""
    one = film(comfy, view="shots", heatmaps=2, seed=5)
    other = film(comfy, reads={4: 3, 3: 4, 2: 0, 1: 2, 0: 1}, view="shots", seed=6, y=1000)
    comfy.set(one["heatmap 2"], "view", "flow")
    comfy.run()
    first, second = Map(comfy, one["heatmap"]).of_video(), Map(comfy, other["heatmap"]).of_video()
    assert first[4, 0] == 1 and first[4, 3] == 0 and second[4, 3] == 1 and second[4, 0] == 0
    flow = Map(comfy, one["heatmap 2"])
    assert [4, 0] in flow.view("view.drawn.flow.spots.map((s) => [s.reader, s.read])")


def test_a_chosen_row_shows_what_it_reads_over_the_frames(comfy):
    ids = film(comfy, images=True, seed=7)
    comfy.set(ids["shots"], "times", "9")
    comfy.run()
    shown = Map(comfy, ids["heatmap"])
    strip = shown.element.locator(".strip")
    assert not strip.is_visible()
    shown.point(4, 2, click=True)
    assert strip.get_attribute("aria-label") == "Shot 2, frame 4 reads"
    assert [item.replace("\n", " ") for item in strip.locator("li").all_inner_texts()] == [
        *("0 100 %", "1 0 %", "2 0 %", "3 0 %", "4 always")
    ]
    comfy.picture("heatmap frames", shown.element)
    drawn = """async (item) => {
      const image = new Image()
      image.src = getComputedStyle(item).backgroundImage.slice(5, -2)
      await image.decode()
      return [image.naturalWidth, image.naturalHeight]
    }"""
    assert strip.locator("li").first.evaluate(drawn) == [5 * 72, 72]
    shown.show("Shots")  # has no fifth row
    assert not strip.is_visible()
    shown.show("Frames")
    shown.point(4, 2, click=True)
    assert strip.is_visible()
    shown.point(4, 2, click=True)
    assert not strip.is_visible()


def test_the_map_is_read_with_the_keyboard(comfy):
    ids = film(comfy, view="shots", seed=8)
    comfy.run()
    shown = Map(comfy, ids["heatmap"])
    canvas = shown.element.locator("canvas")
    canvas.focus()
    for key in ("ArrowDown", *["ArrowDown"] * 4):
        canvas.press(key)
    assert shown.said() == "Shot 5 reads shot 1: 100 % chosen."
    canvas.press("ArrowRight")
    assert shown.said() == "Shot 5 reads shot 2: 0 % chosen."
    canvas.press("Enter")
    assert shown.element.locator(".strip").is_visible()
    canvas.press("Escape")
    assert not shown.element.locator(".strip").is_visible()
    assert comfy.page.evaluate("() => app.graph.nodes.length") == len(ids)  # Delete and co. stay away from the graph
    shown.show("Flow")
    canvas.focus()
    canvas.press("ArrowRight")
    canvas.press("ArrowRight")
    assert shown.said() == "Shot 2 reads shot 1: 100 %."


def test_the_report_of_moc_apply_is_saved_as_json(comfy, tmp_path):
    ids = film(comfy, seed=9)
    comfy.run()
    comfy.look_at(ids["apply"])
    report = comfy.element(ids["apply"], "moc_report")
    report.get_by_role("status").click()
    assert report.get_by_text("6 of 6 self-attention calls routed").is_visible()
    with comfy.page.expect_download() as download:
        report.get_by_role("button", name="Save JSON").click()
    download.value.save_as(tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert told["routed_calls"] == 6 and told["density"] == pytest.approx(0.4, abs=1e-3) and told["dense_calls"] == {}
    comfy.picture("report")


def test_a_cancelled_run_says_so_and_the_next_one_is_whole(comfy):
    ids = film(comfy, steps=20, seconds=0.3, seed=10, view="shots")
    shown = Map(comfy, ids["heatmap"])
    prompt = comfy.queue()
    comfy.wait("(id) => app.graph.getNodeById(id).mocMap.info?.step >= 1", ids["heatmap"])
    comfy.server.interrupt()
    comfy.wait("(id) => window.mocEnded.has(id)", prompt)
    comfy.wait("(id) => app.graph.getNodeById(id).mocMap.info.running === false", ids["heatmap"])
    assert shown.status().startswith("Stopped. MoC on")
    for name, value in (("steps", 2), ("seed", 11)):
        comfy.set(ids["sampler"], name, value)
    comfy.set(ids["plant"], "seconds", 0)
    comfy.run()
    assert shown.status() == "MoC on: 3 of 3 blocks routed, 40.0% of pairs kept."
    assert shown.of_video()[4, 0] == 1


def joint_trace():
    """Text before the video, a reference behind it, causal routing of three shots, a pair that never met."""
    columns = [Column("text", -1, -1, True, 7), *(Column("video", s, s, False) for s in range(3))]
    columns.append(Column("reference", -1, -1, False, 4))
    always, able = torch.zeros(3, 5), torch.zeros(3, 5)
    always[:, 0] = 1
    for shot in range(3):
        always[shot, 1 + shot] = 1
        able[shot, 1 : 1 + shot] = able[shot, 4] = 1
    axes = Axes((0, 1, 2), (0, 1, 2), tuple(columns), always, able)
    share = torch.zeros(1, 3, 5)
    share[0, 1, 1], share[0, 2, 1], share[0, 2, 2], share[0, :, 4] = 0.8, 0.3, 0.6, 0.5
    return Trace([Record(0, 0, axes, share, 0.5, mass=share / 2 + always / 4)], steps=1, blocks=1)


def test_text_references_and_causality_are_told_apart(comfy):
    node, trace = comfy.add("MoCRoutingHeatmap", view="shots"), joint_trace()
    maps = {view: of_heatmap(heatmap(trace, view)) for view in ("frames", "shots")}
    told = json.loads(json.dumps({**of_trace(trace), "maps": maps}))
    comfy.page.evaluate("([id, told]) => app.graph.getNodeById(id).mocMap.tell(told)", [node, told])
    shown = Map(comfy, node)
    for cell, sentence in {
        (1, 1): "Shot 1 reads shot 1: always seen, 25 % of full attention.",
        (1, 2): "Shot 1 reads shot 2: not allowed, it comes later, 0 % of full attention.",
        (3, 1): "Shot 3 reads shot 1: 30 % chosen, 15 % of full attention.",
        (2, 0): "Shot 2 reads text: always seen, 25 % of full attention.",
        (2, 4): "Shot 2 reads reference: 50 % chosen, 25 % of full attention.",
        (0, 2): "Text reads shot 2: always seen.",
    }.items():
        shown.point(*cell)
        assert shown.said() == sentence
    assert shown.element.locator(".legend").inner_text().split("\n") != [""]
    comfy.picture("heatmap joint", shown.element)
    shown.show("Attention")
    shown.point(3, 1)
    assert shown.view("view.show") == "attention"
    comfy.picture("heatmap attention", shown.element)


def test_what_was_read_in_the_bank_is_a_map_and_dashed_arcs(comfy):
    trace = joint_trace()
    rows = tuple(Line("video", shot, shot) for shot in range(3))
    kept = (Line("video", 0, 0), Line("memory", -1, 20, name="anna"))
    mass = torch.tensor([[[float("nan"), 0.1], [0.2, 0.05], [0.1, 0.31]]])
    trace.reads = [BankRecord(0, 0, BankAxes(rows, kept), mass)]
    maps = {view: of_heatmap(heatmap(trace, view)) for view in ("frames", "shots", "bank")}

    node = comfy.add("MoCRoutingHeatmap", view="shots")

    def tell(maps):
        told = json.loads(json.dumps({**of_trace(trace), "maps": maps}))
        comfy.page.evaluate("([id, told]) => app.graph.getNodeById(id).mocMap.tell(told)", [node, told])

    tell(maps)
    shown = Map(comfy, node)
    shown.show("Bank")
    for cell, sentence in {
        (2, 1): "Shot 3 gives 31 % of its attention to anna, through the bank.",
        (1, 0): "Shot 2 gives 20 % of its attention to shot 1, through the bank.",
        (0, 0): "Shot 1 does not read shot 1 in the bank.",
    }.items():
        shown.point(*cell)
        assert shown.said() == sentence
    comfy.picture("heatmap bank", shown.element)
    shown.show("Flow")
    shown.element.locator("canvas").press("ArrowRight")
    for _ in range(3):
        shown.element.locator("canvas").press("ArrowRight")
    assert "Shot 3 gives 31 % of its attention to anna, through the bank." in shown.said()
    assert "Shot 3 reads shot 1: 30 %." in shown.said()
    comfy.picture("heatmap bank flow", shown.element)
    tell({"bank": maps["bank"]})
    shown.point(2, 1)
    assert "to anna" in shown.said(), "where everything ran dense, the bank is what there is to see"


def test_every_word_stands_out_from_the_node(comfy):
    """At least 4.5 : 1 on the grey of a node (WCAG 2.1, 1.4.3)."""
    ids = film(comfy, seed=12)
    comfy.run()
    colours = Map(comfy, ids["heatmap"]).element.evaluate(
        """(element) => {
          const pen = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
          return ['.status', '.legend', 'output', '.sliders label', '.sliders span', 'button'].map((part) => {
            pen.fillStyle = '#353535'
            pen.fillRect(0, 0, 1, 1)
            pen.fillStyle = getComputedStyle(element.querySelector(part)).color
            pen.fillRect(0, 0, 1, 1)
            return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)
          })
        }"""
    )
    light = (np.array([*colours, [0x35] * 3]) / 255) ** 2.2 @ [0.2126, 0.7152, 0.0722] + 0.05
    assert (light[:-1] / light[-1]).min() >= 4.5


def test_a_map_inside_a_subgraph_fills_too(comfy):
    ids = film(comfy, seed=13)
    inner = comfy.page.evaluate(
        """(ids) => {
          const { subgraph } = app.graph.convertToSubgraph(new Set(ids.map((id) => app.graph.getNodeById(id))))
          window.mocInner = subgraph.nodes.find((node) => node.comfyClass === 'MoCRoutingHeatmap')
          return subgraph.nodes.length
        }""",
        [ids["heatmap"]],
    )
    assert inner == 1
    comfy.run()
    comfy.wait("() => window.mocInner.mocMap?.map && !window.mocInner.mocMap.info.running")
    assert comfy.page.evaluate("() => window.mocInner.mocMap.info.status").startswith("MoC on: 3 of 3 blocks")


def test_the_colours_rise_evenly_in_lightness(comfy):
    """So that their order shows without full colour vision, and in print."""
    light = comfy.page.evaluate(
        """async () => {
          const { colour } = await import('/extensions/mixture-of-contexts/heatmap/data.js')
          return Array.from({ length: 21 }, (_, i) => colour(i / 20).match(/\\d+/g).map(Number))
        }"""
    )
    linear = (np.array(light) / 255) ** 2.2
    steps = np.diff(116 * (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3))
    assert steps.min() > 0.5 * steps.mean()


@pytest.mark.parametrize(("kind", "widget"), [("MoCRoutingHeatmap", "moc_map"), ("MoCApply", "moc_report")])
def test_undo_leaves_the_live_node_on_the_page(comfy, kind, widget):
    """The front end replaces the node by a new one of the same number; what is shown must be the new one's."""
    node = comfy.add(kind)
    comfy.element(node, widget)
    comfy.page.wait_for_timeout(200)  # what happens within 50 ms newer front ends take for one step
    comfy.add("MoCRouting", at=(700, 120))
    comfy.undo()
    assert comfy.element(node, widget).is_visible()
