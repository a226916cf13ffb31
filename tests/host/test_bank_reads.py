"""What the trace tells of windows that read a bank."""

from __future__ import annotations

import pytest
import tiny
import torch
from banks import BLOCKS, FIVE, NEW, TEN, windows
from mixture_of_contexts.moc.host import apply_moc
from mixture_of_contexts.moc.host.windows import reader as room
from mixture_of_contexts.moc.trace.heatmap import flow, heatmap
from mixture_of_contexts.moc.trace.trace import Trace
from mixture_of_contexts.moc.windows import SHOTS
from mixture_of_contexts.nodes.windows import MoCWindows
from spies import apart, little, routed


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "routed"])
def test_the_trace_tells_which_shot_read_which(dense, monkeypatch):
    """Live, pass by pass, and exactly: 16 tokens a frame are few enough to look at all of them."""
    told, merged, beside = [], {}, room.attend
    monkeypatch.setattr("mixture_of_contexts.moc.trace.bank_reads.ROWS", 16)

    def spy(q, own, parts, scale, watch):
        out, share = beside(q, own, parts, scale, watch)
        merged[len(merged)] = share
        return out, share

    monkeypatch.setattr(room, "attend", spy)
    model, trace = routed(tiny.load(), little(min_tokens=10_000 if dense else 1), FIVE)
    live = trace.arrived
    monkeypatch.setattr(trace, "arrived", lambda: told.append(live()) or told[-1])
    tiny.sample(windows(model, bank_frames=0), shape=TEN)
    assert bool(trace.records) != dense and len(trace.reads) == (3 * 2 - 1) * BLOCKS
    assert sum(map(len, told)) == len(trace.records) + len(trace.reads) and len(told) > 3
    for record, share in zip(trace.reads, merged.values(), strict=True):
        of_frame = share.unflatten(-1, (-1, 16)).mean(-1)[0]
        assert apart(record.mass.float().nan_to_num(0).sum(-1), of_frame) < 1e-3
    heat = heatmap(trace, "bank")
    assert [line.shot for line in heat.rows] == [line.shot for line in heat.columns] == [0, 1, 2, 3, 4]
    together = [{0, 1}, {2, 3}, {4}]
    for shot, others in ((shot, some) for some in together for shot in some):
        assert {c for c in range(5) if not heat.met[shot, c]} == others, "its own window is not the bank"
    assert len(flow(trace)) >= 5 and all("through the bank" in line for line in flow(trace)[-5:])


def test_no_trace_costs_nothing(monkeypatch):
    monkeypatch.setattr(room, "BankCounts", None)
    tiny.sample(windows(tiny.load()), shape=TEN)
    trace = Trace(keep="off")
    tiny.sample(windows(apply_moc(tiny.load(), FIVE, little(), trace)), shape=TEN)
    assert trace.routed and not trace.reads


@NEW
def test_the_frame_in_front_of_a_window_is_not_told(monkeypatch):
    model, trace = routed(tiny.load(), little(), FIVE)
    model = MoCWindows.execute(model, FIVE, SHOTS, 13, 0, bank="on", bank_shots="1").args[0]
    tiny.sample(model, shape=TEN, steps=1)
    second = trace.reads[0]
    assert [line.frame for line in second.axes.rows] == [3, 4, 5, 6, 7]
    assert torch.isnan(second.mass[:, 0]).all() and not torch.isnan(second.mass[:, 1:]).any()
