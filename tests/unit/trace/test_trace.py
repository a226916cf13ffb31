"""The trace says what was chosen: planted routing shows exactly where it was planted."""

import sys

import numpy as np
import pytest
import torch

from moc.attention import moc_attention
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from moc.trace.axes import MOST_COLUMNS, axes_of
from moc.trace.pair_counts import Counts
from moc.trace.reasons import Reason
from moc.trace.trace import Trace

LAYOUT = TokenLayout(3 + 6 * 16, (6, 4, 4), 3, (Span("text", 0, 3),))
STARTS = (0, 2, 4)


def planted(reader: int, read: int, dim: int = 8):
    """q and k of which every token of frame `reader` fits frame `read` and nothing else fits anything."""
    q, k = torch.zeros(1, 2, LAYOUT.length, dim), torch.zeros(1, 2, LAYOUT.length, dim)
    q[..., 3 + 16 * reader : 3 + 16 * (reader + 1), 0] = 1.0
    k[..., 3 + 16 * read : 3 + 16 * (read + 1), 0] = 1.0
    return q, k, torch.randn(1, 2, LAYOUT.length, dim)


def run(trace: Trace, routing: RoutingConfig, q, k, v, step=0, block=0):
    table = build_chunks(LAYOUT, STARTS, routing)
    counts = trace.counts(table, routing, q, k)
    moc_attention(q, k, v, table, routing, record=counts)
    trace.ran_routed(step, block, counts)
    trace.flush()
    return trace.records[-1]


def test_a_planted_link_shows_in_its_cell():
    record = run(Trace(), RoutingConfig.of(top_k=1, own="shot"), *planted(reader=5, read=1))
    frames = [c.frame for c in record.axes.columns]
    assert record.chosen[:, 5, frames.index(1)].eq(1).all()
    assert record.chosen[:, 5].sum() == 2  # one chunk, two heads
    assert record.axes.shots == (0, 0, 1, 1, 2, 2)


def test_what_is_always_seen_is_marked_and_not_counted_as_chosen():
    record = run(Trace(), RoutingConfig.of(top_k=2, own="shot"), *planted(5, 1))
    always = record.axes.always
    assert record.axes.columns[0].kind == "text" and always[:, 0].all()
    assert always[2].tolist() == [1, 0, 0, 1, 1, 0, 0]
    assert torch.equal(record.axes.open, 1 - always)
    assert (record.chosen[:, always == 1] == 0).all()


def test_the_density_is_the_kept_share_of_pairs():
    routing = RoutingConfig.of(top_k=2, own="shot")
    record = run(Trace(), routing, *planted(5, 1))
    assert abs(record.density - build_chunks(LAYOUT, STARTS, routing).density(2, False)) < 1e-6


def test_many_small_chunks_are_shown_by_frame():
    layout = TokenLayout(4 * 400, (4, 20, 20))
    routing = RoutingConfig.of(top_k=5, tile=(1, 1, 2), own="frame")
    table = build_chunks(layout, (0,), routing)
    assert len(table.chunks) > MOST_COLUMNS
    counts = Counts(table, 1, torch.device("cpu"))
    q, k, v = (torch.randn(1, 1, layout.length, 8) for _ in range(3))
    moc_attention(q, k, v, table, routing, record=counts)
    trace = Trace()
    trace.ran_routed(0, 0, counts)
    trace.flush()
    share = trace.records[0].chosen.float()
    assert share.shape == (1, 4, 4)
    torch.testing.assert_close(share.sum(-1) * 200, torch.full((1, 4), 5.0), rtol=0.02, atol=0)


def test_spans_that_touch_stay_apart_where_chunks_are_shown_by_frame():
    spans = (Span("reference", 1600, 1610), Span("reference", 1610, 1620))
    table = build_chunks(TokenLayout(1620, (4, 20, 20), 0, spans), (0,), RoutingConfig.of(tile=(1, 1, 2)))
    assert [c.tokens for c in axes_of(table).columns] == [400, 400, 400, 400, 10, 10]


def test_counting_by_rows_or_by_frames_is_the_same():
    table = build_chunks(LAYOUT, STARTS, RoutingConfig.of(top_k=1, own="frame"))
    chosen = torch.rand(2, 3, table.length, len(table.chunks)) > 0.5
    frame = table.tensors("cpu").row_frame
    pairs = chosen * table.tensors("cpu").lengths
    sums = torch.stack([pairs[:, :, frame == f].float().sum((0, 2)) for f in range(6)], 1)
    by_rows, by_frames = Counts(table, 3, torch.device("cpu")), Counts(table, 3, torch.device("cpu"), batch=2)
    for low in range(0, table.length, 40):
        by_rows.add(slice(low, low + 40), chosen[:, :, low : low + 40])
    by_frames.frame_pairs(3)[0].add_(sums)
    trace = Trace()
    for counts in (by_rows, by_frames):
        trace.ran_routed(0, 0, counts)
    one, other = trace.flush()
    assert torch.equal(one.chosen, other.chosen) and one.density == other.density
    wanted = torch.stack([chosen[:, :, frame == f].float().mean((0, 2)) for f in range(6)], 1)  # over both films
    torch.testing.assert_close(one.chosen.float(), wanted, rtol=0, atol=1e-3)
    density = table.density(0, False) + float(sums.sum()) / (2 * 3 * table.length**2)
    assert one.density == pytest.approx(density, abs=1e-5)


def test_shares_of_a_batch_are_of_all_its_pairs():
    """Twice the same film keeps what it keeps once."""
    routing, inputs = RoutingConfig.of(top_k=2, own="shot"), planted(5, 1)
    once, twice = run(Trace(), routing, *inputs), run(Trace(), routing, *(x.repeat(2, 1, 1, 1) for x in inputs))
    assert torch.equal(once.chosen, twice.chosen) and once.density == pytest.approx(twice.density)


def test_attention_is_where_full_attention_would_look():
    """Frames of 8 tokens or fewer are measured whole, so the numbers are those of a plain softmax."""
    layout, routing = (
        TokenLayout(2 + 6 * 4, (6, 2, 2), 2, (Span("text", 0, 2),)),
        RoutingConfig.of(top_k=1, own="frame"),
    )
    table = build_chunks(layout, STARTS, routing)
    q, k, v = (torch.randn(2, 3, layout.length, 8, dtype=torch.float64) for _ in range(3))
    trace = Trace(keep="routing and attention")
    counts = trace.counts(table, routing, q, k, 0.7)
    moc_attention(q, k, v, table, routing, record=counts, scale=0.7)
    trace.ran_routed(0, 0, counts)
    (record,) = trace.flush()
    softmax = (q @ k.mT * 0.7).softmax(-1).mean(0)[:, 2:].unflatten(1, (6, 4)).mean(2)  # [H, F, N]
    whole = torch.stack([softmax[..., :2].sum(-1), *softmax[..., 2:].unflatten(-1, (6, 4)).sum(-1).unbind(-1)], -1)
    torch.testing.assert_close(record.mass.double(), whole, rtol=0, atol=1e-3)
    assert trace.records[0].chosen.shape == record.mass.shape


def test_what_a_pass_counted_is_moved_at_its_end_and_may_be_taken_over_later():
    trace, routing = Trace(), RoutingConfig.of(top_k=1, own="shot")
    table = build_chunks(LAYOUT, STARTS, routing)
    q, k, v = planted(5, 1)
    for step in range(2):
        counts = trace.counts(table, routing, q, k)
        moc_attention(q, k, v, table, routing, record=counts)
        trace.ran_routed(step, 0, counts)
        assert not trace.move() and not trace.records, "nothing is on its way where there is no GPU"
    assert [r.step for r in trace.arrived()] == [r.step for r in trace.records] == [0, 1]
    assert torch.equal(trace.records[0].chosen, trace.records[1].chosen)
    assert not trace.arrived() and len(trace.records) == 2
    trace.ran_routed(2, 0, counts)
    trace.move()
    trace.start()
    assert not trace.arrived(), "a run that was cancelled leaves nothing to the next one"


def test_off_keeps_nothing_and_still_says_what_ran():
    trace = Trace(keep="off")
    assert trace.counts(None, None, None, None) is None
    trace.ran_routed(3, 1, None)
    trace.flush()
    assert not trace.records and trace.routed == 1 and "trace is off on MoC Apply" in trace.report()
    with pytest.raises(MoCError, match="choose one of: routing, routing and attention, off"):
        Trace(keep="all")


def test_a_full_trace_says_where_it_stopped(monkeypatch):
    trace, routing = Trace(), RoutingConfig.of(top_k=1, own="shot")
    run(trace, routing, *planted(5, 1))
    monkeypatch.setattr("moc.trace.trace.MOST_BYTES", 0)
    for step in (1, 2):
        run(trace, routing, *planted(5, 1), step=step)
    assert len(trace.records) == 1 and trace.notes == [
        "the trace is full: the heatmap shows only the calls up to step 1"
    ]


def test_heads_are_kept_apart_only_while_memory_lasts(monkeypatch):
    trace, routing = Trace(), RoutingConfig.of(top_k=1, own="shot")
    assert run(trace, routing, *planted(5, 1)).chosen.shape[0] == 2
    monkeypatch.setattr("moc.trace.trace.MOST_BYTES", trace._bytes)
    assert run(trace, routing, *planted(5, 1), step=1).chosen.shape[0] == 1


def test_a_new_run_forgets_the_last_one_and_the_report_names_reasons():
    trace = Trace()
    assert "nothing sampled yet" in trace.report()
    run(trace, RoutingConfig.of(top_k=1, own="shot"), *planted(5, 1))
    trace.ran_dense(Reason.SCHEDULE)
    trace.note("cut 1 moved from frame 8 to 9")
    report = trace.report()
    assert "1 of 2" in report and Reason.SCHEDULE.value in report and "cut 1 moved" in report
    trace.start()
    assert not trace.records and not trace.dense and "nothing sampled yet" in trace.report()


def test_a_run_of_many_windows_keeps_the_geometry_of_the_last(monkeypatch):
    most = 5
    monkeypatch.setattr("moc.trace.trace.MOST_TABLES", most)
    trace, routing, tables = Trace(), RoutingConfig.of(top_k=1, own="shot"), []
    for frames in range(2, 2 + most + 9):
        layout = TokenLayout(frames * 4, (frames, 2, 2))
        tables.append(build_chunks(layout, (0, 1), routing))
        q, k, v = torch.randn(3, 1, 2, layout.length, 8)
        counts = trace.counts(tables[-1], routing, q, k)
        moc_attention(q, k, v, tables[-1], routing, record=counts)
        trace.ran_routed(0, 0, counts)
    assert len(trace._geometry) == most
    assert [len(r.axes.frames) for r in trace.flush()] == list(range(2, 2 + most + 9))


def by_group(table, causal):
    """always and open of every frame and chunk, in pairs: group by group."""
    always, able = np.zeros((2, table.layout.grid[0], len(table.chunks)))
    for group in (g for g in table.groups if g.routed):
        for row in range(group.start, group.stop):
            for i, chunk in enumerate(table.chunks):
                seen = chunk.linked or group.own[0] <= i < group.own[1]
                always[table.frames[row], i] += seen * chunk.length
                free = chunk.routable and not seen and not (causal and chunk.shot > group.shot)
                able[table.frames[row], i] += free * chunk.length
    return always, able


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("static", ["none", "first frame", "first tokens"])
@pytest.mark.parametrize("own, window", [("chunk", 0), ("frame", 0), ("frame", 1), ("shot", 0)])
def test_what_is_seen_and_open_is_what_every_row_sees(own, window, static, causal):
    layout = TokenLayout(3 + 5 * 6 + 2, (5, 2, 3), 3, (Span("text", 0, 3), Span("reference", 33, 35)))
    routing = RoutingConfig.of(tile=(2, 2, 2), own=own, window=window, static=static, static_tokens=4)
    table = build_chunks(layout, (0, 3), routing)
    axes = axes_of(table, causal)
    pairs = layout.frame_tokens * np.array([c.length for c in table.chunks])
    for found, wanted in zip((axes.always, axes.open), by_group(table, causal)):
        np.testing.assert_allclose(found.numpy(), wanted / pairs, rtol=1e-6)
    assert axes.shots == (0, 0, 0, 1, 1) and [c.tokens for c in axes.columns] == [c.length for c in table.chunks]


def test_the_geometry_of_tiny_tiles_takes_no_array_per_group():
    """One group per chunk: as many array operations as groups, each over all chunks, would be quadratic."""
    table = build_chunks(TokenLayout(4 * 32 * 32, (4, 32, 32)), (0,), RoutingConfig.of(tile=(1, 1, 1), own="chunk"))
    calls = 0

    def count(frame, event, _):
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        axes_of(table)
    finally:
        sys.setprofile(before)
    assert len(table.groups) == len(table.chunks) == 4096
    assert calls < 2 * len(table.chunks)  # one for every chunk's length
