"""Rules of the choice: descriptors, training noise, the outer loop, density."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.routing.candidates import candidates, kept_shots, union
from moc.routing.noise import disturb
from moc.routing.rules import select
from moc.routing.scores import describe, scores
from tests.tools.cases import layouts, qkv, routings, shot_starts

LAYOUT = TokenLayout(8 * 16, (8, 4, 4))
STARTS = (0, 2, 4, 6)


@settings(max_examples=40, deadline=None)
@given(layout=layouts(), tile=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
def test_the_minmax_score_bounds_every_key_of_the_chunk(layout, tile):
    table = build_chunks(layout, (0,), RoutingConfig.of(tile=tile))
    q, k, _ = qkv(layout)
    order = table.tensors("cpu").order
    k = k[..., order, :]
    bound = scores(q, describe(k, table, "minmax"))
    for c, chunk in enumerate(table.chunks):
        best = (q @ k[..., chunk.start : chunk.stop, :].mT).amax(-1)
        assert (bound[..., c] >= best - 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data(), layout=layouts(), routing=routings)
def test_mandatory_links_never_compete(data, layout, routing):
    table = build_chunks(layout, data.draw(shot_starts(layout.grid[0])), routing)
    mandatory, candidate = candidates(table, routing, slice(0, layout.length), torch.device("cpu"))
    assert not (mandatory & candidate).any()
    text = [i for i, c in enumerate(table.chunks) if c.kind == "text"]
    assert mandatory[:, text].all()
    own = table.tensors("cpu").chunk_of
    assert mandatory[torch.arange(layout.length), own].all()


def test_drop_off_removes_the_rounded_down_share_and_drop_in_adds_poisson_many():
    routing = RoutingConfig.of(top_k=6, own="chunk", drop_off=0.5, seed=1)
    table = build_chunks(LAYOUT, (0,), routing)
    _, candidate = candidates(table, routing, slice(0, 128), torch.device("cpu"))
    q, k, _ = qkv(LAYOUT, batch=8, heads=8)
    chosen = select(scores(q, describe(k, table, "mean")), candidate, 6)
    tokens = torch.arange(128)
    left = disturb(chosen, candidate, routing, tokens)
    removed = (chosen & ~left).sum(-1)
    assert not (left & ~chosen).any()
    # p ~ U(0, .5): floor(6 p) is 0, 1 or 2, each with probability 1/3
    shares = torch.bincount(removed.flatten(), minlength=3).double() / removed.numel()
    assert removed.max() == 2 and torch.allclose(shares, torch.full((3,), 1 / 3, dtype=torch.double), atol=0.02)

    routing = RoutingConfig.of(top_k=1, own="chunk", drop_in=1.5, seed=1)
    start = select(scores(q, describe(k, table, "mean")), candidate, 1)
    more = disturb(start, candidate, routing, tokens)
    added = (more & ~start).sum(-1)
    assert not (start & ~more).any() and not (more & ~candidate).any()
    assert added.double().mean() == pytest.approx(1.5, abs=0.05)
    assert (added == 0).double().mean() == pytest.approx(0.223, abs=0.02)  # exp(-1.5)


def test_training_noise_depends_on_the_seed_and_on_nothing_else():
    routing = RoutingConfig.of(top_k=3, own="chunk", drop_off=1.0, drop_in=1.0)
    table = build_chunks(LAYOUT, (0,), routing)
    _, candidate = candidates(table, routing, slice(0, 128), torch.device("cpu"))
    q, k, _ = qkv(LAYOUT)
    chosen = select(scores(q, describe(k, table, "mean")), candidate, 3)
    tokens = torch.arange(128)
    whole = disturb(chosen, candidate, routing, tokens)
    halves = [disturb(chosen[:, :, s], candidate[s], routing, tokens[s]) for s in (slice(0, 50), slice(50, 128))]
    assert torch.equal(whole, torch.cat(halves, 2))
    other = disturb(chosen, candidate, routing.changed(seed=9), tokens)
    assert not torch.equal(whole, other)


def test_the_outer_loop_keeps_the_shots_whose_mean_fits_best():
    q, k, _ = qkv(LAYOUT, batch=1, heads=1)
    k[..., 32:64, :] = 5 * q[..., 96:, :].mean(-2, keepdim=True)  # shot 1 looks like what shot 3 asks for
    routing = RoutingConfig.of(shots_kept=1, own="shot")
    keep = kept_shots(q, k, build_chunks(LAYOUT, STARTS, routing), routing)
    assert keep.shape == (1, 1, 4, 4)
    assert keep[0, 0, 3].tolist() == [False, True, False, True]
    assert (keep.sum(-1) == 2).all()
    causal = RoutingConfig.of(shots_kept=1, own="shot", causal=True)
    keep = kept_shots(q, k, build_chunks(LAYOUT, STARTS, causal), causal)
    assert not keep.triu(1).any() and keep[0, 0, 0].tolist() == [True, False, False, False]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), layout=layouts(), routing=routings)
def test_the_predicted_density_is_what_equal_chunks_keep(data, layout, routing):
    """With chunks of one length the forecast is exact; it never leaves [0, 1]."""
    table = build_chunks(layout, data.draw(shot_starts(layout.grid[0])), routing)
    predicted = table.density(routing.budget.top_k, routing.candidates.causal)
    assert 0 < predicted <= 1 + 1e-9
    mandatory, candidate = candidates(table, routing, slice(0, layout.length), torch.device("cpu"))
    lengths = table.tensors("cpu").lengths.double()
    mean = (candidate * lengths).sum(-1) / candidate.sum(-1).clamp(min=1)
    kept = (mandatory * lengths).sum(-1) + candidate.sum(-1).clamp(max=routing.budget.top_k) * mean
    assert predicted == pytest.approx(float(kept.sum()) / layout.length**2)


@pytest.mark.parametrize("density", [0.15, 0.3, 0.6, 1.0])
def test_a_density_becomes_the_nearest_k(density):
    routing = RoutingConfig.of(density=density, own="chunk", tile=(1, 2, 2))
    table = build_chunks(LAYOUT, (0,), routing)
    k = table.top_k(routing)
    best = min(range(40), key=lambda n: abs(table.density(n, False) - density))
    assert table.density(k, False) == pytest.approx(table.density(best, False))


def test_of_two_numbers_of_chunks_that_are_as_near_the_smaller_is_taken():
    table = build_chunks(TokenLayout(64, (4, 4, 4)), (0,), RoutingConfig.of(own="chunk", tile=(1, 2, 2)))
    assert table.top_k_at((table.density(2, False) + table.density(3, False)) / 2, False) == 2


def test_references_compete_or_are_linked():
    layout = TokenLayout(4 + 64, (4, 4, 4), 4, (Span("reference", 0, 4),))
    for references, where in (("routed", 1), ("linked", 0)):
        routing = RoutingConfig.of(references=references)
        table = build_chunks(layout, (0, 2), routing)
        parts = candidates(table, routing, slice(4, 68), torch.device("cpu"))
        assert parts[where][:, 0].all()


def test_a_shared_list_is_one_for_all_rows_of_a_tile_and_never_less_than_they_asked_for():
    routing = RoutingConfig.of(top_k=2, own="chunk", tile=(1, 2, 2), causal=True, lists="union")
    table = build_chunks(LAYOUT, STARTS, routing)
    q, k, _ = qkv(LAYOUT)
    _, candidate = candidates(table, routing, slice(0, 128), torch.device("cpu"))
    chosen = select(scores(q, describe(k, table, "mean")), candidate, 2)
    shared = union(chosen, candidate, table, slice(0, 128))
    assert not (chosen & ~shared).any() and not (shared & ~candidate).any()
    for b in range(2):  # and of one sample, whatever others ask for
        assert torch.equal(union(chosen[b : b + 1], candidate, table, slice(0, 128)), shared[b : b + 1])
    mandatory = candidates(table, routing, slice(0, 128), torch.device("cpu"))[0]
    for start, stop in table.query_tiles():
        seen = (shared | mandatory)[..., start:stop, :]
        assert torch.equal(seen, seen[..., :1, :].expand_as(seen))
