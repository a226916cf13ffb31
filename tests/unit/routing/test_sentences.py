"""What can be chosen by name says what it is, once, and every place that shows it has it from there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.tools import tables
from tests.tools.tables import PAGES, REPO, config, sentences, written

MEASURED = json.loads((REPO / "benchmarks/results/second_look_h200.json").read_text("utf-8"))


def test_a_quality_gives_what_was_measured_and_nothing_measured_beats_it():
    at_720p = {one["rule"]: (one["ms"], one["error"]) for one in MEASURED["equal_error"] if one["film"] == "720p"}
    gain = next(one["cudnn"] for one in MEASURED["gain_over"] if one["case"] == "medium tiles, 720p")
    dense = gain * at_720p["large pictures"][0]
    for quality in config.QUALITIES.values():
        ms, error = at_720p[quality.rule]
        assert (quality.gain, quality.error) == (pytest.approx(dense / ms, abs=0.1), pytest.approx(error, abs=0.001))
        assert [rule for rule, (m, e) in at_720p.items() if m < ms and e < error] == []


def test_the_first_quality_is_what_a_model_without_settings_has_always_had():
    assert next(iter(config.QUALITIES.values())).settings == config.PRESETS["recommended"]


def test_every_quality_is_faster_and_farther_from_dense_than_the_one_before():
    told = [(quality.gain, quality.error) for quality in config.QUALITIES.values()]
    assert told == sorted(told) and len(set(told)) == len(told) > 2
    assert sentences.tell_qualities().count("times as fast as full attention") == len(told)


@pytest.mark.parametrize("path", PAGES)
def test_the_tables_of_a_page_are_current(path):
    page = (REPO / path).read_text("utf-8")
    assert page == written(page, PAGES[path]), "run `python -m tests.tools.tables`"


def test_a_new_rule_stands_in_tooltip_and_tables_by_being_registered(monkeypatch):
    best = replace(config.RULES["top-p"], sentence="the one best chunk", source="")
    monkeypatch.setitem(config.RULES, "best only", best)
    assert "best only: the one best chunk." in sentences.tell_choices("rule")
    assert "`best only`: the one best chunk" in tables.choices()
    assert "| `best only`: the one best chunk | ours |" in tables.sources()
    assert sentences.tell_probed().endswith("top-p, threshold and best only as rule")


def test_a_new_preset_stands_in_tooltip_and_table_by_being_named(monkeypatch):
    preset = replace(config.NAMED["fast"], sees="next to nothing", use="for the impatient")
    monkeypatch.setitem(config.NAMED, "fastest", preset)
    assert sentences.tell_presets().endswith("fastest: next to nothing; for the impatient.")
    assert tables.presets().endswith("| fastest | next to nothing | for the impatient |\n")


@pytest.mark.parametrize("name", sentences.ABOUT)
def test_every_choice_has_a_sentence_that_fits_into_one(name):
    for choice, sentence in sentences.choices_of(name).items():
        assert sentence and not sentence.endswith(".") and "|" not in sentence, choice


def test_a_page_without_a_place_for_its_table_is_refused():
    with pytest.raises(ValueError, match="no place for the table presets"):
        written("nothing here\n", {"presets": tables.presets})
