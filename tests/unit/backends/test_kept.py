"""Choices that later calls take in place of a selection: on every backend, and against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moc.attention import moc_attention
from moc.backends import BACKENDS, eager, head_split, reference, triton
from moc.backends.kept import KeptChoice
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from tests.tools import brute
from tests.tools.cases import qkv, tiles_of
from tests.unit.backends.test_registries import EVERY, Choice

LAYOUT = TokenLayout(4 * 4 * 6 + 3, (4, 4, 6), 3, (Span("text", 0, 3),))
STARTS = (0, 2)
CASES = {
    "small tiles": dict(tile=(1, 2, 2), own="frame", top_k=3, tail="pooled", descriptor="minmax"),
    "frames": dict(own="frame", top_k=1),
    "large tiles": dict(tile=(2, 4, 6), own="chunk", top_k=1, tail="pooled"),
    "a share": dict(tile=(1, 2, 2), own="frame", rule="top-p", top_p=0.4),
    "union": dict(tile=(1, 2, 2), own="frame", top_k=2, lists="union", tail="pooled", shots_kept=1),
    "a choice for a chunk": dict(tile=(1, 2, 2), own="none", shared=1, top_k=2, near="box", box=(1, 1, 2)),
    "a density for every head": dict(tile=(1, 2, 2), own="chunk", head_density=(0.1, 0.4)),
    "nothing": dict(tile=(1, 2, 2), own="frame", top_k=0, tail="pooled"),
}


def steps(backend):
    """q, k, v of two steps."""
    dtype = torch.float32 if backend == "triton" else torch.float64
    return [[x.to(dtype) for x in qkv(LAYOUT, batch=2, dim=16, seed=seed)] for seed in (0, 7)]


def selects_nothing(monkeypatch, backend):
    """From now on, whoever selects fails."""

    def fails(*_, **__):
        raise AssertionError("selected")

    module = {"eager": eager, "reference": reference}.get(backend)
    if module is None:
        from moc.backends.triton import forward as module

        for name in ("choose", "stream", "chosen", "_kept_shots", "union_masks"):
            monkeypatch.setattr(module, name, fails)
    else:
        monkeypatch.setattr(module, "Selection" if backend == "eager" else "select", fails)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", EVERY)
def test_a_kept_choice_of_the_same_queries_gives_the_same_bits_and_selects_nothing(backend, case, monkeypatch):
    routing = RoutingConfig.of(**CASES[case])
    table = build_chunks(LAYOUT, STARTS, routing)
    first, _ = steps(backend)
    kept, seen, again = KeptChoice(), Choice(), Choice()
    plain = moc_attention(*first, table, routing, backend=backend)
    lse, lse_again = (torch.zeros(first[0].shape[:-1], dtype=first[0].dtype) for _ in "ab")
    how = dict(backend=backend, kept=kept)
    assert torch.equal(moc_attention(*first, table, routing, record=seen, lse=lse, **how), plain)
    assert not kept.taken and kept.bytes
    selects_nothing(monkeypatch, backend)
    assert torch.equal(moc_attention(*first, table, routing, record=again, lse=lse_again, **how), plain)
    assert kept.taken and torch.equal(lse, lse_again)
    assert all(map(torch.equal, seen.rows, again.rows)) and len(seen.rows) == len(again.rows)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", EVERY)
def test_a_stale_choice_is_attended_as_brute_force_does(backend, case):
    """What the first step's queries choose, read by those of the second."""
    routing = RoutingConfig.of(**CASES[case])
    table = build_chunks(LAYOUT, STARTS, routing)
    arrays = [[x.double().numpy() for x in step] for step in steps(backend)]
    counts = [brute.count_of_head(table, routing, head) for head in range(2)]
    _, chosen = brute.attend(*arrays[0], LAYOUT, STARTS, routing, 0.25, tiles_of(table), counts)
    expected = np.zeros_like(arrays[1][0])
    label = brute.labels(LAYOUT, STARTS, routing)
    members: dict = {}
    for token, name in enumerate(label):
        members.setdefault(name, []).append(token)
    for (b, h, i), mine in chosen.items():
        q, k, v = (x[b, h] for x in arrays[1])
        expected[b, h, i] = brute._one(k @ q[i], q[i], k, v, label[i], mine, members, routing, 0.25)[0]
    kept = KeptChoice()
    for step in steps(backend):
        out = moc_attention(*step, table, routing, backend=backend, scale=0.25, kept=kept)
    assert kept.taken
    tolerance = dict(rtol=0, atol=5e-5) if backend == "triton" else dict(rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), **tolerance)


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_a_choice_of_another_call_is_made_anew(backend):
    routing = RoutingConfig.of(**CASES["small tiles"])
    table = build_chunks(LAYOUT, STARTS, routing)
    first, second = steps(backend)
    kept = KeptChoice()
    moc_attention(*first, table, routing, backend=backend, kept=kept)
    more = routing.changed(top_k=4)
    other = build_chunks(LAYOUT, (0, 1), routing)
    half = [x[:1] for x in second]
    for inputs, chunks, asked in ((second, table, more), (second, other, routing), (half, table, routing)):
        want = moc_attention(*inputs, chunks, asked, backend=backend)
        assert torch.equal(moc_attention(*inputs, chunks, asked, backend=backend, kept=kept), want) and not kept.taken
        moc_attention(*inputs, chunks, asked, backend=backend, kept=kept)
        assert kept.taken, "it was kept all the same"
    another = "reference" if backend == "eager" else "eager"
    moc_attention(*half, table, routing, backend=another, kept=kept)
    assert not kept.taken


def test_nothing_is_kept_where_there_is_no_room_and_what_was_kept_before_is_gone():
    routing = RoutingConfig.of(**CASES["small tiles"])
    table = build_chunks(LAYOUT, STARTS, routing)
    first, _ = steps("eager")
    asked = []
    kept = KeptChoice(room=lambda size: asked.append(size) or False)
    want = moc_attention(*first, table, routing, backend="eager")
    for _ in range(2):
        assert torch.equal(moc_attention(*first, table, routing, backend="eager", kept=kept), want)
        assert kept.refused and not kept.taken and not kept.bytes
    words = -(-len(table.chunks) // 32)
    assert asked == [4 * words * 4 * 96] * 2, "the rows of the video choose, in two samples of two heads"


def test_choices_are_not_kept_in_training():
    routing = RoutingConfig.of(**CASES["small tiles"])
    table = build_chunks(LAYOUT, STARTS, routing)
    q, k, v = steps("eager")[0]
    with pytest.raises(MoCError, match="without training"):
        moc_attention(q, k, v, table, routing, training=True, kept=KeptChoice())
    with pytest.raises(MoCError, match="without training"):
        moc_attention(q.requires_grad_(), k, v, table, routing, kept=KeptChoice())


def test_a_call_that_runs_out_of_memory_gives_up_what_is_kept_first(monkeypatch):
    """Then it goes on with fewer heads at a time, of which nothing is kept."""
    from tests.tools.cases import OnGpu

    routing = RoutingConfig.of(**CASES["small tiles"], static="none")
    table = build_chunks(LAYOUT, STARTS, routing)
    given_up, tried = [], []

    def attend(q, *args, kept, **kwargs):
        tried.append((q.shape[1], kept is not None, len(given_up)))
        if q.shape[1] > 1:
            raise torch.OutOfMemoryError("2 GiB")
        return q

    monkeypatch.setitem(BACKENDS, "triton", replace(triton.BACKEND, attend=attend, supports=lambda call: None))
    monkeypatch.setattr("moc.attention.permute.sort", lambda x, table: x)
    monkeypatch.setattr("moc.attention.permute.unsort", lambda x, table, like: x)
    kept = KeptChoice(short=lambda: given_up.append(True))
    q, k, v = (x.float().as_subclass(OnGpu) for x in steps("eager")[0])
    head_split.start()
    with torch.no_grad():
        moc_attention(q, k, v, table, routing, kept=kept)
    head_split.start()
    assert tried == [(2, True, 0), (1, False, 1), (1, False, 1)] and kept.refused


@pytest.mark.slow
@pytest.mark.skipif(triton._triton_missing() is not None, reason="Triton is not installed")
def test_chunks_that_a_kernel_writes_down_slot_by_slot_are_kept_as_they_are(monkeypatch):
    from moc.backends.triton.dataflow import Wants
    from moc.backends.triton.forward import run

    routing = RoutingConfig.of(**CASES["large tiles"]).changed(top_k=2)
    layout = TokenLayout(96, (4, 4, 6))
    table = build_chunks(layout, STARTS, routing)
    q, k, v = (x.float() for x in qkv(layout, batch=1, dim=16))
    kept, how = KeptChoice(), dict(wants=Wants(selection="topk_stream"))
    want = run(q, k, v, table, routing, 0.25, kept=kept, **how)
    assert kept.bytes == 2 * 96 * 2 * (2 + 1), "of every row and head two chunks, and how many they are"
    selects_nothing(monkeypatch, "triton")
    assert torch.equal(run(q, k, v, table, routing, 0.25, kept=kept, **how), want) and kept.taken
