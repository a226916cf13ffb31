"""Routing settings: what is refused, what the presets mean, and what the widgets of MoC Routing make of them."""

from dataclasses import make_dataclass, replace
from math import inf, nan

import pack
import pytest

from moc.config import PART_OF, PRESETS, Noise, RoutingConfig, Schedule
from moc.config.routing import part_of
from moc.errors import MoCError

choices = pack.load("nodes.widgets.routing")
methods = pack.load("moc.methods")
packed = pack.load("moc.config")  # the pack's own classes, which the widgets are read into


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"top_k": -1}, "top_k is -1; it counts chunks, so use 0 or more"),
        ({"density": 0.0}, "use more than 0 and at most 1"),
        ({"density": 1.5}, "use more than 0 and at most 1"),
        ({"chunk_tokens": 0}, "a chunk holds at least 1 token"),
        ({"tile": (1, 0, 4)}, "each 1 or more, like 1x4x4"),
        ({"tile": "1x4x4"}, "each 1 or more, like 1x4x4"),
        ({"tile": "big"}, "each 1 or more, like 1x4x4"),
        ({"window": -1}, "use 0 or more"),
        ({"static_tokens": 0}, "use 1 or more"),
        ({"shots_kept": 0}, "keep at least 1 shot"),
        ({"drop_off": 1.1}, "use 0 to 1"),
        ({"drop_in": -0.1}, "use 0 or more"),
        ({"own": "film"}, "choose one of: shot, frame, chunk"),
        ({"lists": "row"}, "choose one of: token, union"),
        ({"descriptor": "max"}, "choose one of: mean, minmax"),
        ({"rule": "best"}, "choose one of: top-k, top-p, threshold"),
        ({"top_p": 0.0}, "use more than 0 and at most 1"),
        ({"head_density": (0.2, 0.0)}, "each is a share of all pairs"),
        ({"head_density": (0.2, nan)}, "each is a share of all pairs"),
        ({"density": nan}, "density is nan"),
        ({"top_p": nan}, "top_p is nan"),
        ({"beta": nan}, "use an ordinary number"),
        ({"beta": inf}, "use an ordinary number"),
        ({"drop_off": nan}, "use 0 to 1"),
        ({"drop_in": nan}, "use 0 or more"),
        ({"drop_in": inf}, "use 0 or more"),
        ({"order": "snake", "chunk_tokens": 64}, "choose one of: tiles, raster, gilbert"),
        ({"order": "raster"}, "give chunk_tokens, and no tile"),
        ({"order": "raster", "chunk_tokens": 64, "tile": (1, 4, 4)}, "give chunk_tokens, and no tile"),
        ({"order": "gilbert", "chunk_tokens": 64, "own": "frame"}, "own cannot be frame"),
        ({"order": "raster", "chunk_tokens": 64, "static": "first frame"}, "static not first frame"),
        ({"near": "far"}, "choose one of: none, box, touching, radial"),
        ({"box": (3, 0, 3)}, "three sizes in tiles"),
        ({"band": 0.0}, "band is 0.0; it is a share"),
        ({"decay": 0.0}, "more than 0 and at most 1"),
        ({"shared": -1}, "it counts chunks"),
        ({"guard": 1.0}, "it is a cosine"),
        ({"rule": "best of head", "shared": 1}, "leave shared at 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_built(setting, sentence):
    with pytest.raises(MoCError, match=sentence):
        RoutingConfig.of(**setting)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"break_even": "guessed"}, "choose one of: estimated, measured"),
        ({"curve": "rising"}, "choose one of: constant, falling"),
        ({"dense_above": 1.1}, "use 0 .* to 1"),
        ({"dense_above": nan}, "use 0 .* to 1"),
        ({"start_percent": 0.8, "end_percent": 0.2}, "start first"),
        ({"end_percent": 1.2}, "between 0 and 1"),
        ({"start_percent": nan}, "between 0 and 1"),
        ({"dense_first": -1}, "use 0 or more"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_when_built(setting, sentence):
    with pytest.raises(MoCError, match=sentence):
        Schedule(**setting)


def test_a_routing_made_of_its_own_settings_is_the_same_and_finds_what_the_same_one_left():
    """Tables and compiled graphs are kept by routing."""
    routing = RoutingConfig.of(tile=(1, 4, 4), own="frame", top_k=20, descriptor="minmax", tail="pooled", seed=3)
    again = RoutingConfig.of(**routing.settings)
    assert again == routing and hash(again) == hash(routing) and {routing: "kept"}[again] == "kept"
    assert set(routing.settings) == set(PART_OF) and routing.changed(seed=4) != routing


def test_what_no_part_of_a_routing_has_is_refused():
    with pytest.raises(TypeError, match="no part of a routing has a setting 'topk'"):
        RoutingConfig.of(topk=5)


def test_two_parts_cannot_have_a_setting_of_one_name():
    twice = make_dataclass("Twice", [("one", Noise, Noise()), ("other", Noise, Noise())], frozen=True)
    with pytest.raises(TypeError, match="one and other both have a setting 'drop_off'"):
        part_of(twice)


def test_the_paper_presets_hold_the_papers_settings():
    multi, single = PRESETS["paper multi-shot"].routing, PRESETS["paper single-shot"].routing
    assert multi == RoutingConfig.of(top_k=5, chunk_tokens=1280, own="shot", causal=True, descriptor="mean")
    assert single == RoutingConfig.of(top_k=3, chunk_tokens=256, own="chunk", causal=False, descriptor="mean")


@pytest.mark.parametrize("preset", PRESETS)
def test_widgets_left_at_preset_change_nothing(preset):
    assert choices.read_routing(preset=preset) == packed.PRESETS[preset]


BASE = packed.PRESETS["paper multi-shot"].routing


@pytest.mark.parametrize(
    ("widgets", "changed"),
    [
        ({"budget": "top-k", "top_k": 7}, {"top_k": 7}),
        ({"top_k": 7}, {}),
        ({"budget": "density", "density": 0.3}, {"density": 0.3}),
        ({"chunking": "frame"}, {"chunk_tokens": None}),
        ({"chunking": "tokens", "chunk_tokens": 99}, {"chunk_tokens": 99}),
        ({"chunking": "tile", "tile": "2 x 4 x 8"}, {"chunk_tokens": None, "tile": (2, 4, 8)}),
        ({"own": "frame", "window": 2}, {"own": "frame", "window": 2}),
        ({"window": 2}, {}),  # the whole shot is seen already
        ({"own": "chunk", "window": 2}, {"own": "chunk"}),
        ({"causal": "off"}, {"causal": False}),
        ({"descriptor": "minmax", "tail": "pooled"}, {"descriptor": "minmax", "tail": "pooled"}),
        ({"memory": "first tokens", "memory_tokens": 9}, {"static": "first tokens", "static_tokens": 9}),
        ({"references": "linked"}, {"references": "linked"}),
        ({"outer_loop": "best shots", "shots_kept": 3}, {"shots_kept": 3}),
        ({"drop_off": 0.5, "drop_in": 1.0, "drop_seed": 4}, {"drop_off": 0.5, "drop_in": 1.0, "seed": 4}),
        ({"top_p": 0.5, "beta": 2.0}, {}),
        ({"rule": "top-p", "top_p": 0.5}, {"rule": "top-p", "top_p": 0.5}),
        ({"rule": "threshold", "beta": 2.0}, {"rule": "threshold", "beta": 2.0}),
        ({"head_density": "0.1, .3"}, {"head_density": (0.1, 0.3)}),
        ({"lists": "union"}, {"lists": "union"}),
    ],
)
def test_a_widget_replaces_its_part_of_the_preset_and_nothing_else(widgets, changed):
    settings = choices.read_routing(preset="paper multi-shot", **widgets)
    assert settings.routing == BASE.changed(**changed)
    assert settings.schedule == packed.Schedule()


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_method_takes_the_place_of_the_preset(method):
    assert choices.read_routing(preset="fast", method=method) == methods.METHODS[method].settings
    told = choices.tell_routing(methods.METHODS[method].settings)
    assert told.startswith("Every token sees ") and "  " not in told and "None" not in told


def test_a_widget_changes_a_method_as_it_does_a_preset():
    changed = choices.read_routing(preset="fast", method="Jenga", budget="top-k", top_k=9, chunking="tile", causal="on")
    jenga = methods.METHODS["Jenga"].settings
    assert changed == jenga.with_routing(
        top_k=9, density=None, tile=(1, 4, 4), chunk_tokens=None, order="tiles", causal=True
    )
    with pytest.raises(choices.MoCError, match="own cannot be frame"):
        choices.read_routing(preset="fast", method="Jenga", own="frame")
    with pytest.raises(choices.MoCError, match="method is 'best'; choose one of: preset, MoC"):
        choices.read_routing(preset="fast", method="best")


def test_blocks_take_the_routings_of_a_method_in_turn():
    settings = choices.read_routing(
        preset="fast", method="VMoBA", top_p=0.4, rule="best of head", block_tiles="5: frame"
    )
    slabs, columns, boxes = methods.METHODS["VMoBA"].settings.routings
    assert [settings.routing_of(b) for b in range(4)] == [r.changed(top_p=0.4) for r in (slabs, columns, boxes, slabs)]
    assert settings.routing_of(5).partition == packed.Partition() and len(settings.routings) == 4


def test_a_window_widens_a_preset_that_sees_its_own_frame():
    assert choices.read_routing(preset="recommended", window=2).routing.links.window == 2


def test_the_schedule_counts_when_it_is_custom():
    numbers = {"start_percent": 0.2, "end_percent": 0.9, "dense_first": 1, "dense_last": 2, "min_tokens": 4096}
    assert choices.read_routing(preset="fast", **numbers).schedule == packed.Schedule()
    assert choices.read_routing(preset="fast", schedule="custom", **numbers).schedule == packed.Schedule(**numbers)


@pytest.mark.parametrize("schedule", ["preset", "custom"])
def test_break_even_counts_by_itself_and_the_summary_tells_what_is_measured(schedule):
    settings = choices.read_routing(preset="fast", schedule=schedule, break_even="measured")
    assert settings.schedule == packed.Schedule(break_even="measured")
    assert choices.tell_routing(settings).endswith(", where that is measured to be faster.")


def test_blocks_may_be_dense_or_have_chunks_of_another_size():
    settings = choices.read_routing(preset="fast", dense_blocks="0, 3-4", block_tiles="1-2: 1x2x2; 7: frame")
    assert [b for b in range(9) if settings.schedule.is_dense(b, 9)] == [0, 3, 4]
    assert {b: r.partition.tile for b, r in settings.blocks} == {1: (1, 2, 2), 2: (1, 2, 2), 7: None}
    assert settings.routing_of(1) == settings.routing.changed(tile=(1, 2, 2), chunk_tokens=None)
    assert settings.routing_of(5) == settings.routing == packed.PRESETS["fast"].routing
    assert "dense in blocks 0, 3-4, with settings of their own in blocks 1-2, 7" in choices.tell_routing(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "top-p", "top_p": 0.5}, "the best chunks that hold 50% of its interest"),
        ({"rule": "threshold", "beta": 1.5}, "all chunks 1.5 standard deviations above the mean"),
        ({"rule": "top-k or top-p", "top_k": 3}, "its 3 best chunks or the best chunks that hold 90%"),
        ({"head_density": (0.1, 0.25)}, "10.0% to 25.0% of all pairs by head"),
        ({"lists": "union"}, "one list for neighbouring tokens"),
    ],
)
def test_a_rule_is_told_in_words(settings, words):
    assert words in choices.tell_routing(packed.MoCSettings(packed.RoutingConfig.of(**settings)))


def test_a_rule_of_somebody_elses_is_told_by_its_own_sentence(monkeypatch):
    monkeypatch.setitem(packed.RULES, "best", replace(packed.RULES["top-p"], sentence="the one best chunk"))
    assert "the one best chunk" in choices.tell_routing(packed.MoCSettings(packed.RoutingConfig.of(rule="best")))


@pytest.mark.parametrize("text", ["1x4x4", "1 4 4", "1,4,4", "1×4×4", " 1 X 4 x 4 "])
def test_a_tile_may_be_written_in_many_ways(text):
    assert choices.read_tile(text) == (1, 4, 4)


@pytest.mark.parametrize("text", ["", "4", "4x4", "1x4x4x4", "1x0x4", "1x-4x4", "axbxc", "1.5x4x4"])
def test_a_tile_that_cannot_be_read_says_how_to_write_it(text):
    with pytest.raises(choices.MoCError, match="frames x rows x columns, like 1x4x4"):
        choices.read_tile(text)


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"top_k": -1}, "top_k is -1"),
        ({"density": 0.0}, "density is 0.0"),
        ({"tile": "big"}, "tile is 'big'"),
        ({"start_percent": 0.9, "end_percent": 0.5}, "start first"),
        ({"dense_blocks": "first"}, "'first' names no blocks of the model"),
        ({"dense_blocks": "5-3"}, "write numbers from 0 on, like 0, 3-5"),
        ({"block_tiles": "1x2x2"}, "write blocks, a colon and a size"),
        ({"block_tiles": "0: big"}, "tile is 'big'"),
        ({"head_density": "much"}, "write one share for every head"),
        ({"head_density": "0.1, 2"}, "each is a share of all pairs"),
    ],
)
def test_values_are_checked_before_anything_runs(widgets, sentence):
    with pytest.raises(choices.MoCError, match=sentence):
        choices.check_routing(**{**NOTHING, **widgets})


NOTHING = dict.fromkeys(("top_k", "density", "tile", "start_percent", "end_percent"))


def test_a_linked_value_is_checked_when_it_is_known():
    choices.check_routing(**NOTHING)


def test_an_unknown_preset_is_refused():
    with pytest.raises(choices.MoCError, match="choose one of: paper multi-shot"):
        choices.read_routing(preset="best")


def test_the_summary_is_one_sentence():
    told = choices.tell_routing(choices.read_routing(preset="paper multi-shot"))
    assert told == (
        "Every token sees its own shot and its 5 best chunks (chunks of about 1280 tokens, mean), earlier shots only."
    )
    everything = {
        **{"budget": "density", "chunking": "tile", "own": "frame", "window": 1, "tail": "pooled"},
        **{"memory": "first frame", "outer_loop": "best shots", "schedule": "custom", "start_percent": 0.2},
        **{"dense_first": 1},
    }
    told = choices.tell_routing(choices.read_routing(preset="fast", **everything))
    assert told == (
        "Every token sees its own frame with 1 on either side, the first frame of every shot and 20% of all pairs "
        "(tiles of 1x4x4 tokens, mean), from the 2 best other shots only, the rest pooled, "
        "from 20% to 100% of the sampling, first 1 and last 0 blocks dense."
    )


def test_the_summary_tells_what_a_preset_holds_on_large_pictures():
    assert choices.tell_routing(choices.read_routing(preset="recommended")) == (
        "Every token sees its own frame and its 20 best chunks (tiles of 1x4x4 tokens, minmax), with 1,200 tokens a "
        "frame and more its 32 best chunks (tiles of 1x8x8 tokens, minmax), the rest pooled."
    )


@pytest.mark.parametrize(("text", "tile"), [("auto", "auto"), (" Auto ", "auto"), ("1x4x4", (1, 4, 4))])
def test_tiles_may_follow_the_picture(text, tile):
    assert choices.read_routing(preset="large pictures", chunking="tile", tile=text).routing.partition.tile == tile
    choices.check_routing(**{**NOTHING, "tile": text})


def test_blocks_with_tiles_of_their_own_keep_them_on_every_picture():
    settings = choices.read_routing(preset="recommended", block_tiles="2: 1x2x2; 3: frame")
    for block, tile in ((2, (1, 2, 2)), (3, None)):
        assert settings.routing_of(block).on((3, 45, 80)).partition.tile == tile
