"""The heatmap shows what the trace holds: the right cells, on the film's own frames, and nothing else."""

import numpy as np
import pack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from moc.routing.candidates import candidates
from moc.routing.rules import select
from moc.trace.axes import Axes, Column
from moc.trace.heatmap import VIEWS, flow, heatmap
from moc.trace.pair_counts import Counts
from moc.trace.reasons import Reason
from moc.trace.trace import Record, Trace

picture = pack.load("nodes.render.heatmap")

GRID, STARTS = (12, 4, 4), (0, 3, 5, 8, 10)
ROUTING = RoutingConfig.of(top_k=3, tile=(1, 2, 2), own="frame")
PLAIN = TokenLayout(12 * 16, GRID)
WITH_SPANS = TokenLayout(7 + 12 * 16 + 5, GRID, 7, (Span("text", 0, 7), Span("reference", 199, 204)))


def record_run(trace, layout, wish=None, *, routing=ROUTING, steps=2, blocks=2, heads=2, seed=0):
    """Route random scores, raised where wish[row shot, chunk shot] says so, as a run of the model would."""
    table = build_chunks(layout, STARTS, routing)
    t, rows = table.tensors("cpu"), slice(0, table.length)
    score = torch.rand(1, heads, table.length, len(table.chunks), generator=torch.Generator().manual_seed(seed))
    if wish is not None:
        reader, read = t.group_shot[t.row_group][:, None], t.chunk_shot
        score = score + 2.0 * (torch.as_tensor(wish)[reader, read] & (reader >= 0) & (read >= 0))
    _, candidate = candidates(table, routing, rows, torch.device("cpu"))
    for step in range(steps):
        for block in range(blocks):
            nothing = torch.zeros(1, heads, 1, 1)
            counts = trace.counts(table, routing, nothing, nothing)
            counts.add(rows, select(score, candidate, table.top_k(routing)))
            trace.ran_routed(step, block, counts)
        trace.flush()
    return table


def only(reader: int, read: int) -> np.ndarray:
    wish = np.zeros((5, 5), bool)
    wish[reader, read] = True
    return wish


def axes(frames, shots, columns, always=()):
    seen = torch.zeros(len(frames), len(columns))
    for row, column in always:
        seen[row, column] = 1
    return Axes(tuple(frames), tuple(shots), tuple(columns), seen, 1 - seen)


def hand_made(*records):
    """A trace from (step, block, axes, share [H, F, K])."""
    trace = Trace()
    trace.records = [Record(s, b, a, torch.from_numpy(np.array(share)), 0.5) for s, b, a, share in records]
    trace.routed = len(records)
    return trace


def test_shot_5_reading_shot_1_shows_in_exactly_that_cell():
    trace = Trace()
    record_run(trace, PLAIN, only(4, 0))
    share = heatmap(trace, "shots").chosen_of_open
    # 3 of the 12 tiles of shot 1's three frames
    assert share[4, 0] == pytest.approx(3 / 12)
    assert np.all(share[4, 1:] == 0)
    by_frame = heatmap(trace, "frames")
    strong = np.argwhere(by_frame.chosen_of_open > 0.2)
    assert {by_frame.rows[r].shot for r, _ in strong} == {4}
    assert {by_frame.columns[c].shot for _, c in strong} == {0}
    assert "Shot 5 reads 25.0% of shot 1." in flow(trace)


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(0, 6),
    own=st.sampled_from(["frame", "chunk", "shot"]),
    layout=st.sampled_from([PLAIN, WITH_SPANS]),
    seed=st.integers(0, 99),
)
def test_every_frame_spends_its_whole_budget_on_the_columns(k, own, layout, seed):
    trace = Trace()
    record_run(trace, layout, routing=RoutingConfig.of(top_k=k, tile=(1, 2, 2), own=own), steps=1, blocks=1, seed=seed)
    heat = heatmap(trace, "chunks")
    spent = np.nansum(heat.chosen_of_open * heat.open, axis=1)[[line.kind == "video" for line in heat.rows]]
    assert np.allclose(spent, k, atol=1e-2)


def test_what_is_always_seen_is_no_choice():
    trace = Trace()
    record_run(trace, WITH_SPANS)
    frames = heatmap(trace, "frames")
    assert np.array_equal(np.isnan(frames.chosen_of_open), frames.always == 1)
    assert np.all(np.diagonal(frames.always) == 1)  # its own frame
    assert np.all(frames.always[:, 0] == 1) and np.all(frames.always[[0, -1]] == 1)  # text is read, and reads all
    shots = heatmap(trace, "shots")
    assert np.allclose(np.diagonal(shots.always)[1:-1], [1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 2])
    assert not np.isnan(np.diagonal(shots.chosen_of_open)[1:-1]).any()  # other frames of the own shot are chosen


def test_of_its_own_frame_a_tile_always_sees_only_itself():
    trace = Trace()
    record_run(trace, PLAIN, routing=RoutingConfig.of(top_k=3, tile=(1, 2, 2), own="chunk"))
    frames = heatmap(trace, "frames")
    assert np.allclose(frames.always, np.eye(12) / 4) and np.allclose(frames.open, 1 - np.eye(12) / 4)
    assert np.allclose(np.diagonal(heatmap(trace, "chunks").always[:, ::4]), 1 / 4)


def test_what_causality_forbids_is_neither_seen_nor_open():
    trace = Trace()
    record_run(trace, PLAIN, routing=RoutingConfig.of(top_k=3, tile=(1, 2, 2), own="shot", causal=True))
    shots = heatmap(trace, "shots")
    assert np.array_equal(shots.always, np.eye(5)) and np.array_equal(shots.open, np.tri(5) - np.eye(5))
    assert np.array_equal(np.isnan(shots.chosen_of_open), np.triu(np.ones((5, 5), bool)))


@pytest.mark.parametrize("view", VIEWS)
def test_long_chunks_weigh_more_than_short_ones(view):
    """A cell is a part of its pairs. Frames of 3x3 tokens in tiles of two make chunks of 4, 2, 2 and 1 token."""
    layout, routing = TokenLayout(4 * 9, (4, 3, 3)), RoutingConfig.of(top_k=3, tile=(1, 2, 2), own="frame")
    table = build_chunks(layout, (0, 2), routing)
    chosen = torch.zeros(1, 2, table.length, len(table.chunks), dtype=torch.bool)
    table_rows = table.tensors("cpu").row_frame
    single = next(i for i, c in enumerate(table.chunks) if c.frame == 0 and c.length == 1)
    for head, picked in enumerate(([single], [i for i, c in enumerate(table.chunks) if c.frame == 0])):
        for column in picked:
            chosen[:, head, table_rows == 3, column] = True
    trace, counts = Trace(), Counts(table, 2, torch.device("cpu"))
    counts.add(slice(0, table.length), chosen)
    trace.ran_routed(0, 0, counts)
    trace.flush()
    cell = {"frames": (3, 0), "chunks": (3, slice(0, 4)), "shots": (1, 0)}[view]
    share = [heatmap(trace, view, head=head).chosen_of_open[cell] for head in range(2)]
    if view == "chunks":
        assert sorted(share[0]) == [0, 0, 0, 1] and np.all(share[1] == 1)
    else:
        of_frame = 1 if view == "frames" else 4  # one of two frames reads one of two
        assert share == [pytest.approx(1 / 9 / of_frame, rel=1e-3), pytest.approx(1 / of_frame)]


def test_views_keep_text_and_references_where_they_stand():
    trace = Trace()
    record_run(trace, WITH_SPANS)
    sizes = {"frames": (14, 14), "chunks": (14, 50), "shots": (7, 7)}
    for view in VIEWS:
        heat = heatmap(trace, view)
        assert heat.chosen_of_open.shape == heat.always.shape == sizes[view] == (len(heat.rows), len(heat.columns))
        assert [c.kind for c in heat.columns][:: len(heat.columns) - 1] == ["text", "reference"]
        assert [c.kind for c in heat.columns[1:-1]] == ["video"] * (len(heat.columns) - 2)
        assert [r.kind for r in heat.rows] == ["text", *["video"] * (len(heat.rows) - 2), "reference"]
    assert [(line.shot, line.frame) for line in heatmap(trace, "shots").rows[1:-1]] == list(enumerate(STARTS))


def test_context_windows_meet_on_the_frames_of_the_film():
    """Frames 0-1 and 1-2 were sampled in two windows: frame 1 was in both, frames 0 and 2 never met."""
    first = axes((0, 1), (0, 0), [Column("video", 0, f, False) for f in (0, 1)], always=[(0, 0), (1, 1)])
    second = axes((1, 2), (0, 1), [Column("video", s, f, False) for s, f in ((0, 1), (1, 2))], always=[(0, 0), (1, 1)])
    trace = hand_made((0, 0, first, [[[0.0, 0.2], [0.4, 0.0]]]), (0, 0, second, [[[0.0, 0.6], [0.8, 0.0]]]))
    heat = heatmap(trace, "frames")
    nan = np.nan
    assert np.allclose(
        heat.chosen_of_open, [[nan, 0.2, nan], [0.4, nan, 0.6], [nan, 0.8, nan]], equal_nan=True, atol=1e-3
    )
    assert np.array_equal(heat.always, np.eye(3))  # frames 0 and 2 are not "always seen", they never met
    assert np.array_equal(heat.met, [[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    assert [line.shot for line in heat.rows] == [0, 0, 1]


def test_windows_that_share_a_cell_are_averaged():
    both = [Column("video", 0, f, False) for f in (0, 1)]
    trace = hand_made(
        (0, 0, axes((0, 1), (0, 0), both), [[[0.0, 0.2], [0.0, 0.0]]]),
        (0, 0, axes((0, 1), (0, 0), both), [[[0.0, 0.6], [0.0, 0.0]]]),
    )
    assert heatmap(trace, "frames").chosen_of_open[0, 1] == pytest.approx(0.4)


def test_a_wrapped_window_shows_in_film_order():
    columns = [Column("video", 0, 0, False), Column("video", 1, 3, False)]
    trace = hand_made((0, 0, axes((3, 0), (1, 0), columns), [[[0.9, 0.0], [0.0, 0.1]]]))
    heat = heatmap(trace, "frames")
    assert [line.frame for line in heat.rows] == [0, 3]
    assert np.allclose(heat.chosen_of_open, [[0.0, 0.1], [0.9, 0.0]])


@pytest.fixture
def numbered():
    """One cell; its value tells step, block and head: 0.1 * step + 0.01 * block + 0.001 * head."""
    cell = axes((0,), (0,), [Column("video", 0, 1, False)])
    value = lambda s, b, h: 0.1 * s + 0.01 * b + 0.001 * h  # noqa: E731
    return hand_made(*((s, b, cell, [[[value(s, b, h)]] for h in range(3)]) for s in (1, 2, 4) for b in (0, 3)))


@pytest.mark.parametrize(
    ("chosen", "value"),
    [
        ({}, 0.1 * 7 / 3 + 0.01 * 1.5 + 0.001),
        ({"first_step": 2}, 0.1 * 3 + 0.015 + 0.001),
        ({"last_step": 1}, 0.1 + 0.015 + 0.001),
        ({"first_step": 2, "last_step": 2, "block": 3}, 0.2 + 0.03 + 0.001),
        ({"first_step": 4, "block": 0, "head": 2}, 0.4 + 0.002),
    ],
)
def test_steps_block_and_head_choose_what_is_averaged(numbered, chosen, value):
    assert heatmap(numbered, **chosen).chosen_of_open[0, 0] == pytest.approx(value)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"block": 2}, "block 2 routed nothing: choose one of 0, 3"),
        ({"head": 3}, "heads 0 to 2"),
        ({"first_step": 5}, "choose from steps 1-2, 4"),
        ({"first_step": 3, "last_step": 3}, "nothing was routed in steps 3 to 3"),
        ({"view": "film"}, "choose one of: frames, chunks, shots"),
    ],
)
def test_choices_that_hold_nothing_say_what_there_is(numbered, chosen, sentence):
    with pytest.raises(MoCError, match=sentence):
        heatmap(numbered, **chosen)


def test_an_empty_trace_says_what_to_do():
    with pytest.raises(MoCError, match="sample with the MODEL from MoC Apply first"):
        heatmap(Trace())
    assert flow(Trace()) == []


def test_heads_that_were_recorded_together_are_shown_together():
    cell = axes((0,), (0,), [Column("video", 0, 1, False)])
    trace = hand_made((0, 0, cell, [[[0.2]], [[0.6]]]), (0, 0, cell, [[[0.4]]]))
    heat = heatmap(trace, head=1)
    assert heat.chosen_of_open[0, 0] == pytest.approx(0.5) and heat.heads_together
    assert not heatmap(trace).heads_together


# The picture.


@pytest.mark.parametrize("view", VIEWS)
def test_the_picture_shows_the_planted_cell_brightest_and_hatches_what_is_always_seen(view):
    trace = Trace()
    record_run(trace, PLAIN, only(4, 0))
    heat = heatmap(trace, view)
    image = np.asarray(picture.draw(heat, trace.report()))
    x, y = picture._edges(heat.columns, picture.PLOT_W), picture._edges(heat.rows, picture.PLOT_H)
    plot = image[picture.TOP :, picture.LEFT :]

    def cell(row, column):
        return plot[y[row] + 4 : y[row + 1] - 4, x[column] + 4 : x[column + 1] - 4].reshape(-1, 3)

    brightest = np.unravel_index(np.nanargmax(heat.chosen_of_open), heat.chosen_of_open.shape)
    assert heat.rows[brightest[0]].shot == 4 and heat.columns[brightest[1]].shot == 0
    unread = len(heat.rows) - 1, len(heat.columns) // 2
    assert np.median(cell(*brightest), axis=0).sum() > np.median(cell(*unread), axis=0).sum()
    for row, column in np.ndindex(heat.chosen_of_open.shape):
        hatched = (cell(row, column) == picture.HATCH).all(-1).any()
        assert hatched == (heat.always[row, column] > 0)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (1, 2), (3, 500), (200, 200)], ids=["one cell", "one row", "many chunks", "long film"]
)
def test_any_size_fits_the_same_picture(rows, columns):
    lines = [Column("video", c * 4 // columns, c, False) for c in range(columns)]
    shots = [row * 4 // rows for row in range(rows)]
    trace = hand_made((0, 0, axes(range(rows), shots, lines), np.full((1, rows, columns), 0.1)))
    for view in VIEWS:
        image = picture.draw(heatmap(trace, view), trace.report())
        assert image.width == picture.WIDTH and 800 < image.height < 1400


def test_a_run_with_nothing_chosen_or_nothing_routed_is_a_picture_too():
    cell = axes((0,), (0,), [Column("text", -1, -1, True)], always=[(0, 0)])
    image = picture.draw(heatmap(hand_made((0, 0, cell, [[[0.0]]]))), "MoC on.")
    assert picture.as_image(image).shape == (1, image.height, picture.WIDTH, 3)
    trace = Trace()
    for reason in Reason:
        trace.ran_dense(reason)
    image = picture.as_image(picture.draw_text(trace.report()))
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1


def test_colours_grow_lighter_evenly():
    """CIE lightness, so that the order can be read in grey and by colour-blind eyes."""
    rgb = picture.colours(np.linspace(0, 1, 64)) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert steps.min() > 0 and lightness[-1] - lightness[0] > 70
    assert steps.max() < 2.5 * steps.mean()
