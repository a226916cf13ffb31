"""Blocks that stay dense, and blocks with chunks of their own."""

from __future__ import annotations

import pytest
import tiny
import torch
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.host import tables
from mixture_of_contexts.moc.trace.heatmap import VIEWS, heatmap
from mixture_of_contexts.moc.trace.reasons import Reason
from spies import apart, routed

BLOCKS = 3
ROUTING = RoutingConfig.of(top_k=2, own="frame", tile=(1, 2, 2))


def test_named_blocks_stay_dense_and_say_so():
    patched, trace = routed(tiny.load(), MoCSettings(ROUTING, Schedule(dense_blocks=(1, 99))))
    tiny.sample(patched)
    assert set(trace.blocks_seen) == {0, 2} and trace.dense == {Reason.BLOCK: 2}
    everywhere, _ = routed(tiny.load(), MoCSettings(ROUTING, Schedule(dense_blocks=tuple(range(BLOCKS)))))
    assert torch.equal(tiny.sample(everywhere), tiny.sample(tiny.load()))


def test_a_block_uses_the_chunks_it_was_given_and_the_others_do_not():
    finer = ROUTING.changed(tile=(1, 1, 1))
    patched, trace = routed(tiny.load(), MoCSettings(ROUTING, blocks=((2, finer),)))
    sampled = tiny.sample(patched)
    for record in trace.records:
        assert len(record.axes.columns) == (5 * 16 if record.block == 2 else 5 * 4)
    same, _ = routed(tiny.load(), MoCSettings(ROUTING, blocks=((2, ROUTING),)))
    plain, _ = routed(tiny.load(), MoCSettings(ROUTING))
    assert torch.equal(tiny.sample(same), tiny.sample(plain)) and apart(sampled, tiny.sample(plain)) > 1e-4


@pytest.mark.parametrize("view", VIEWS)
def test_the_heatmap_of_blocks_with_different_chunks_is_still_drawn(view):
    patched, trace = routed(tiny.load(), MoCSettings(ROUTING, blocks=((2, ROUTING.changed(tile=(1, 1, 1))),)))
    tiny.sample(patched)
    assert heatmap(trace, view).chosen_of_open.size


def test_blocks_that_differ_in_how_much_they_read_share_their_chunks(monkeypatch):
    built = []
    monkeypatch.setattr(tables, "build_chunks", lambda *a, make=tables.build_chunks: built.append(a[2]) or make(*a))
    more = tuple((b, ROUTING.changed(top_k=b + 1, descriptor="minmax")) for b in range(BLOCKS))
    patched, trace = routed(tiny.load(), MoCSettings(ROUTING, blocks=more))
    tiny.sample(patched)
    assert len(built) == 1 and trace.routed == 2 * BLOCKS
    assert len({r.density for r in trace.records}) == BLOCKS
