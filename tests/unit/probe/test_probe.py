"""What the probe says of a few rows is what the reference computes for them, and what counting one by one gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moc.backends import reference
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import PRESETS, MoCSettings, RoutingConfig
from moc.probe import sampled_error
from moc.probe.log import ProbeLog
from tests.tools import brute
from tests.tools.cases import layouts, qkv, routings, shot_starts

LAYOUT = TokenLayout(6 * 20, (6, 4, 5))
SHOTS = (0, 2, 4)


def sorted_qkv(layout, table, **how):
    return [x.index_select(-2, table.tensors("cpu").order) for x in qkv(layout, **how)]


@settings(max_examples=30, deadline=None)
@given(data=st.data(), layout=layouts(), routing=routings, count=st.integers(1, 30))
def test_the_error_is_that_of_the_reference(data, layout, routing, count):
    table = build_chunks(layout, data.draw(shot_starts(layout.grid[0])), routing)
    q, k, v = sorted_qkv(layout, table)
    rows = sampled_error.sample_rows(table, count)
    found = sampled_error.sampled_error(q, k, v, table, [routing, RoutingConfig.of(top_k=0)], rows, scale=0.7)
    exact = routing.changed(lists="token", precision="16 bits")
    routed = reference.attend(q, k, v, table, exact, scale=0.7, training=False, record=None)
    dense = torch.softmax(q @ k.mT * 0.7, -1) @ v
    expected = (routed - dense)[:, :, rows].square().sum((0, 2, 3))
    torch.testing.assert_close(found.error[0], expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.size, dense[:, :, rows].square().sum((0, 2, 3)))
    assert found.rows == found.cpu().rows == 2 * len(rows)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), layout=layouts(), routing=routings)
def test_recall_and_kept_keys_are_counted_one_by_one_in_float64(data, layout, routing):
    """Counted without any code of the method: a key is read if the brute force read it."""
    starts = data.draw(shot_starts(layout.grid[0]))
    routing = routing.changed(lists="token", head_density=routing.budget.head_density[:1], precision="16 bits")
    table = build_chunks(layout, starts, routing)
    q, k, v = qkv(layout, batch=1, heads=1, dim=4)
    rows = sampled_error.sample_rows(table, 8)
    order = table.tensors("cpu").order
    found = sampled_error.sampled_error(
        *(x.index_select(-2, order) for x in (q, k, v)), table, [routing], rows, scale=0.7
    )

    label = brute.labels(layout, starts, routing)
    counts = [brute.count_of_head(table, routing, 0)]
    _, chosen = brute.attend(q.numpy(), k.numpy(), v.numpy(), layout, starts, routing, 0.7, (), counts)
    kept = mass = across = abroad = 0.0
    for i in order[rows].tolist():
        weight = np.exp(k[0, 0].numpy() @ q[0, 0, i].numpy() * 0.7)
        for j, share in enumerate(weight / weight.sum()):
            read = brute._mandatory(label[i], label[j], routing) or label[j] in chosen[0, 0, i]
            other = label[j][0] == "video" and label[j][1] != label[i][1]
            kept, mass = kept + read, mass + share * read
            across, abroad = across + share * (read and other), abroad + share * other
    torch.testing.assert_close(
        torch.stack([found.kept[0, 0], found.mass[0, 0], found.across[0, 0], found.abroad[0]]),
        torch.tensor([kept, mass, across, abroad], dtype=torch.float64),
        rtol=1e-10,
        atol=1e-12,
    )


def test_reading_everything_loses_nothing_and_reading_less_loses_more():
    routings = [RoutingConfig.of(top_k=k, tile=(1, 2, 2), own="frame") for k in (1, 4, 16, 1000)]
    table = build_chunks(LAYOUT, SHOTS, routings[0])
    found = sampled_error.sampled_error(
        *sorted_qkv(LAYOUT, table), table, routings, sampled_error.sample_rows(table, 60)
    )
    error = found.error.sum(1)
    assert (error[:-1] > error[1:]).all() and error[-1] < 1e-20
    assert (found.kept[-1] == found.rows * LAYOUT.length).all()
    torch.testing.assert_close(found.mass[-1], torch.full((2,), float(found.rows), dtype=torch.float64))


def test_far_away_logits_do_not_overflow():
    """What is left after the largest chunks are taken out may be e^-1000 of them; its own softmax is still one."""
    routing = RoutingConfig.of(top_k=0, own="chunk", tile=(1, 2, 2))
    table = build_chunks(LAYOUT, SHOTS, routing)
    q, k, v = sorted_qkv(LAYOUT, table, dtype=torch.float32)
    found = sampled_error.sampled_error(q * 100, k * 100, v, table, [routing], sampled_error.sample_rows(table, 60))
    assert found.error.isfinite().all() and found.size.isfinite().all()


@pytest.mark.parametrize("elements", [1, 2**12])
def test_blocks_change_nothing(elements, monkeypatch):
    routings = [RoutingConfig.of(top_k=k, tile=(1, 2, 2), own="frame", tail="pooled") for k in (1, 4)]
    table = build_chunks(LAYOUT, SHOTS, routings[0])
    inputs = sorted_qkv(LAYOUT, table), table, routings, sampled_error.sample_rows(table, 30)
    whole = sampled_error.sampled_error(*inputs[0], *inputs[1:])
    monkeypatch.setattr(sampled_error, "BLOCK_ELEMENTS", elements)
    for found, expected in zip(
        vars(sampled_error.sampled_error(*inputs[0], *inputs[1:])).values(), vars(whole).values(), strict=True
    ):
        torch.testing.assert_close(found, expected)


@settings(max_examples=40, deadline=None)
@given(layout=layouts(), count=st.integers(1, 200))
def test_rows_are_video_of_every_part_none_twice_always_the_same(layout, count):
    table = build_chunks(layout, (0,), RoutingConfig())
    rows = sampled_error.sample_rows(table, count)
    video = layout.grid[0] * layout.grid[1] * layout.grid[2]
    assert len(rows) == min(count, video) and rows.unique().equal(rows)
    assert (table.tensors("cpu").row_frame[rows] >= 0).all()
    assert rows.equal(sampled_error.sample_rows(table, count))
    if count >= layout.grid[0] * 2:
        assert len(table.tensors("cpu").row_frame[rows].unique()) == layout.grid[0]


def test_a_block_that_is_called_twice_in_a_step_is_added_up():
    log = ProbeLog(MoCSettings(RoutingConfig.of(top_k=1, own="frame")), rows_asked=8)
    log.start([1.0, 0.0])
    q, k, v = qkv(LAYOUT)
    sums = []
    for _ in range(2):
        log.add(
            0, 0, LAYOUT, SHOTS, (q, k, v), dense=v, routed=3 * v, density=0.5, seconds=(2.0, 1.0), scale=None
        )  # fmt: skip
        call = log.calls[0, 0]
        sums.append((call.error, call.size, call.look.error, call.look.size, call.asked.error, call.asked.size))
        rows = call.look.rows
    for once, twice in zip(*sums, strict=True):
        torch.testing.assert_close(twice, 2 * once)
    torch.testing.assert_close(sums[0][0], 4 * sums[0][1])
    assert rows == 2 * 2 * 8 and call.density == [0.5, 0.5], "two calls of two films"


@pytest.mark.parametrize(("frame", "tile", "k"), [((4, 8), (1, 4, 4), 20), ((30, 52), (1, 8, 8), 32)])
def test_the_asked_chunks_are_those_of_the_picture_at_hand(frame, tile, k):
    log, layout = ProbeLog(PRESETS["recommended"], chunkings=()), TokenLayout(6 * frame[0] * frame[1], (6, *frame))
    log._tables_of(layout, (0,))
    assert (log.options[0].partition.tile, log.options[0].budget.top_k) == (tile, k)
