"""Chunks that many neighbouring rows chose: who finds them, who loses nothing, who counts them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (pip install triton): the GPU engine is not tested")
hopper_popular = pytest.importorskip("moc.backends.triton.attend.hot_chunks_sm90", reason="this Triton has no Gluon")

from moc.backends import reference
from moc.backends.triton import forward
from moc.backends.triton.attend import tail_sm90
from moc.backends.triton.attend.combine import new_partial
from moc.backends.triton.dataflow import CHUNK_MAJOR, Arch, Dataflow, Wants, choose_dataflow
from moc.backends.triton.device_table import device_table_of
from moc.backends.triton.lists import hot_chunks
from moc.backends.triton.lists.csr import new_indices
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.trace.pair_counts import Counts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUT = TokenLayout(200, (2, 10, 10))  # one tile of 128 rows, one with 72
ROUTING = RoutingConfig.of(top_k=9, tile=(1, 2, 3), own="frame", tail="pooled")


def listed(found: hot_chunks.HotChunks, plan) -> torch.Tensor:
    """Which rows chose which popular chunk [heads, N, C]."""
    out = torch.zeros(len(found.count), plan.length, plan.chunks, dtype=torch.bool)
    for head, tile in torch.cartesian_prod(*map(torch.arange, found.count.shape)).tolist():
        last = -1
        for start, length, chunk, _, *words in found.entry[head, tile, : found.count[head, tile]].tolist():
            assert (start, length) == tuple(plan.chunk[:2, chunk].tolist())
            assert start > last  # in rising order, so that none is listed twice
            last = start
            for row in range(min(128, plan.length - tile * 128)):
                out[head, tile * 128 + row, chunk] = bool(words[row // 32] >> (row % 32) & 1)
    return out


@pytest.mark.parametrize("top_k", [3, 9, 20])
def test_every_choice_is_either_popular_or_left(top_k: int) -> None:
    table = build_chunks(LAYOUT, (0,), ROUTING)
    plan = device_table_of(table, RoutingConfig.of(top_k=top_k), torch.device(DEVICE))
    torch.manual_seed(top_k)
    choice = new_indices(2, plan)
    liking = torch.rand(2, 1, plan.chunks) ** 3 + 0.5 * torch.rand(2, plan.length, plan.chunks)
    chunks = liking.topk(top_k).indices
    choice.indices.copy_(chunks << 16)
    choice.number.copy_(torch.randint(top_k // 2, top_k + 1, (2, plan.length)))
    chosen = torch.zeros(2, plan.length, plan.chunks, dtype=torch.bool)
    in_use = torch.arange(top_k) < choice.number.cpu()[..., None]
    chosen.scatter_(2, chunks, in_use)

    found = hot_chunks.hot_chunks_of(choice, plan)
    together = listed(found, plan)
    left = torch.zeros_like(chosen)
    in_use = torch.arange(top_k) < choice.number.cpu()[..., None]
    left.scatter_(2, (choice.indices.cpu() >> 16).long() * in_use, in_use)  # unused slots may repeat chunk 0
    left[..., 0] = ((choice.indices.cpu() >> 16 == 0) & in_use).any(-1)
    assert torch.equal(together | left, chosen)
    assert not (together & left).any()
    assert left.sum() == choice.number.sum()
    for first in range(0, plan.length, 64):
        here = together[:, first : first + 64].sum(1)
        assert (here[here > 0] >= hot_chunks.ENOUGH).all()
        whole = chosen[:, first : first + 64].sum(1) == 64
        assert (here[whole] == 64).all()  # what all rows chose is never missed
    assert together.any()


def plain(q, k, v, summary, found, plan, heads, tail, *, scale):
    """`hopper_popular.attend` in plain torch."""
    chose = listed(found, plan)
    batch_heads = [(i // q.shape[1], i % q.shape[1]) for i in heads]
    for head, (b, h) in enumerate(batch_heads):
        scores = q[b, h] @ k[b, h].mT * scale
        chunk_of = torch.zeros(plan.length, dtype=torch.long)
        for c, chunk in enumerate(plan.table.chunks):
            chunk_of[chunk.start : chunk.stop] = c
        weight = torch.where(chose[head][:, chunk_of], scores.exp2(), torch.zeros(()))
        total, out = weight.sum(1), weight @ v[b, h]
        if summary is not None:
            mean_k, mean_v = (x[heads[head]] for x in summary)
            away = (q[b, h] @ mean_k.mT * scale + plan.weight[: plan.chunks]).exp2()
            away = torch.where(chose[head], away, torch.zeros(()))
            total = total + tail.lse[head].exp2() - away.sum(1)
            out = out + tail.out[head] * tail.lse[head].exp2()[:, None] - away @ mean_v
        elif tail is None:
            tail = new_partial(q, len(heads))
        tail.out[head], tail.lse[head] = out / total.clamp(min=1e-30)[:, None], total.log2()
    return tail


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch):
    """The engine as on Hopper, with plain torch in the place of the kernel that the interpreter cannot run."""
    calls = []
    monkeypatch.setattr(hopper_popular, "attend", lambda *a, **kw: calls.append(a[4]) or plain(*a, **kw))
    return calls


def flow(table, routing: RoutingConfig, hot: bool = True) -> Dataflow:
    wants = Wants(kind=CHUNK_MAJOR, selection="topk_stream")
    plan = device_table_of(table, routing, torch.device(DEVICE))
    return replace(choose_dataflow(plan.geometry, routing, Arch(), wants), hot=hot)


def coherent(batch: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, batch, 1, LAYOUT.length, 16, device=DEVICE).unbind(0)
    return q + 2 * torch.randn(batch, 1, 1, 16, device=DEVICE), k, v


@pytest.mark.skipif(DEVICE == "cuda", reason="there tests/gpu/check_gpu.py checks the kernel itself")
@pytest.mark.parametrize(("tail", "batch"), [("none", 1), ("pooled", 2)])
def test_rows_get_what_they_chose(together: list, tail: str, batch: int) -> None:
    routing = RoutingConfig.of(top_k=9, tile=(1, 2, 3), own="frame", tail=tail)
    table = build_chunks(LAYOUT, (0,), routing)
    q, k, v = coherent(batch)
    want = reference.attend(q, k, v, table, routing, scale=0.25, training=False, record=None)
    got = forward.run(q, k, v, table, routing, 0.25, dataflow=flow(table, routing))
    assert sum(int(p.count.sum()) for p in together) > 0
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


@pytest.mark.skipif(DEVICE == "cuda", reason="there tests/gpu/check_gpu.py checks the kernel itself")
def test_a_trace_counts_popular_chunks_too(together: list) -> None:
    table = build_chunks(LAYOUT, (0,), ROUTING)
    q, k, v = coherent(1)
    counts = []
    for on in (True, False):
        counts.append(Counts(table, 1, q.device))
        forward.run(q, k, v, table, ROUTING, 0.25, counts[-1], dataflow=flow(table, ROUTING, hot=on))
    assert together
    assert torch.equal(counts[0]._pairs, counts[1]._pairs)


@pytest.mark.parametrize("words", [3, 5])
def test_the_tail_is_told_which_words_hold_nothing(words: int) -> None:
    """A byte for every word and 64 rows; words beyond the last one hold nothing."""
    torch.manual_seed(words)
    sel = torch.randint(1, 2**31, (2, words, 150), dtype=torch.int32, device=DEVICE)
    sel *= torch.rand(sel.shape, device=DEVICE) < 0.01
    some = torch.full((2, 3, 8), -1, dtype=torch.int8, device=DEVICE)
    tail_sm90.moc_attend_tail_any[(3, 2)](sel, some, 150, words, 8, BW=4)
    want = torch.zeros_like(some)
    for tile in range(3):
        want[:, tile, :words] = (sel[:, :, tile * 64 : tile * 64 + 64] != 0).any(-1)
    assert torch.equal(some, want)
    assert 0 < want.sum() < want.numel()
