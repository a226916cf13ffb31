"""A call that finds too little memory is made for fewer heads at a time, and gives the same."""

from dataclasses import replace

import pytest
import torch

from moc.attention import moc_attention
from moc.backends import BACKENDS, head_split, health, reference
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.trace.pair_counts import Counts
from tests.tools.cases import OnGpu, qkv

LAYOUT = TokenLayout(64, (4, 4, 4))
ROUTING = RoutingConfig.of(top_k=1, own="frame")
HEADS = 5


@pytest.fixture
def tried(monkeypatch):
    """Heads of every try; the kernels are the reference, and find memory for `tried.fit` heads."""

    class Tried(list):
        fit = 2

    tried = Tried()

    def attend(q, k, v, table, routing, *, scale, training, record, lse, kept):
        tried.append(q.shape[1])
        q, k, v = (x.as_subclass(torch.Tensor) for x in (q, k, v))
        how = dict(scale=scale, training=training, record=record, lse=lse, kept=kept)
        out = reference.attend(q, k, v, table, routing, **how)
        if q.shape[1] > tried.fit:  # after it has counted
            raise torch.OutOfMemoryError("2 GiB")
        return out

    monkeypatch.setattr(head_split, "_at_once", {})
    monkeypatch.setitem(BACKENDS, "triton", replace(BACKENDS["triton"], supports=lambda call: None, attend=attend))
    monkeypatch.setattr(health, "_reasons", {})
    return tried


def inputs():
    return [x.as_subclass(OnGpu) for x in qkv(LAYOUT, heads=HEADS, dtype=torch.float32)]


def test_fewer_heads_at_a_time_until_they_fit_and_the_next_call_knows(tried):
    table, notes = build_chunks(LAYOUT, (0, 2), ROUTING), []
    q, k, v = inputs()
    with torch.no_grad():
        lse, expected = (torch.full(q.shape[:-1], torch.nan) for _ in range(2))
        got = moc_attention(q, k, v, table, ROUTING, note=notes.append, lse=lse)
        assert tried == [5, 3, 2, 2, 1]
        plain = (x.as_subclass(torch.Tensor) for x in (q, k, v))
        want = moc_attention(*plain, table, ROUTING, backend="reference", lse=expected)
        torch.testing.assert_close(got.as_subclass(torch.Tensor), want, atol=1e-6, rtol=0)
        torch.testing.assert_close(lse, expected, atol=1e-5, rtol=0)
        tried.clear()
        moc_attention(q, k, v, table, ROUTING, note=notes.append)
        assert tried == [2, 2, 1]
        assert set(notes) == {"memory is short: MoC works on 2 of 5 heads at a time, which costs little"}
        head_split.start()  # the next run finds more
        tried.clear()
        tried.fit = HEADS
        moc_attention(q, k, v, table, ROUTING)
        assert tried == [5]


def test_what_is_counted_is_counted_once(tried):
    table = build_chunks(LAYOUT, (0, 2), ROUTING)
    q, k, v = inputs()
    counts, whole = (Counts(table, HEADS, torch.device("cpu"), 2) for _ in "ab")
    with torch.no_grad():
        moc_attention(q, k, v, table, ROUTING, record=counts)
        tried.fit = HEADS
        head_split._at_once.clear()
        moc_attention(q, k, v, table, ROUTING, record=whole)
    assert tried == [5, 3, 2, 2, 1, 5]
    for mine, other in zip(counts.result(), whole.result(), strict=True):
        assert torch.equal(mine, other) and mine.any()


def test_where_one_head_does_not_fit_torch_takes_over(tried, monkeypatch):
    calls, notes = [], []
    eager = replace(BACKENDS["eager"], attend=lambda q, *args, **kwargs: calls.append(q.shape[1]) or q)
    monkeypatch.setitem(BACKENDS, "eager", eager)
    tried.fit = 0
    with torch.no_grad():
        moc_attention(*inputs(), build_chunks(LAYOUT, (0, 2), ROUTING), ROUTING, note=notes.append)
    assert tried == [5, 3, 2, 1] and calls == [HEADS]
    assert len(notes) == 1 and "OutOfMemoryError: 2 GiB" in notes[0]


@pytest.mark.parametrize(
    ("routing", "training", "record"),
    [
        (RoutingConfig.of(top_k=2, drop_off=0.5), True, None),  # noise is drawn by the number of the head
        (RoutingConfig.of(head_density=(0.1, 0.2, 0.3, 0.4)), False, None),
        (ROUTING, False, object()),  # somebody who wants to see all heads
    ],
)
def test_heads_that_need_each_other_stay_together(routing, training, record):
    assert not head_split.allowed(torch.empty(1, 4, 8, 8), routing, training, record)
    assert head_split.allowed(torch.empty(1, 4, 8, 8), ROUTING, False, None)


@pytest.mark.parametrize(("wanted", "tries"), [(False, [5, 3, 2, 2, 1]), (True, [5])])
def test_autograd_wants_one_function_where_gradients_are_wanted(tried, monkeypatch, wanted, tries):
    monkeypatch.setitem(BACKENDS, "eager", replace(BACKENDS["eager"], attend=lambda q, *args, **kwargs: q))
    q, k, v = inputs()
    moc_attention(q, k.requires_grad_(wanted), v, build_chunks(LAYOUT, (0, 2), ROUTING), ROUTING)
    assert tried == tries
