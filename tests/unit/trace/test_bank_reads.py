"""What is told of a bank is what a plain softmax over own and kept keys says; the map and the report name memories."""

import io
import json

import numpy as np
import pack
import pytest
import torch

from moc.chunks.layout import Span, TokenLayout
from moc.errors import MoCError
from moc.trace import bank_reads
from moc.trace.bank_reads import BankAxes, BankCounts, BankRecord
from moc.trace.cells import Line
from moc.trace.export import npz, of_heatmap
from moc.trace.heatmap import BANK, Collected, flow, heatmap
from moc.trace.trace import Trace
from moc.windows.attend import attend, dense

picture, arcs = pack.load("nodes.render.heatmap"), pack.load("nodes.render.flow")
HEADS, SIZE, WIDTH = 3, 6, 16  # SIZE tokens a frame
LAYOUT = TokenLayout(2 + 4 * SIZE + 3, (4, 2, 3), 2, (Span("text", 0, 2), Span("text", 26, 29)), (6, 7, 8, 9))
KEPT = {0: 6, 3: 6, 20: 4, 21: 5}  # kept frames -> tokens of each; the last two are a memory's, under a mask
WEIGHTS = {0: 3.0, 3: 3.0, 20: 5.0, 21: 5.0}


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def video(frame, shot):
    return Line("video", shot, frame)


def memory(frame, name="anna"):
    return Line("memory", -1, frame, name=name)


def axes(rows=(6, 7, 8, 9), kept=(0, 3, 20, 21)):
    """Shots of three frames."""
    return BankAxes(
        tuple(video(frame, frame // 3) for frame in rows),
        tuple(memory(frame) if frame >= 20 else video(frame, frame // 3) for frame in kept),
    )


def looked_at(rows=slice(None), kept=KEPT, lead=0, seed=0, prompts=1):
    """(what was counted [H, F, K], what a softmax over everything says)"""
    counts = BankCounts(axes(), LAYOUT, lead, prompts, HEADS, torch.device("cpu"))
    wanted = torch.full((prompts, HEADS, 4, 4), torch.nan)
    frames = [i for i in range(4) if i in range(*rows.indices(29))] if rows != slice(None) else range(4)
    rows = rows if rows == slice(None) else slice(2 + frames[0] * SIZE, 2 + (frames[-1] + 1) * SIZE)
    for prompt in range(prompts):
        q, k, v = (2 * random(1, HEADS, LAYOUT.length, WIDTH, seed=10 * prompt + seed + i) for i in range(3))
        keys = {frame: 2 * random(1, HEADS, size, WIDTH, seed=50 + frame + prompt) for frame, size in kept.items()}
        groups = [[f for f in kept if WEIGHTS[f] == weight] for weight in sorted({WEIGHTS[f] for f in kept})]
        parts = []
        for some in groups:
            joined = torch.cat([keys[frame] for frame in some], -2)
            parts.append((WEIGHTS[some[0]], lambda heads, x=joined: (x[:, heads], x[:, heads])))
        watch = counts.watch(prompt, rows, [{frame: kept[frame] for frame in some} for some in groups])
        mine = q[:, :, rows]
        attend(mine, dense(q, k, v, 0.25)(0, rows), parts, 0.25, watch)
        order = [frame for some in groups for frame in some]
        weight = torch.cat([torch.full((kept[f],), WEIGHTS[f]).log() for f in order])
        scores = torch.cat([mine @ k.mT * 0.25, mine @ torch.cat([keys[f] for f in order], -2).mT * 0.25 + weight], -1)
        parts = scores.softmax(-1)[0, ..., LAYOUT.length :].split([kept[f] for f in order], -1)
        begin = 2 if rows == slice(None) else 0
        for frame, part in zip(order, parts):
            of_row = part.sum(-1)[:, begin : begin + len(frames) * SIZE]
            wanted[prompt, :, list(frames), [*KEPT].index(frame)] = of_row.unflatten(-1, (-1, SIZE)).mean(-1)
    return counts.result(), wanted.nanmean(0)


def same(found, wanted, atol=1e-6):
    return torch.allclose(found, wanted, atol=atol, equal_nan=True)


@pytest.mark.parametrize("at_once", [2**25, LAYOUT.length * WIDTH], ids=["heads together", "one by one"])
@pytest.mark.parametrize("prompts", [1, 2])
def test_the_share_of_every_kept_frame_is_that_of_a_plain_softmax(monkeypatch, at_once, prompts):
    monkeypatch.setattr("moc.windows.attend.AT_ONCE", at_once)
    found, wanted = looked_at(prompts=prompts)
    assert same(found, wanted) and 0.05 < wanted.sum(-1).min() < wanted.sum(-1).max() < 0.95


def test_of_few_rows_a_frame_the_whole_share_stays_exact(monkeypatch):
    monkeypatch.setattr(bank_reads, "ROWS", 2)
    found, wanted = looked_at()
    assert same(found.sum(-1), wanted.sum(-1)) and not same(found, wanted, 1e-3)


def test_frames_that_read_something_else_are_told_apart():
    found, wanted = looked_at(slice(1, 3), {0: 6, 3: 6})
    assert same(found, wanted)
    assert torch.isnan(found[:, [0, 3]]).all() and torch.isnan(found[..., 2:]).all() and found[:, 1:3, :2].min() > 0


def test_the_frame_in_front_of_a_window_says_nothing():
    found, wanted = looked_at(lead=1)
    assert torch.isnan(found[:, 0]).all() and same(found[:, 1:], wanted[:, 1:])


def test_rows_without_a_frame_are_not_looked_at():
    counts = BankCounts(axes(), LAYOUT, 0, 1, HEADS, torch.device("cpu"))
    assert counts.watch(0, slice(0, 2), [KEPT]) is None and counts.watch(0, slice(26, 29), [KEPT]) is None


def record(mass, step=0, block=0, of=None):
    return BankRecord(step, block, of or axes(), torch.tensor(mass)[None])


NAN = float("nan")


@pytest.fixture
def trace():
    """Frames 6 to 8 are shot 3, frame 9 is shot 4, which does not read anna in the second step."""
    trace = Trace()
    trace.reads = [
        record([[0.1, 0.2, 0.3, 0.1]] * 3 + [[0.0, 0.2, 0.1, 0.1]]),
        record([[0.3, 0.2, 0.1, 0.1]] * 3 + [[0.2, 0.4, NAN, NAN]], step=1),
    ]
    return trace


def test_frames_of_a_shot_and_of_a_memory_add_up_and_calls_that_read_nothing_do_not_count(trace):
    heat = heatmap(trace, BANK)
    assert [line.shot for line in heat.rows] == [2, 3]
    assert [(line.shot, line.name) for line in heat.columns] == [(0, ""), (1, ""), (-1, "anna")]
    np.testing.assert_allclose(heat.chosen_of_open, [[0.2, 0.2, 0.3], [0.1, 0.3, 0.2]], atol=1e-6)
    assert heat.density == pytest.approx((0.7 + 0.6) / 2) and heat.met.all()
    second = heatmap(trace, BANK, first_step=1)
    assert np.isnan(second.chosen_of_open[1, 2]) and not second.met[1, 2]


def test_windows_meet_on_the_films_own_shots():
    trace = Trace()
    trace.reads = [
        record([[0.4]] * 3, of=axes((3, 4, 5), (0,))),
        record([[0.1, 0.2]] * 3, of=axes((0, 1, 2), (3, 20))),
    ]
    heat = heatmap(trace, BANK)
    wanted = [[NAN, 0.1, 0.2], [0.4, NAN, NAN]]
    np.testing.assert_allclose(heat.chosen_of_open, wanted, atol=1e-6)
    assert of_heatmap(heat)["share"] == [[-1, 1000, 2000], [4000, -1, -1]]


def test_the_report_says_it_in_a_sentence(trace):
    assert flow(trace) == [
        "Of its attention, shot 3 gives 30.0% to anna, 20.0% to shot 1, 20.0% to shot 2, through the bank.",
        "Of its attention, shot 4 gives 30.0% to shot 2, 20.0% to anna, 10.0% to shot 1, through the bank.",
    ]
    assert flow(trace, 1)[0] == "Of its attention, shot 3 gives 30.0% to anna, through the bank."


def test_long_films_are_joined_and_lose_no_attention():
    trace = Trace()
    kept = (*(video(frame, frame // 3) for frame in range(0, 60, 3)), *map(memory, range(60, 64)))
    shown = BankAxes(tuple(video(frame, frame // 3) for frame in range(60)), kept)
    trace.reads = [record([[0.01] * 24] * 60, of=shown)]
    heat = Collected()
    heat.add(trace.reads)
    joined = heat.heatmap(BANK, 5)
    assert len(joined.rows) == 5 and len(joined.columns) == 6
    np.testing.assert_allclose(joined.chosen_of_open.sum(1), 0.24, atol=1e-6)
    assert joined.columns[0].last_shot == 3 and joined.columns[-1].name == "anna"


def test_what_is_kept_arrives_beside_what_was_routed(monkeypatch):
    trace = Trace()
    counts = BankCounts(axes(), LAYOUT, 0, 1, HEADS, torch.device("cpu"))
    counts._mass[:] = torch.arange(HEADS).reshape(1, HEADS, 1, 1) / 10
    monkeypatch.setattr("moc.trace.trace.MOST_BYTES", 2 * 4 * 4 * HEADS)
    trace.read_bank(0, 1, counts)
    trace.read_bank(0, 2, counts)
    trace.flush()
    assert not trace.records and [(r.step, r.block, r.mass.shape[0]) for r in trace.reads] == [(0, 1, HEADS), (0, 2, 1)]
    one = heatmap(trace, BANK, head=2)
    assert one.chosen_of_open[0, 0] == pytest.approx(0.15, abs=1e-3) and one.heads_together
    trace.start()
    assert not trace.reads


def test_a_run_without_a_bank_says_what_would_have_one():
    with pytest.raises(MoCError, match="no bank was read: MoC Windows, MoC Recall"):
        heatmap(Trace(), BANK)


def test_a_step_without_reads_says_so(trace):
    with pytest.raises(MoCError, match="nothing was read of a bank in steps 5 to the end: choose from steps 0-1"):
        heatmap(trace, BANK, first_step=5)


def test_the_file_holds_every_read(trace):
    kept = np.load(io.BytesIO(npz(trace)))
    assert kept["bank_mass_0"].shape == (2, 1, 4, 4) and kept["bank_step_0"].tolist() == [0, 1]
    assert kept["bank_column_name_0"].tolist() == ["", "", "anna", "anna"]
    assert kept["bank_shots_0"].tolist() == [2, 2, 2, 3]


@pytest.fixture
def said(monkeypatch):
    """Every text of a picture that is drawn from now on."""
    found, text = [], picture.ImageDraw.ImageDraw.text

    def spy(pen, place, words, *args, **kwargs):
        found.append(words)
        return text(pen, place, words, *args, **kwargs)

    monkeypatch.setattr(picture.ImageDraw.ImageDraw, "text", spy)
    return found


def test_the_picture_names_memories(trace, said):
    picture.draw(heatmap(trace, BANK), trace.report())
    assert {"anna", "shot 1", "shot 3", "30%", "attention"} <= set(said) and "always seen, not chosen" not in said
    assert any("65.0% of attention in the bank" in line for line in said)


def test_the_flow_names_memories_beside_the_shots(trace, said):
    arcs.draw_flow(None, "", heatmap(trace, BANK))
    assert {"anna", "shot 3", "30%"} <= set(said) and any("Dashed" in line for line in said)


def test_a_map_travels_as_json_with_its_names(trace):
    data = json.loads(json.dumps(of_heatmap(heatmap(trace, BANK))))
    assert data["columns"]["name"] == ["", "", "anna"] and data["columns"]["kind"] == ["video", "video", "memory"]
    assert "name" not in data["rows"]
