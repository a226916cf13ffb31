"""The timeline on MoC Shots, in a person's hands: what is done there stands in the node's text inputs, and back."""

import re

import pytest
from comfy import MODES

PROMPT = '[global] A red-haired woman.\n[shot 1] She walks.\n[shot 2 "rain"] Rain on her face.\n[shot 3] She runs.'


class Timeline:
    """One MoC Shots node and its timeline."""

    def __init__(self, comfy, **widgets):
        self.comfy = comfy
        self.node = comfy.add("MoCShots", **{"times": "29, 57", "length": 81, "family": "Wan", **widgets})
        comfy.look_at(self.node, at=(100, 60))
        self.find()

    def find(self):
        self.element = self.comfy.element(self.node, "moc_timeline")
        self.track = self.element.locator(".track")
        self.cuts = self.element.get_by_role("slider")
        self.status = self.element.locator("output")

    def widgets(self, *names):
        values = self.comfy.widgets(self.node)
        return values[names[0]] if len(names) == 1 else {name: values[name] for name in names}

    def at(self, frame, shown=81):
        """Where a frame is on the page."""
        box = self.track.bounding_box()
        return box["x"] + box["width"] * frame / shown, box["y"] + box["height"] / 2

    def drag(self, cut, frame, through=()):
        mouse = self.comfy.page.mouse
        box = self.cuts.nth(cut).bounding_box()
        mouse.move(box["x"] + box["width"] / 2, box["y"] + 25)
        mouse.down()
        for stop in (*through, frame):
            mouse.move(*self.at(stop), steps=4)
        mouse.up()
        self.comfy.settle()

    def press(self, cut, *keys):
        self.cuts.nth(cut).focus()
        for key in keys:
            self.comfy.page.keyboard.press(key)
        self.comfy.settle()

    def drawn(self):
        """The frames of the cuts as the timeline says them."""
        return [int(self.cuts.nth(i).get_attribute("aria-valuenow")) for i in range(self.cuts.count())]

    def undo(self):
        self.comfy.undo()
        self.find()

    def redo(self):
        self.comfy.redo()
        self.find()


@pytest.fixture
def timeline(comfy):
    return lambda **widgets: Timeline(comfy, **widgets)


def steps(comfy):
    """How many steps undo can take back."""
    return comfy.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length")


def test_a_dragged_cut_snaps_and_is_written_once(comfy, timeline):
    shots = timeline()
    before = steps(comfy)
    shots.drag(0, 38.2, through=(70, 3))
    assert (shots.widgets("times"), shots.drawn()) == ("37, 57", [37, 57])
    assert steps(comfy) == before + 1


def test_while_a_cut_is_dragged_the_snap_shows_and_nothing_is_written(comfy, timeline):
    shots = timeline()
    box = shots.cuts.nth(0).bounding_box()
    comfy.page.mouse.move(box["x"] + 8, box["y"] + 25)
    comfy.page.mouse.down()
    comfy.page.mouse.move(*shots.at(40), steps=3)
    assert shots.status.inner_text() == "Cut 1: frame 41 (2.56 s), latent frame 11."
    assert shots.element.locator(".typed").count() == 1
    assert shots.widgets("times") == "29, 57"
    comfy.picture("timeline dragged", shots.element)
    comfy.page.keyboard.press("Escape")
    comfy.page.mouse.up()
    assert (shots.widgets("times"), shots.drawn()) == ("29, 57", [29, 57])


def test_a_double_click_adds_a_cut_and_takes_it_away(timeline):
    shots = timeline()
    shots.comfy.page.mouse.dblclick(*shots.at(69))
    assert shots.widgets("times") == "29, 57, 69"
    assert shots.cuts.nth(2).evaluate("(cut) => cut === document.activeElement")
    shots.cuts.nth(1).dblclick()
    assert shots.widgets("times") == "29, 69"


def test_the_keyboard_moves_adds_and_removes_cuts(timeline):
    shots = timeline()
    shots.press(0, "ArrowRight")
    assert shots.widgets("times") == "33, 57"
    shots.press(0, "ArrowLeft", "ArrowLeft")
    assert shots.widgets("times") == "25, 57"
    shots.press(1, "End")
    assert shots.widgets("times") == "25, 77"
    shots.press(0, "Enter")
    assert shots.widgets("times") == "25, 49, 77"
    shots.press(1, "Delete")
    assert shots.widgets("times") == "25, 77"
    shots.press(0, "Tab")
    assert shots.cuts.nth(1).evaluate("(cut) => cut === document.activeElement")


def test_a_held_arrow_key_is_one_step_for_undo(comfy, timeline):
    shots = timeline()
    before = steps(comfy)
    shots.cuts.nth(0).focus()
    for _ in range(3):
        comfy.page.keyboard.down("ArrowRight")
    comfy.page.keyboard.up("ArrowRight")
    assert shots.widgets("times") == "41, 57"
    assert steps(comfy) == before + 1


def test_delete_on_a_cut_does_not_delete_the_node(comfy, timeline):
    shots = timeline()
    comfy.page.evaluate("(id) => app.canvas.selectNode(app.graph.getNodeById(id))", shots.node)
    shots.press(0, "Delete")
    assert shots.widgets("times") == "57"


def test_undo_and_redo_take_the_timeline_along(timeline):
    shots = timeline()
    shots.drag(0, 41)
    shots.press(1, "Delete")
    assert shots.widgets("times") == "41"
    shots.undo()
    assert (shots.widgets("times"), shots.drawn()) == ("41, 57", [41, 57])
    shots.undo()
    assert (shots.widgets("times"), shots.drawn()) == ("29, 57", [29, 57])
    shots.redo()
    assert (shots.widgets("times"), shots.drawn()) == ("41, 57", [41, 57])


def test_undo_leaves_the_focus_where_it_was(timeline):
    shots = timeline()
    shots.press(1, "ArrowRight")
    shots.undo()
    assert (shots.widgets("times"), shots.drawn()) == ("29, 57", [29, 57])
    shots.comfy.page.keyboard.press("ArrowLeft")
    assert shots.widgets("times") == "29, 53"


def test_shots_are_named_and_described(timeline):
    shots = timeline()
    shots.element.get_by_label("Name of shot 2").fill("the door")
    shots.element.get_by_label("What happens in shot 1").fill("She walks.")
    shots.element.get_by_label("What belongs to all shots").fill("A woman.")
    assert shots.widgets("prompt") == '[global] A woman.\n[shot 1] She walks.\n[shot 2 "the door"]\n[shot 3]'
    assert "2 the door" in shots.track.inner_text()
    shots.cuts.nth(0).focus()  # leaving a field is one step
    shots.undo()
    assert shots.widgets("prompt") == '[shot 1] She walks.\n[shot 2 "the door"]\n[shot 3]'


def test_a_text_that_is_not_a_shots_stays_in_its_field_and_says_why(timeline):
    shots = timeline(prompt=PROMPT)
    field = shots.element.get_by_label("What happens in shot 1")
    field.fill("She [shot cut] walks.")
    field.blur()
    assert shots.widgets("prompt") == PROMPT
    assert "make shots of their own" in shots.status.inner_text()
    assert (field.input_value(), field.get_attribute("aria-invalid")) == ("She [shot cut] walks.", "true")


def test_typing_into_the_inputs_moves_the_timeline(comfy, timeline):
    shots = timeline(prompt=PROMPT)
    comfy.set(shots.node, "times", "30, 61")
    assert shots.drawn() == [29, 61]
    assert "it moves cut 1 from frame 30 to 29" in shots.status.inner_text()
    comfy.set(shots.node, "family", "LTX-Video")
    assert shots.drawn() == [33, 57]
    comfy.set(shots.node, "times", "61, 30")
    assert "put the cuts in order" in shots.status.inner_text()


def test_the_length_snaps_and_says_so(timeline):
    shots = timeline(length=0)
    field = shots.element.get_by_label("Length of the video")
    field.fill("80")
    field.press("Enter")
    assert shots.widgets("length") == 81
    assert "80 frames became 81" in shots.status.inner_text()
    shots.comfy.set(shots.node, "times", "33")
    assert shots.status.inner_text() == "2 shots. Wan makes videos of 4n+1 frames."


def test_saved_and_reloaded_with_the_workflow(comfy, timeline):
    shots = timeline(prompt=PROMPT)
    shots.drag(1, 65)
    expected = shots.widgets("how", "times", "prompt", "length", "family")
    comfy.reload()
    comfy.look_at(shots.node, at=(100, 60))
    shots.find()
    assert shots.widgets("how", "times", "prompt", "length", "family") == expected
    assert shots.drawn() == [29, 65]
    assert shots.element.get_by_label("Name of shot 2").input_value() == "rain"


def test_a_run_uses_what_the_timeline_says(comfy, timeline):
    shots = timeline(prompt=PROMPT)
    shots.drag(0, 41)
    shown = comfy.add("PreviewAny", at=(700, 120))
    comfy.connect(shots.node, "summary", shown, "source")
    assert comfy.run().outputs[str(shown)]["text"] == ["3 shots, frames 0-40, 41-56, 57-80."]


MARKED = "[shot 1: 37f] a\n[shot 2: 16f] b\n[shot 3] c"


@pytest.mark.parametrize(
    "widgets, written",
    [
        ({"how": "durations", "times": "29, 28, 24"}, {"times": "37, 20, 24"}),
        ({"how": "equal shots"}, {"how": "cuts", "times": "37, 53"}),
        ({"how": "prompt", "times": "", "prompt": "[cut] a [cut] b [cut] c"}, {"prompt": MARKED}),
        ({"how": "prompt", "times": "1s 3s 1.06s", "prompt": "a | b | c"}, {"times": "2.3s, 1.7s, 1.06s"}),
    ],
    ids=["durations", "equal shots", "prompt", "prompt with times"],
)
def test_however_the_shots_are_said_a_run_makes_what_the_timeline_draws(comfy, timeline, widgets, written):
    shots = timeline(**widgets)
    shots.drag(0, 37)
    assert {name: shots.widgets(name) for name in written} == written
    shown = comfy.add("PreviewAny", at=(700, 120))
    comfy.connect(shots.node, "summary", shown, "source")
    first, second = shots.drawn()
    told = f"3 shots, frames 0-{first - 1}, {first}-{second - 1}, {second}"
    assert comfy.run().outputs[str(shown)]["text"][0].startswith(told)
    assert first == 37


def test_detected_shots_are_taken_over_after_a_run(comfy, timeline):
    shots = timeline(fps=24 if comfy.vue else 16)  # not the other mode's run: the server would tell nothing again
    found = comfy.add("MoCShots", at=(100, 900), times="13, 33, 61", length=81)
    shown = comfy.add("PreviewAny", at=(700, 120))
    comfy.connect(found, "shots", shots.node, "detected")
    comfy.connect(shots.node, "summary", shown, "source")
    comfy.run()
    comfy.reload()  # nothing changed: the server would not tell it again
    comfy.look_at(shots.node, at=(100, 60))
    shots.find()
    comfy.picture("timeline detected", shots.element)
    shots.element.get_by_role("button", name=re.compile("Use the 4 detected shots")).click()
    assert (shots.widgets("times"), shots.drawn()) == ("13, 33, 61", [13, 33, 61])
    shots.undo()
    assert shots.widgets("times") == "29, 57"


def test_an_input_from_another_node_is_shown_after_a_run_and_not_changed(comfy, timeline):
    shots = timeline()
    text = comfy.add("PrimitiveString", at=(100, 900), value="13 41" if comfy.vue else "13, 41")
    comfy.connect(text, 0, shots.node, "times")
    shown = comfy.add("PreviewAny", at=(700, 120))
    comfy.connect(shots.node, "summary", shown, "source")
    assert "times comes from another node: run once" in shots.status.inner_text()
    comfy.run()
    assert shots.drawn() == [13, 41]
    shots.press(0, "ArrowRight", "Delete")
    assert shots.drawn() == [13, 41]
    assert shots.cuts.nth(0).get_attribute("aria-disabled") == "true"


def test_it_is_named_for_those_who_hear_it(timeline):
    shots = timeline(prompt=PROMPT)
    assert shots.element.get_attribute("aria-label") == "Shot timeline"
    cut = shots.cuts.nth(0)
    said = [cut.get_attribute(f"aria-{name}") for name in ("label", "valuemin", "valuemax", "valuetext")]
    assert said == ["Cut 1", "1", "53", "frame 29 (1.8 s), shot 2 rain begins"]


FILM = """[global] A red-haired woman in a yellow raincoat.
[shot 1 "harbour"] She walks along the quay, gulls overhead.
[shot 2 "rain"] Close-up: rain on her face.
[shot 3 "lane"] From behind: she runs down a narrow lane.
[shot 4 "door"] She knocks; warm light falls on her."""


@pytest.mark.parametrize("mode", MODES)
def test_in_a_light_theme_and_with_many_shots_everything_fits(new_page, mode):
    """Also the picture of the help page."""
    comfy = new_page(mode, viewport={"width": 1000, "height": 1000}, device_scale_factor=1.5)
    comfy.open()
    shots = Timeline(comfy, times="29, 58, 93", length=121, prompt=FILM)
    comfy.page.evaluate("(id) => { const n = app.graph.getNodeById(id); n.setSize([620, n.size[1] + 20]) }", shots.node)
    shots.cuts.nth(2).focus()
    comfy.picture("timeline", shots.element)
    comfy.set(shots.node, "prompt", "")
    comfy.set(shots.node, "times", " ".join(str(5 + 8 * i) for i in range(14)))
    comfy.page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    shots.cuts.nth(13).focus()
    comfy.picture("timeline light", shots.element)
    box, card = (shots.element.locator(of).bounding_box() for of in (".cards", ".cards li:last-child"))
    comfy.page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert shots.element.evaluate("(all) => all.scrollHeight <= all.clientHeight && all.scrollWidth <= all.clientWidth")
    assert card["x"] + card["width"] <= box["x"] + box["width"] + 1  # the card of the cut that has the focus
