"""Python's half of the tables in tests/js/tables: what the timeline shows is what the nodes do."""

import json
from pathlib import Path

import pack
import pytest

from moc.errors import MoCError
from moc.shots.cuts import latent_frames, nearest_border, parse_times
from moc.shots.prompts import read_prompt
from moc.shots.time_rules import FAMILIES

choices = pack.load("nodes.widgets.shots")

TABLES = Path(__file__).resolve().parent.parent.parent / "js" / "tables"


def table(name):
    return json.loads((TABLES / f"{name}.json").read_text("utf-8"))


def test_every_family_is_in_the_table():
    assert list(table("snapping")) == list(FAMILIES)


@pytest.mark.parametrize("family, row", table("snapping").items())
def test_a_family_snaps_as_the_table_says(family, row):
    rule = FAMILIES[family]
    assert row["rule"] == {"first": list(rule.first), "repeat": list(rule.repeat), "lengths": list(rule.lengths)}
    assert row["name"] == rule.name
    assert row["borders"] == [rule.frames(latent) for latent in range(len(row["borders"]))]
    assert row["cuts_1_to_60"] == [nearest_border(cut, rule)[1] for cut in range(1, 61)]
    assert row["lengths_1_to_60"] == [list(rule.whole(frames)) for frames in range(1, 61)]


@pytest.mark.parametrize("row", table("times"), ids=lambda row: repr(row["text"]))
def test_times_mean_what_the_table_says(row):
    if row.get("error"):
        with pytest.raises(MoCError):
            parse_times(row["text"], row["unit"], row["fps"])
    else:
        assert list(parse_times(row["text"], row["unit"], row["fps"])) == row["frames"]


@pytest.mark.parametrize("row", table("prompts"), ids=lambda row: repr(row["prompt"]))
def test_prompts_mean_what_the_table_says(row):
    if row.get("error"):
        with pytest.raises(MoCError):
            read_prompt(row["prompt"])
        return
    said = read_prompt(row["prompt"])
    lists = {name: list(getattr(said, name)) for name in ("texts", "names", "durations")}
    assert row["says"] == {"common": said.common, **lists, "bars": said.bars}
    assert row["written"] == str(said)


@pytest.mark.parametrize("row", table("films"), ids=lambda row: repr(row["widgets"]))
def test_a_film_is_what_the_table_says(row):
    family = row["widgets"].get("family", choices.ANY_MODEL)
    if row.get("error"):
        with pytest.raises(choices.MoCError):
            choices.at_borders(choices.read_shots(**row["widgets"])[0], family)
        return
    shots, _ = choices.at_borders(choices.read_shots(**row["widgets"])[0], family)
    assert shots.length == row["length"]
    if "borders" in row:
        name = "every frame" if family == choices.ANY_MODEL else family
        starts = shots.starts(latent_frames(shots.length, name), name)[0]
        assert [FAMILIES[name].frames(start) for start in starts[1:]] == row["borders"]
