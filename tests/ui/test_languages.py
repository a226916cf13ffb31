"""The pack's nodes and widgets on a page in another language."""

import pytest
from comfy import MODES

from tests.tools import locales

NODES = ("MoCShots", "MoCDetectShots", "MoCRouting", "MoCApply", "MoCWindows", "MoCRoutingHeatmap", "MoCProbeReport")


@pytest.fixture(params=MODES)
def page(request, new_page):
    def opened(language):
        comfy = new_page(request.param)
        comfy.settings = {"Comfy.Locale": language}
        comfy.open()
        return comfy

    return opened


def shown(comfy, node, widget):
    """What a combo box shows for its value."""
    return comfy.page.evaluate(
        """([id, name]) => {
          const { options, value } = app.graph.getNodeById(id).widgets.find((w) => w.name === name)
          return options.getOptionLabel(value)
        }""",
        [node, widget],
    )


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_a_page_speaks_the_language_that_was_chosen(page, language):
    comfy = page(language)
    words, ours = locales.read(language, "nodeDefs"), locales.read(language, "main")[locales.OURS]
    shots = comfy.add("MoCShots", times="29, 57", family="Wan")
    node = "(id) => app.graph.getNodeById(id)"
    assert comfy.page.evaluate(f"(id) => ({node})(id).title", shots) == words["MoCShots"]["display_name"]
    label = f"(id) => ({node})(id).widgets.find((w) => w.name === 'shot_count').label"
    assert comfy.page.evaluate(label, shots) == words["MoCShots"]["inputs"]["shot_count"]["name"]
    assert shown(comfy, shots, "how") == ours["choices"]["cuts"]
    assert comfy.widgets(shots)["how"] == "cuts"  # what is saved stays English
    timeline = comfy.element(shots, "moc_timeline")
    assert timeline.get_attribute("aria-label") == ours["words"]["Shot timeline"]
    assert ours["words"]["{count} shots."].replace("{count}", "3") in timeline.locator("output").inner_text()
    comfy.look_at(shots, at=(60, 60))
    comfy.picture(f"shots in {language}", of=None)
    assert comfy.errors == []


def test_every_node_can_be_looked_at_in_chinese(page):
    comfy = page("zh")
    for kind in NODES:
        comfy.load({"version": 0.4, "last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": []})
        comfy.look_at(comfy.add(kind), at=(60, 60), scale=0.9)
        comfy.picture(f"{kind} in zh")
    assert comfy.errors == []


def test_the_language_can_be_changed_on_the_page(new_page):
    comfy = new_page()
    comfy.open()
    shots = comfy.add("MoCShots")
    comfy.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    words = locales.read("zh", "main")[locales.OURS]["words"]
    comfy.wait(
        "([id, text]) => app.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'moc_timeline')"
        "?.element.getAttribute('aria-label') === text",
        [shots, words["Shot timeline"]],
    )
    assert comfy.errors == []
