"""Python's half of tests/js/tables/drawing.json: the browser's routing map and the picture of it show the same."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pack
import pytest

from moc.trace.cells import Line

flow, heatmap = pack.load("nodes.render.flow"), pack.load("nodes.render.heatmap")
TABLE = json.loads((Path(__file__).resolve().parents[2] / "js" / "tables" / "drawing.json").read_text("utf-8"))


@pytest.mark.parametrize("row", TABLE["colours"])
def test_a_share_has_the_colour_of_the_table(row):
    assert heatmap.colours(np.array(row["value"])).tolist() == row["rgb"]


@pytest.mark.parametrize("row", TABLE["scale_tops"])
def test_colours_end_where_the_table_says(row):
    assert heatmap.scale_top(np.array(row["values"])) == pytest.approx(row["top"])


@pytest.mark.parametrize("row", TABLE["percents"])
def test_a_share_is_written_as_in_the_table(row):
    assert heatmap.percent(row["share"]) == f"{row['number']}%"


@pytest.mark.parametrize("row", TABLE["runs"])
def test_lines_under_one_label_are_those_of_the_table(row):
    lines = tuple(map(Line, row["kind"], row["shot"], row["frame"]))
    found = heatmap._runs(lines, np.arange(len(lines) + 1))
    assert [[start, stop] for _, start, stop in found] == row["runs"]


@pytest.mark.parametrize("row", TABLE["arcs"])
def test_arcs_lie_as_in_the_table(row):
    found = flow.arcs([(*link, False)[:4] for link in row["links"]], row["centres"], row["room"])
    assert [[a.reader, a.read, a.share, a.begin, a.end] for a in found] == [pytest.approx(arc) for arc in row["arcs"]]


@pytest.mark.parametrize("row", TABLE["legends"])
def test_the_legend_tells_the_greys_of_the_table(row):
    open_, always = (np.array(row[name], float) for name in ("open", "always"))
    chosen = np.where(open_ > 0, 0.5, np.nan)
    map_ = SimpleNamespace(chosen_of_open=chosen, always=always, met=open_ >= 0)
    assert heatmap.plain_cells(map_) == (row["closed"], row["apart"])


@pytest.mark.parametrize("row", TABLE["flows"])
def test_what_reads_what_is_that_of_the_table(row):
    """In the table a share of -1 is none, as it travels to the browser."""

    def told(lines):
        return tuple(map(Line, lines["kind"], lines["shot"], lines["frame"], lines["last_shot"], lines["name"]))

    def map_of(data):
        if data is None:
            return None
        share = np.array(data["share"], float)
        share[share < 0] = np.nan
        return SimpleNamespace(
            rows=told(data["rows"]), columns=told(data["columns"]), chosen_of_open=share, met=~np.isnan(share)
        )

    names, found = flow.film(map_of(row["shots"]), map_of(row["bank"]))
    assert names == row["names"]
    assert sorted(found, key=lambda link: link[2]) == [tuple(link) for link in row["found"]]
