"""Parts that published methods are made of: every one on every backend against brute force."""

from __future__ import annotations

import pytest
import torch

from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
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
    "runs": dict(RUNS, own="chunk", top_k=3, static="first tokens", static_tokens=5),
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
