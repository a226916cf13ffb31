"""The reference backend says what the paper says: compared with loops over single queries in float64."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moc.attention import moc_attention
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from tests.tools import brute
from tests.tools.cases import layouts, qkv, routings, shot_starts, tiles_of


@settings(max_examples=60, deadline=None)
@given(st.data(), layouts(), routings)
def test_it_equals_brute_force_on_any_layout_and_setting(data, layout, routing):
    starts = data.draw(shot_starts(layout.grid[0]))
    q, k, v = qkv(layout, batch=1, dim=4)
    table = build_chunks(layout, starts, routing)
    arrays = [x.numpy() for x in (q, k, v)]
    counts = [brute.count_of_head(table, routing, head) for head in range(2)]
    expected, _ = brute.attend(*arrays, layout, starts, routing, 4**-0.5, tiles_of(table), counts, order=table.order)
    out = moc_attention(q, k, v, table, routing, backend="reference")
    torch.testing.assert_close(out, torch.from_numpy(expected), rtol=1e-9, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(st.data(), layouts(), routings)
def test_the_recorded_choice_is_the_brute_force_choice(data, layout, routing):
    routing = routing.changed(head_density=routing.budget.head_density[:1])
    starts = data.draw(shot_starts(layout.grid[0]))
    q, k, v = qkv(layout, batch=1, heads=1, dim=4)
    table = build_chunks(layout, starts, routing)
    arrays = [x.numpy() for x in (q, k, v)]
    counts = [brute.count_of_head(table, routing, 0)]
    _, chosen_by = brute.attend(*arrays, layout, starts, routing, 0.5, tiles_of(table), counts, order=table.order)
    label = brute.labels(layout, starts, routing)
    seen = {}

    class Record:
        def add(self, rows, chosen):
            for row, mask in zip(range(rows.start, rows.stop), chosen[0, 0], strict=True):
                first_tokens = [table.order[table.chunks[c].start] for c in mask.nonzero().flatten().tolist()]
                seen[int(table.order[row])] = {label[t] for t in first_tokens}

    moc_attention(q, k, v, table, routing, backend="reference", record=Record())
    assert seen == {i: chosen for (_, _, i), chosen in chosen_by.items()}


def test_all_chunks_without_causality_is_dense_attention():
    layout = TokenLayout(60, (5, 3, 4))
    q, k, v = qkv(layout)
    for own in ("shot", "frame", "chunk"):
        routing = RoutingConfig.of(top_k=1000, own=own, tile=(1, 2, 2))
        out = moc_attention(q, k, v, build_chunks(layout, (0, 2), routing), routing, backend="reference")
        torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, v))


def test_causal_shots_read_only_backwards():
    """Changing the last shot must not change the first; without causality it does (section 3.4)."""
    layout = TokenLayout(6 * 4, (6, 2, 2))
    q, k, v = qkv(layout)
    for causal in (True, False):
        routing = RoutingConfig.of(top_k=2, own="shot", causal=causal)
        table = build_chunks(layout, (0, 2, 4), routing)
        before = moc_attention(q, k, v, table, routing, backend="reference")
        k2, v2 = k.clone(), v.clone()
        k2[..., 16:, :] += 3.0
        v2[..., 16:, :] += 3.0
        after = moc_attention(q, k2, v2, table, routing, backend="reference")
        assert torch.equal(before[..., :8, :], after[..., :8, :]) == causal


def test_ties_go_to_the_lower_chunk():
    layout = TokenLayout(6 * 4, (6, 2, 2))
    q, _, v = qkv(layout)
    q = (q * 4).round()  # small integers: sums are exact in any order
    k = torch.ones_like(q)  # every chunk scores the same
    routing = RoutingConfig.of(top_k=2, own="chunk")
    picked = []

    class Record:
        def add(self, rows, chosen):
            picked.append(chosen)

    for backend in ("reference", "eager"):
        moc_attention(q, k, v, build_chunks(layout, (0,), routing), routing, backend=backend, record=Record())
    for chosen in picked:
        assert chosen[..., 8:, :2].all() and not chosen[..., 8:, 2:].any()
