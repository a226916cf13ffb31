"""What a browser and a file get of a trace is what the trace holds."""

import io
import json
from dataclasses import replace

import numpy as np
import pack
import pytest
import torch

from moc.trace.axes import Column
from moc.trace.export import MOST_LINES, PARTS, npz, of_heatmap, of_trace
from moc.trace.heatmap import Collected, heatmap
from moc.trace.reasons import Reason
from moc.trace.trace import Trace
from tests.unit.trace.test_heatmap import PLAIN, WITH_SPANS, axes, hand_made, only, record_run

flow_picture, thumbnails = pack.load("nodes.render.flow"), pack.load("nodes.render.thumbnails")


@pytest.fixture
def trace():
    trace = Trace(node="7")
    record_run(trace, WITH_SPANS, only(4, 0), steps=3, blocks=2)
    return trace


def test_a_map_travels_as_json_and_keeps_its_numbers(trace):
    heat = heatmap(trace, "shots")
    data = json.loads(json.dumps(of_heatmap(heat)))
    share = np.array(data["share"]) / PARTS
    assert np.array_equal(share < 0, np.isnan(heat.chosen_of_open))
    assert np.allclose(share[share >= 0], heat.chosen_of_open[~np.isnan(heat.chosen_of_open)], atol=1 / PARTS)
    assert data["rows"]["shot"][1:-1] == data["columns"]["shot"][1:-1] == [0, 1, 2, 3, 4]
    assert data["columns"]["kind"] == ["text", *["video"] * 5, "reference"] and data["mass"] is None


def test_what_never_met_is_marked(trace):
    one = [Column("video", 0, 0, False)]
    other = [Column("video", 0, 1, False)]
    apart = hand_made((0, 0, axes((0,), (0,), one), [[[0.2]]]), (0, 0, axes((1,), (0,), other), [[[0.2]]]))
    assert of_heatmap(heatmap(apart))["open"] == [[PARTS, -1], [-1, PARTS]]


def test_step_by_step_gives_what_the_whole_run_gives(trace):
    collected = Collected()
    for record in trace.records:
        collected.add([record])
    assert of_heatmap(collected.heatmap("frames")) == of_heatmap(heatmap(trace, "frames"))


@pytest.mark.parametrize(("most", "rows"), [(None, 12), (12, 12), (8, 7), (5, 5)])
def test_a_long_film_is_joined_within_its_shots_and_loses_no_pair(most, rows):
    trace = Trace()
    record_run(trace, PLAIN)
    collected = Collected()
    collected.add(trace.records)
    whole, joined = collected.heatmap("frames"), collected.heatmap("frames", most)
    assert len(joined.rows) == len(joined.columns) == rows
    frames_of = np.diff([line.frame for line in joined.rows] + [12])
    weight = np.outer(frames_of, frames_of)
    assert np.nansum(joined.chosen_of_open * joined.open * weight) == pytest.approx(
        np.nansum(whole.chosen_of_open * whole.open)
    )
    assert len({line.shot for line in joined.rows}) == 5


def test_a_message_stays_small_however_many_shots_and_frames_there_are():
    for shots, frames in ((1000, 1), (150, 7), (1, 1000), (139, 2)):
        count = shots * frames
        shot = [i // frames for i in range(count)]
        lines = [Column("text", -1, -1, True), *(Column("video", s, f, False) for f, s in enumerate(shot))]
        long = hand_made((0, 0, axes(range(count), shot, lines), np.full((1, count, count + 1), 1 / 3)))
        long.records[0] = replace(long.records[0], mass=torch.full((1, count, count + 1), 1 / 3))
        collected = Collected()
        collected.add(long.records)
        maps = [of_heatmap(collected.heatmap(view, MOST_LINES[view])) for view in ("frames", "shots")]
        assert all(len(m["share"]) <= MOST_LINES[m["view"]] + 1 >= len(m["share"][0]) for m in maps)
        assert len(json.dumps(maps)) < 1_000_000
        rows = maps[1]["rows"]
        joined = -(-shots // MOST_LINES["shots"])
        assert (
            (rows["shot"][2], rows["last_shot"][1]) == (joined, joined - 1)
            if joined > 1
            else rows["last_shot"][1] == -1
        )
        chunks = of_heatmap(collected.heatmap("chunks", MOST_LINES["chunks"]))
        assert len(chunks["share"]) * len(chunks["share"][0]) <= 141 * 513


def test_the_sliders_know_what_there_is(trace):
    trace.ran_dense(Reason.SCHEDULE)
    told = of_trace(trace)
    assert told["recorded_steps"] == [0, 1, 2] and told["recorded_blocks"] == [0, 1] and told["heads"] == 2
    assert told["trace"] == trace.id and told["node"] == "7" and len({Trace().id, Trace().id}) == 2
    assert told["status"].startswith("MoC on: 2 of 2 blocks routed, ")
    assert told["status"].endswith("pairs kept. Dense calls (start/end percent: 1).")


def test_the_status_of_a_run_that_never_routed_says_why():
    trace = Trace()
    assert trace.status() == "MoC: nothing sampled yet."
    trace.ran_dense(Reason.ONE_FRAME)
    assert trace.status() == "MoC: everything ran dense. Dense calls (a single frame: 1)."
    json.dumps(trace.summary())


def test_the_file_holds_every_record(trace):
    extra = axes((0, 1), (0, 0), [Column("video", 0, 0, False)])
    trace.records += hand_made((5, 1, extra, [[[0.1], [0.2]]])).records
    arrays = np.load(io.BytesIO(npz(trace)))
    stacks = {name.rpartition("_")[2] for name in arrays}
    assert stacks == {"0", "1"}
    calls = [i for stack in stacks for i in zip(arrays[f"step_{stack}"], arrays[f"block_{stack}"])]
    assert sorted(calls) == sorted((r.step, r.block) for r in trace.records)
    main = next(s for s in stacks if len(arrays[f"step_{s}"]) == 6)
    assert np.array_equal(arrays[f"share_{main}"][0], trace.records[0].chosen.numpy())
    assert list(arrays[f"column_kind_{main}"][[0, -1]]) == ["text", "reference"]


def test_arcs_of_one_shot_stand_side_by_side_and_do_not_cross():
    found = [(a, b, 0.1 * (a + 1), False) for a in range(4) for b in range(4) if a != b]
    found += [(3, 0, 0.15, True), (0, 2, 0.25, True)]
    drawn = flow_picture.arcs(found, [100.0 * i for i in range(4)], 60)
    assert [arc.share for arc in drawn] == sorted(share for _, _, share, _ in found)
    for above in (True, False):
        spans = sorted(tuple(sorted((a.begin, a.end))) for a in drawn if (a.reader > a.read) == above)
        ends = [x for span in spans for x in span]
        assert len(ends) == len(set(ends))
        by_shots = {a: sorted((a.begin, a.end)) for a in drawn if (a.reader > a.read) == above}
        for one, outer in by_shots.items():
            for two, inner in by_shots.items():
                (a, b), (c, d) = ((x.reader, x.read) for x in (one, two))
                if (c, d) == (a, b) and one.of_bank:
                    continue  # the arc of the bank lies inside
                if min(a, b) <= min(c, d) and max(c, d) <= max(a, b):  # between the same shots or inside them
                    assert outer[0] <= inner[0] and inner[1] <= outer[1]


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_the_flow_is_a_picture_for_any_film(trace, shots):
    if shots != 5:
        lines = [Column("video", s, s, False) for s in range(shots)]
        trace = hand_made((0, 0, axes(range(shots), range(shots), lines), np.full((1, shots, shots), 0.1)))
    image = flow_picture.draw_flow(heatmap(trace, "shots"), trace.report())
    assert image.width == 1000 and len(image.getcolors(2**20)) > 50


def test_every_latent_frame_has_its_picture():
    """9 pictures of 3 latent frames, 1 + 4 + 4: each shows the last of its own."""
    images = torch.arange(9).view(9, 1, 1, 1).expand(9, 36, 64, 4) / 10
    sheet, where = thumbnails.contact_sheet(images, {"kind": ["text", *["video"] * 3], "frame": [-1, 0, 1, 2]})
    assert where == {"frames": [0, 1, 2], "across": 3, "width": 128, "height": 72} and sheet.shape == (1, 72, 384, 3)
    torch.testing.assert_close(sheet[0, 0, ::128, 0], torch.tensor([0.0, 0.4, 0.8]))
    two, where = thumbnails.contact_sheet(
        torch.cat([images, 1 - images]), {"kind": ["video"] * 3, "frame": [0, 1, 2]}, 2
    )
    torch.testing.assert_close(two[0, 0, ::128, 0], torch.tensor([0.0, 0.4, 0.8]))  # of two films the first
    many, where = thumbnails.contact_sheet(images[:1], {"kind": ["video"] * 30, "frame": list(range(30))})
    assert many.shape == (1, 72 * 3, 12 * where["width"], 3)


@pytest.mark.parametrize("cut_off", [True, False])
def test_a_reference_frame_in_front_is_no_picture_of_the_film(cut_off):
    """Two latent frames behind a reference: 1 + 4 pictures, and 4 more where the reference was decoded as well."""
    images = torch.arange(5 if cut_off else 9).view(-1, 1, 1, 1).expand(-1, 36, 64, 3) / 10
    sheet, where = thumbnails.contact_sheet(images, {"kind": ["video"] * 3, "frame": [0, 1, 2]}, first=1)
    assert where["frames"] == ([1, 2] if cut_off else [0, 1, 2])
    torch.testing.assert_close(sheet[0, 0, ::128, 0], torch.tensor([0.0, 0.4] if cut_off else [0.0, 0.4, 0.8]))
