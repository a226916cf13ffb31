"""Heads with chunks of their own: what is counted of them, what the probe sees of them, and what is alike."""

from __future__ import annotations

import pytest
import torch

from moc import by_head
from moc.attention import moc_attention
from moc.backends import head_split
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.routing.clusters import clusters
from moc.trace.pair_counts import Counts
from tests.tools.cases import qkv
from tests.unit.backends.test_registries import Choice

LAYOUT = TokenLayout(4 * 12 + 3, (4, 3, 4), 3, (Span("text", 0, 3),))
STARTS = (0, 2)
ORDERS = {
    "alike": RoutingConfig.of(order="alike", chunk_tokens=5, own="none", shared=2, top_k=2, tail="pooled"),
    "either": RoutingConfig.of(order="frames or columns", chunk_tokens=6, own="none", near="band", band=0.1, top_k=0),
}
every_order = pytest.mark.parametrize("order", ORDERS)


@every_order
def test_what_heads_choose_is_counted_by_the_frames_and_chunks_of_the_usual_table(order):
    routing = ORDERS[order]
    table = build_chunks(LAYOUT, STARTS, routing)
    q, k, v = qkv(LAYOUT)
    counts = Counts(table, 2, torch.device("cpu"))
    moc_attention(q, k, v, table, routing, record=counts)
    usual = table.tensors("cpu").chunk_of[table.tensors("cpu").inverse]  # chunk of a token in the model's order
    pairs = torch.zeros(2, 4, len(table.chunks))
    for part in by_head.parts(q, k, v, table, routing, 8**-0.5):
        choice, mine = Choice(), part.table.tensors("cpu")
        moc_attention(*map(part.of, (q, k, v)), part.table, part.routing, backend="reference", record=choice)
        tokens = torch.cat(choice.rows, 2)[0][..., mine.chunk_of]  # [heads, N, N], both in its order
        tokens = tokens[:, mine.inverse][..., mine.inverse]
        for head, seen in zip(part.heads, tokens, strict=True):
            for row, key in seen.nonzero().tolist():
                pairs[head, (row - 3) // 12, usual[key]] += row >= 3
    assert pairs.any()
    seen, kept = counts.result()
    torch.testing.assert_close(seen[0] * counts.geometry.tokens * 12 * 2, pairs)
    torch.testing.assert_close(kept, pairs.sum() / (4 * LAYOUT.length**2))


@every_order
def test_gradients_and_log_sum_exps_of_such_heads_are_the_references(order):
    routing, found = ORDERS[order], []
    table = build_chunks(LAYOUT, STARTS, routing)
    for backend in ("eager", "reference"):
        inputs = qkv(LAYOUT, grad=True)
        lse = torch.zeros(2, 2, LAYOUT.length, dtype=torch.float64)
        out = moc_attention(*inputs, table, routing, backend=backend, lse=lse)
        found.append((out.detach(), lse, *torch.autograd.grad(out.square().sum(), inputs)))
    for mine, theirs in zip(*found, strict=True):
        assert mine.any()
        torch.testing.assert_close(mine, theirs)


@every_order
def test_the_probe_measures_what_such_heads_get(order):
    routing = ORDERS[order]
    table = build_chunks(LAYOUT, STARTS, routing)
    q, k, v = qkv(LAYOUT)
    tokens = torch.tensor([3, 9, 20, 41])
    found = by_head.sampled(q, k, v, table, routing, tokens)
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    apart = (moc_attention(q, k, v, table, routing) - full)[:, :, tokens]
    torch.testing.assert_close(found.error[0], apart.square().sum((0, 2, 3)))
    torch.testing.assert_close(found.size, full[:, :, tokens].square().sum((0, 2, 3)))
    assert found.rows == 8 and (found.mass <= 8).all() and (found.mass > 0).all()


def test_alike_tokens_are_together_and_the_same_ones_every_time():
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(3, (90,), generator=generator)
    kind[:3] = torch.arange(3)
    x = 9.0 * torch.eye(3)[kind] + torch.randn(90, 3, generator=generator)
    label = clusters(x, 12)
    assert torch.equal(label, clusters(x, 12)) and 3 <= len(label.unique()) <= 12
    assert all(len(kind[label == one].unique()) == 1 for one in label.unique())
    assert len(clusters(torch.ones(5, 2), 3).unique()) == 1  # as many as can be told apart


def test_what_such_heads_counted_before_they_broke_off_is_forgotten():
    table = build_chunks(LAYOUT, STARTS, ORDERS["alike"])
    counts = Counts(table, 2, torch.device("cpu"))
    part = counts.part([1, 0], table)
    part.of(slice(1, 2)).add(slice(0, LAYOUT.length), torch.ones(1, 1, LAYOUT.length, len(table.chunks)).bool())
    assert part.pairs[1].any() and not part.pairs[0].any()
    head_split.forget(part, 2)
    counts.take(part, [1, 0], 1)
    assert not counts.result()[1]
