"""Chunks follow the content: frames, shots and kinds of token, whatever the grid and the window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moc.chunks.build import build_chunks, tile_shape
from moc.chunks.layout import Span, TokenLayout
from moc.chunks.table import TILE_ROWS
from moc.config import Partition, RoutingConfig
from moc.errors import MoCError
from tests.tools import brute
from tests.tools.cases import layouts, routings, shot_starts


@settings(max_examples=80, deadline=None)
@given(data=st.data(), layout=layouts(), routing=routings)
def test_every_token_has_one_place_and_chunks_are_what_brute_force_labels(data, layout, routing):
    starts = data.draw(shot_starts(layout.grid[0]))
    table = build_chunks(layout, starts, routing)
    assert sorted(table.order) == list(range(layout.length))
    assert table.chunks[0].start == 0 and table.chunks[-1].stop == layout.length
    assert all(a.stop == b.start for a, b in zip(table.chunks, table.chunks[1:], strict=False))
    assert all(a.stop == b.start for a, b in zip(table.groups, table.groups[1:], strict=False))
    label = brute.labels(layout, starts, routing)
    seen = [{label[t] for t in table.order[c.start : c.stop]} for c in table.chunks]
    assert all(len(names) == 1 for names in seen)
    assert len(set.union(*seen)) == len(table.chunks)


def test_frame_chunks_leave_the_sequence_as_it_is():
    table = build_chunks(TokenLayout(7 + 60, (5, 3, 4), 7, (Span("text", 0, 7),)), (0, 2), RoutingConfig())
    assert table.identity
    assert [c.length for c in table.chunks] == [7, 12, 12, 12, 12, 12]
    assert [c.shot for c in table.chunks] == [-1, 0, 0, 1, 1, 1]
    assert [(g.start, g.stop) for g in table.groups] == [(0, 7), (7, 31), (31, 67)]


def test_a_wrapped_context_window_brings_a_shot_together():
    """Frames 6, 7, 0, 1 of a film cut at frame 4: the second shot's frames come last in sorted order, not first."""
    layout = TokenLayout(8, (4, 1, 2), frame_ids=(6, 7, 0, 1))
    table = build_chunks(layout, (0, 4), RoutingConfig())
    assert table.order.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert [c.shot for c in table.chunks] == [0, 0, 1, 1]
    assert table.frames.tolist() == [2, 2, 3, 3, 0, 0, 1, 1]


def test_the_first_frame_of_a_shot_is_a_memory_of_its_own_whatever_frames_a_chunk_joins():
    table = build_chunks(TokenLayout(8, (4, 1, 2)), (0,), RoutingConfig.of(tile=(2, 1, 2), static="first frame"))
    assert [(c.length, c.linked) for c in table.chunks] == [(2, True), (4, False), (2, False)]


def test_a_window_of_frames_reaches_the_next_chunk_of_several_and_no_other_shot():
    routing = RoutingConfig.of(own="frame", tile=(2, 2, 2), window=1)
    layout = TokenLayout(8 * 4, (8, 2, 2))
    assert [g.own for g in build_chunks(layout, (0,), routing).groups] == [(0, 2), (0, 3), (1, 4), (2, 4)]
    assert [g.own for g in build_chunks(layout, (0, 4), routing).groups] == [(0, 2), (0, 2), (2, 4), (2, 4)]


@pytest.mark.parametrize(("window", "slabs"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)])
def test_a_window_reaches_whole_slabs_of_frames_on_either_side(window, slabs):
    """A chunk of two frames is seen as a whole or not at all."""
    routing = RoutingConfig.of(own="frame", window=window, tile=(2, 1, 2))
    table = build_chunks(TokenLayout(40, (20, 1, 2)), (0,), routing)
    assert [g.own for g in table.groups] == [(max(i - slabs, 0), min(i + slabs + 1, 10)) for i in range(10)]


@pytest.mark.parametrize("references", ["routed", "linked"])
def test_text_and_audio_are_always_seen_and_references_as_the_settings_say(references):
    spans = (Span("text", 0, 3), Span("audio", 3, 5), Span("reference", 5, 9))
    table = build_chunks(TokenLayout(17, (2, 2, 2), 9, spans), (0,), RoutingConfig.of(references=references))
    facts = {c.kind: (c.linked, c.routable) for c in table.chunks}
    seen, open_to_choice = (True, False), (False, True)
    asked = open_to_choice if references == "routed" else seen
    assert facts == {"text": seen, "audio": seen, "reference": asked, "video": open_to_choice}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (1560, (1, 30, 52)),  # the paper's Wan chunk: one latent frame at 480p
        (1280, (1, 30, 52)),  # nearer to a frame than to half a frame
        (5000, (3, 30, 52)),  # several whole frames
        (None, (1, 30, 52)),
    ],
)
def test_a_wanted_size_meets_frame_borders(wanted, expected):
    assert tile_shape((21, 30, 52), Partition(chunk_tokens=wanted)) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(4, 60), st.integers(4, 90), st.integers(16, 4000))
def test_a_wanted_size_is_met_within_a_factor_of_two(height, width, wanted):
    t, h, w = tile_shape((10, height, width), Partition(chunk_tokens=wanted))
    size = t * height * width if wanted >= height * width else height * width / (-(-height // h) * -(-width // w))
    assert wanted / 2 <= size <= 2 * wanted


@pytest.mark.parametrize(
    ("wanted", "lengths"),
    [(12, {16, 12, 9}), (300, {300, 200})],  # rows and columns in 4 + 3 + 3 of 10; frames in 3 + 2 + 2 of 7
)
def test_pieces_of_a_wanted_size_are_as_equal_as_they_can_be(wanted, lengths):
    """None is a small leftover."""
    table = build_chunks(TokenLayout(700, (7, 10, 10)), (0,), RoutingConfig.of(chunk_tokens=wanted))
    assert {c.length for c in table.chunks} == lengths


def test_a_big_video_is_cut_quickly_and_whole():
    layout = TokenLayout(180_000, (120, 30, 50))
    table = build_chunks(layout, tuple(range(0, 120, 15)), RoutingConfig.of(tile=(1, 8, 8), own="frame"))
    assert len(table.chunks) == 120 * 4 * 7
    assert np.array_equal(np.sort(table.order), np.arange(180_000))


def test_spans_that_leave_a_gap_are_refused():
    with pytest.raises(MoCError, match="do not tile"):
        TokenLayout(20, (2, 2, 2), 4, (Span("text", 0, 3),))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), layout=layouts(), routing=routings)
def test_query_tiles_hold_every_routed_row_once_and_never_two_shots(data, layout, routing):
    table = build_chunks(layout, data.draw(shot_starts(layout.grid[0])), routing)
    tiles = table.query_tiles()
    routed = [r for g in table.groups if g.routed for r in range(g.start, g.stop)]
    assert [r for start, stop in tiles for r in range(start, stop)] == routed
    shot = {r: g.shot for g in table.groups for r in range(g.start, g.stop)}
    assert all(len({shot[r] for r in range(*tile)}) == 1 for tile in tiles)
    assert all(0 < stop - start <= TILE_ROWS for start, stop in tiles)
    number = table.tensors("cpu").row_tile.tolist()
    assert len({number[a] for a, _ in tiles}) == len(tiles) and all(len(set(number[a:b])) == 1 for a, b in tiles)


def test_large_groups_are_tiled_alone_and_small_ones_together():
    frames = build_chunks(TokenLayout(400, (4, 10, 10)), (0, 2), RoutingConfig.of(own="frame"))
    assert frames.query_tiles()[:3] == [(0, 64), (64, 100), (100, 164)]
    chunks = build_chunks(TokenLayout(400, (4, 10, 10)), (0, 2), RoutingConfig.of(own="chunk", tile=(1, 5, 5)))
    assert chunks.query_tiles()[2:5] == [(128, 192), (192, 200), (200, 264)]


@pytest.mark.parametrize(
    ("frame", "tile", "k"),
    [
        ((16, 16), (1, 4, 4), 20),  # all that the demo model draws
        ((15, 26), (1, 4, 4), 20),  # 480p in LTX
        ((30, 40), (1, 8, 8), 32),
        ((30, 52), (1, 8, 8), 32),  # 480p in Wan
        ((45, 80), (1, 8, 8), 32),  # 720p
    ],
)
def test_tiles_that_follow_the_picture_are_larger_from_480p_on_and_more_of_them_are_chosen(frame, tile, k):
    routing, layout = RoutingConfig.of(tile="auto", top_k=20), TokenLayout(3 * frame[0] * frame[1], (3, *frame))
    plain = RoutingConfig.of(tile=tile, top_k=k)
    assert routing.on(layout.grid) == plain == plain.on(layout.grid)
    table, same = (build_chunks(layout, (0,), r) for r in (routing, plain))
    assert table.chunks == same.chunks and (table.order == same.order).all()
    assert table.top_k(routing) == table.top_k(plain) == k
    assert table.top_k(routing.changed(density=0.5)) == same.top_k(plain.changed(density=0.5))
