"""The pack's nodes and widgets on a page in another language."""

import pytest
from comfy import EMPTY, MODES, Comfy

from tests.tools import locales

NODES = ("MoCShots", "MoCDetectShots", "MoCRouting", "MoCApply", "MoCWindows", "MoCRoutingHeatmap", "MoCProbeReport")
LABEL = "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).label"
CHOICE = """([id, name]) => {
  const { options, value } = app.graph.getNodeById(id).widgets.find((w) => w.name === name)
  return options.getOptionLabel(value)
}"""


@pytest.fixture(scope="module", params=MODES)
def page(request, browser, server, pictures):
    """In Chinese."""
    comfy = Comfy(browser, server, request.param, pictures)
    comfy.settings = {"Comfy.Locale": "zh"}
    comfy.open()
    yield comfy
    comfy.close()


def test_a_page_speaks_the_language_that_was_chosen(page):
    page.load(EMPTY)
    words, ours = locales.read("zh", "nodeDefs"), locales.read("zh", "main")[locales.OURS]
    shots = page.add("MoCShots", times="29, 57", family="Wan")
    assert page.page.evaluate("(id) => app.graph.getNodeById(id).title", shots) == words["MoCShots"]["display_name"]
    assert page.page.evaluate(LABEL, [shots, "shot_count"]) == words["MoCShots"]["inputs"]["shot_count"]["name"]
    assert page.page.evaluate(CHOICE, [shots, "how"]) == ours["choices"]["cuts"]
    assert page.widgets(shots)["how"] == "cuts"  # what is saved
    timeline = page.element(shots, "moc_timeline")
    assert timeline.get_attribute("aria-label") == ours["words"]["Shot timeline"]
    assert ours["words"]["{count} shots."].replace("{count}", "3") in timeline.locator("output").inner_text()
    assert page.errors == []


def test_every_node_can_be_looked_at_in_chinese(page):
    for kind in NODES:
        page.load(EMPTY)
        page.look_at(page.add(kind), at=(80, 130), scale=0.9)
        page.picture(f"{kind} in zh")
    assert page.errors == []


def test_the_language_can_be_changed_on_the_page(page):
    """What the front end looks up follows by itself; our widgets are asked for their words anew."""
    page.load(EMPTY)
    shots = page.add("MoCShots", times="29, 57", family="Wan")
    page.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'ja')")
    ours = locales.read("ja", "main")[locales.OURS]
    page.wait(
        "([id, text]) => app.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'moc_timeline')"
        "?.element.getAttribute('aria-label') === text",
        [shots, ours["words"]["Shot timeline"]],
    )
    assert page.page.evaluate(CHOICE, [shots, "how"]) == ours["choices"]["cuts"]
    assert page.widgets(shots)["times"] == "29, 57"
    page.look_at(shots, at=(80, 130), scale=0.9)
    page.picture("shots in ja")
    assert page.errors == []
