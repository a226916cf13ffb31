"""Parts that published methods are made of: every one on every backend against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moc.backends import triton
from moc.backends.registry import Call
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.chunks.near import NEAR
from moc.chunks.orders import ORDERS, gilbert
from moc.config import RoutingConfig
from moc.routing.selection import shared_rows
from tests.tools import brute
from tests.tools.cases import qkv, tiles_of
from tests.unit.backends.test_registries import EVERY, run

LAYOUT = TokenLayout(4 * 4 * 6 + 3, (4, 4, 6), 3, (Span("text", 0, 3),))
BARE = TokenLayout(4 * 4 * 6, (4, 4, 6))
TILES = {"tile": (1, 2, 2), "own": "chunk"}
RUNS = {"order": "raster", "chunk_tokens": 8}
CASES = {
    "nothing owned": dict(tile=(1, 2, 2), own="none", top_k=2),
    "nothing owned, pooled": dict(tile=(2, 2, 3), own="none", top_k=1, tail="pooled", causal=True),
    "nothing owned and no rule met": dict(tile=(1, 2, 2), own="none", rule="threshold", beta=9.0),
    "a choice for a chunk": dict(TILES, shared=1, top_k=3, tail="pooled"),
    "a choice for two chunks": dict(RUNS, own="none", shared=2, rule="top-p", top_p=0.4),
    "a choice for two chunks by range": dict(TILES, own="shot", shared=2, top_k=2, descriptor="minmax"),
    "guarded": dict(RUNS, own="none", shared=2, top_k=2, guard=0.2),
    "guarded, alone": dict(TILES, top_k=2, guard=0.25, tail="pooled"),
    "a box": dict(TILES, near="box", box=(3, 1, 2), top_k=0, tail="pooled"),
    "a box and the best": dict(tile=(1, 2, 2), own="none", near="box", box=(1, 1, 9), top_k=2, causal=True),
    "touching": dict(RUNS, own="none", shared=1, near="touching", rule="top-k or top-p", top_k=1, top_p=0.1),
    "radial": dict(RUNS, own="none", near="radial", decay=0.2, top_k=0),
    "best of head": dict(TILES, rule="best of head", top_p=0.3),
    "best of head, pooled": dict(TILES, rule="best of head", top_p=0.2, tail="pooled", shots_kept=1),
    "all of a head": dict(TILES, rule="best of head", top_p=1.0),
    "runs": dict(RUNS, own="chunk", top_k=3, static="first tokens", static_tokens=5),
    "sub-means of both": dict(TILES, own="none", shared=1, top_k=2, descriptor="sub-means"),
    "sub-means of two chunks": dict(RUNS, own="none", shared=2, top_k=2, descriptor="sub-means", tail="pooled"),
    "sub-means, by share": dict(TILES, rule="top-p", top_p=0.5, descriptor="sub-means", tail="pooled"),
    "extremes of both": dict(TILES, own="none", shared=1, top_k=2, descriptor="both mean+max+min"),
    "error per cost": dict(RUNS, own="none", shared=2, rule="error per cost", top_k=1, top_p=0.5, tail="pooled"),
    "error per cost, alone": dict(TILES, rule="error per cost", top_k=0, top_p=0.3, tail="pooled", causal=True),
    "a band": dict(RUNS, own="none", near="band", band=0.2, top_k=0),
    "a band through frames": dict(order="columns", chunk_tokens=8, own="none", near="band", band=0.1, top_k=1),
    "either band": dict(order="frames or columns", chunk_tokens=8, own="none", near="band", band=0.1, top_k=0),
    "alike": dict(order="alike", chunk_tokens=9, own="none", rule="top-p from top-k on", top_k=2, top_p=0.1),
    "alike on both sides": dict(order="alike", chunk_tokens=6, own="none", shared=3, top_k=2, tail="pooled"),
    "alike, error per cost": dict(
        order="alike", chunk_tokens=7, own="none", shared=2, rule="error per cost", top_k=1, top_p=0.4, tail="pooled"
    ),
    "repaired": dict(TILES, top_k=1, repair_rows=20, repair_rank=3),
    "alike, repaired": dict(order="alike", chunk_tokens=7, own="none", top_k=2, repair_rows=30, tail="pooled"),
    "true attention": dict(RUNS, own="none", shared=1, exact=True, top_k=2),
    "true attention, pooled": dict(TILES, shared=2, exact=True, top_k=3, tail="pooled", causal=True),
    "shared and union": dict(TILES, shared=1, top_k=1, lists="union"),
}


def inputs(layout):
    """Keys with something in common, so that some chunks are alike and others not."""
    q, k, v = qkv(layout, batch=1, dim=16)
    common = torch.linspace(0, 2, layout.length, dtype=q.dtype)[:, None]
    return q + common.sqrt(), k + common, v


@pytest.mark.slow
@pytest.mark.parametrize("layout", [LAYOUT, BARE], ids=["text", "no text"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", EVERY)
def test_a_part_is_computed_as_brute_force_does(backend, case, layout):
    routing, starts = RoutingConfig.of(**CASES[case]), (0, 2)
    q, k, v = inputs(layout)
    table = build_chunks(layout, starts, routing)
    arrays = [x.numpy() for x in (q, k, v)]
    expected, _ = brute.attend(*arrays, layout, starts, routing, 0.25, tiles_of(table))
    expected = torch.from_numpy(expected)
    if backend == "triton":
        out, _ = run(backend, *(x.float() for x in (q, k, v)), table, routing, scale=0.25)
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-5)
    else:
        out, _ = run(backend, q, k, v, table, routing, scale=0.25)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-11)


def test_gradients_of_rows_that_own_nothing_are_eagers_and_right():
    routing = RoutingConfig.of(**CASES["nothing owned, pooled"])
    table = build_chunks(BARE, (0, 2), routing)
    q, k, v = (x.requires_grad_() for x in inputs(BARE))
    assert "own nothing" in triton.supports(Call(q, table, routing, gradients=True))
    found = []
    for backend in ("eager", "reference"):
        out, _ = run(backend, q, k, v, table, routing, scale=0.25)
        found.append(torch.autograd.grad(out.square().sum(), (q, k, v)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("own", ["chunk", "frame", "none"])
@pytest.mark.parametrize("shared", [1, 2, 3])
def test_rows_choose_together_only_where_they_see_the_same(own, shared):
    routing = RoutingConfig.of(tile=(1, 2, 2), own=own)
    table = build_chunks(LAYOUT, (0, 2), routing)
    groups = shared_rows(table, shared, torch.device("cpu"))
    place, first = groups.place, groups.first
    t = table.tensors("cpu")
    assert torch.equal(place[first], torch.arange(len(first)))
    for group in range(len(first)):
        rows = (place == group).nonzero().flatten()
        assert len(t.row_group[rows].unique()) == 1 and 1 <= len(t.chunk_of[rows].unique()) <= shared


@pytest.mark.parametrize("grid", [(4, 4, 8), (3, 4, 5), (5, 6, 7), (1, 1, 9), (2, 1, 3), (21, 6, 10)])
def test_the_curve_goes_through_every_token_once_and_hardly_ever_jumps(grid):
    path = gilbert(grid)
    assert sorted(path) == list(range(np.prod(grid)))
    steps = np.abs(np.diff(np.array(np.unravel_index(path, grid)), axis=1))
    assert steps.max(initial=0) <= 1 and (steps.sum(0) > 1).sum() <= max(1, len(path) // 10)


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "tiles"])
def test_runs_end_at_cuts_and_hold_the_tokens_of_a_shot(order):
    routing = RoutingConfig.of(order=order, chunk_tokens=20, own="chunk", static="first tokens", static_tokens=6)
    layout = TokenLayout(4 * 24, (4, 4, 6), frame_ids=(2, 3, 0, 1))  # a window that wraps around
    table = build_chunks(layout, (0, 1), routing)
    assert [(c.shot, c.length, c.linked) for c in table.chunks] == [
        (0, 6, True), (0, 18, False), (1, 6, True), (1, 20, False), (1, 20, False), (1, 20, False), (1, 6, False),
    ]  # fmt: skip
    assert sorted(table.order) == list(range(layout.length))
    of_frame = {c.shot: set(table.frames[c.start : c.stop]) for c in table.chunks if c.linked}
    assert of_frame == {0: {2}, 1: {3}}
    for chunk in table.chunks:
        frames = set(table.frames[chunk.start : chunk.stop])
        assert frames <= ({2} if chunk.shot == 0 else {0, 1, 3}) and chunk.frame in frames


@pytest.mark.parametrize("near", [name for name in NEAR if name != "none"])
def test_every_pattern_holds_the_rows_own_chunk(near):
    routing = RoutingConfig.of(tile=(2, 3, 3), own="none", near=near, box=(2, 2, 1))
    table = build_chunks(BARE, (0,), routing)
    assert table.near.diagonal().all()


def test_a_pattern_stays_within_what_may_be_chosen():
    routing = RoutingConfig.of(tile=(1, 2, 2), own="chunk", near="touching", causal=True, top_k=0)
    table = build_chunks(BARE, (0, 2), routing)
    q, k, v = inputs(BARE)
    _, chosen = run("eager", q, k, v, table, routing)
    t = table.tensors("cpu")
    later = t.chunk_shot > t.group_shot[t.row_group][:, None]
    assert chosen.any() and not (chosen & later).any()
