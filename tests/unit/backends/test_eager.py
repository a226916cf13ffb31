"""The eager backend computes what the reference computes, on both of its engines, forward and backward."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moc.attention import moc_attention
from moc.backends import eager
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from tests.tools.cases import layouts, qkv, routings, shot_starts

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
ENGINES = {"chunk_major": 0, "tile_major": 10**9}


@pytest.fixture(params=list(ENGINES))
def engine(request, monkeypatch):
    monkeypatch.setattr(eager, "LARGE_CHUNK", ENGINES[request.param])
    return request.param


def close(a, b, rtol):
    assert not a.isnan().any()
    error, size = (a.double() - b.double()).norm(), b.double().norm()
    assert error <= rtol * size + 1e-12, f"relative error {error / size:.2e}"


@pytest.mark.parametrize("name", ENGINES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), layout=layouts(), routing=routings)
def test_it_equals_the_reference_in_float64(name, data, layout, routing):
    before, eager.LARGE_CHUNK = eager.LARGE_CHUNK, ENGINES[name]
    try:
        starts = data.draw(shot_starts(layout.grid[0]))
        table = build_chunks(layout, starts, routing)
        q, k, v = qkv(layout)
        expected = moc_attention(q, k, v, table, routing, backend="reference")
        close(moc_attention(q, k, v, table, routing, backend="eager"), expected, 1e-10)
    finally:
        eager.LARGE_CHUNK = before


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dim", [64, 128])
def test_half_precision_stays_within_rounding(engine, dtype, dim):
    """The reference gets the same rounded inputs in float64, and the choice of the tested dtype's own scores."""
    layout = TokenLayout(6 * 5 * 7, (6, 5, 7))
    routing = RoutingConfig.of(top_k=4, tile=(1, 2, 3), own="frame", tail="pooled")
    table = build_chunks(layout, (0, 3), routing)
    q, k, v = qkv(layout, dim=dim, dtype=dtype, seed=1)
    expected = moc_attention(*(x.double() for x in (q, k, v)), table, routing, backend="reference")
    out = moc_attention(q, k, v, table, routing, backend="eager")
    assert out.dtype == dtype
    close(out, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("own", ["shot", "frame", "chunk"])
@pytest.mark.parametrize("tail", ["none", "pooled"])
def test_gradients_equal_the_reference(engine, own, tail):
    layout = TokenLayout(6 * 12, (6, 3, 4))
    routing = RoutingConfig.of(top_k=2, tile=(1, 2, 2), own=own, tail=tail, drop_off=0.5, drop_in=1.0, seed=3)
    table = build_chunks(layout, (0, 2, 4), routing)
    # as a host hands them over: heads inside the token's features
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in qkv(layout)]
    weight = torch.randn_like(inputs[0])
    grads = []
    for backend in ("reference", "eager"):
        out = moc_attention(*inputs, table, routing, backend=backend, training=True)
        grads.append(torch.autograd.grad((out * weight).sum(), inputs))
    for got, expected in zip(grads[1], grads[0], strict=True):
        close(got, expected, 1e-10)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("tail", ["none", "pooled"])
def test_channels_of_a_token_may_lie_apart_in_memory(engine, which, tail):
    """Frames of 36 rows: large enough for a call of their own, which gets the tensors as they are."""
    layout = TokenLayout(4 * 36, (4, 6, 6))
    routing = RoutingConfig.of(top_k=1, own="frame", tail=tail)
    table = build_chunks(layout, (0,), routing)
    assert table.identity  # nothing is moved, so nothing is copied on the way
    inputs = qkv(layout)
    expected = moc_attention(*inputs, table, routing, backend="reference")
    apart = torch.full((*inputs[which].shape, 2), 7.0, dtype=torch.float64)
    apart[..., 1] = inputs[which]
    inputs[which] = apart[..., 1].requires_grad_()
    out = moc_attention(*inputs, table, routing, backend="eager")
    close(out, expected, 1e-10)
    assert torch.autograd.grad(out.sum(), inputs[which])[0].isfinite().all()


def test_strided_inputs_and_a_split_batch_change_nothing(engine):
    layout = TokenLayout(6 * 12, (6, 3, 4))
    routing = RoutingConfig.of(top_k=2, own="frame")
    table = build_chunks(layout, (0, 3), routing)
    q, k, v = qkv(layout, dtype=torch.float32)
    whole = moc_attention(q, k, v, table, routing)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    torch.testing.assert_close(moc_attention(*strided, table, routing), whole, rtol=1e-5, atol=1e-6)
    rows = [moc_attention(q[i : i + 1], k[i : i + 1], v[i : i + 1], table, routing) for i in range(2)]
    torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-5, atol=1e-6)


def test_autocast_costs_no_digits_and_breaks_no_backward(engine):
    layout = TokenLayout(6 * 12, (6, 3, 4))
    routing = RoutingConfig.of(top_k=2, tile=(1, 2, 2), own="frame", tail="pooled")
    table = build_chunks(layout, (0, 3), routing)
    inputs = qkv(layout, dtype=torch.bfloat16, grad=True)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = moc_attention(*inputs, table, routing)
            results.append((out, *torch.autograd.grad(out.float().square().sum(), inputs)))
    for plain, cast in zip(*results, strict=True):
        torch.testing.assert_close(cast, plain)


@pytest.mark.parametrize("lists", ["token", "union"])
@pytest.mark.parametrize("own", ["shot", "chunk"])
def test_small_row_blocks_change_nothing(engine, own, lists, monkeypatch):
    layout = TokenLayout(4 * 10 * 10, (4, 10, 10))
    routing = RoutingConfig.of(top_k=3, tile=(1, 3, 3), own=own, tail="pooled", lists=lists)
    table = build_chunks(layout, (0,), routing)
    q, k, v = qkv(layout)
    whole = moc_attention(q, k, v, table, routing, backend="reference")
    monkeypatch.setattr(eager, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(eager.tile_major, "GATHERED", 1)
    close(moc_attention(q, k, v, table, routing), whole, 1e-10)


def test_a_small_k_differs_from_dense():
    layout = TokenLayout(8 * 16, (8, 4, 4))
    q, k, v = qkv(layout)
    routing = RoutingConfig.of(top_k=1, own="chunk")
    out = moc_attention(q, k, v, build_chunks(layout, (0,), routing), routing)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert (out - dense).norm() > 0.1 * dense.norm()


def test_wrong_shapes_and_unknown_backends_are_named():
    layout = TokenLayout(16, (1, 4, 4))
    table = build_chunks(layout, (0,), RoutingConfig())
    q, k, v = qkv(layout)
    with pytest.raises(MoCError, match="16 tokens"):
        moc_attention(q[..., :8, :], k, v, table, RoutingConfig())
    with pytest.raises(MoCError, match="unknown backend"):
        moc_attention(q, k, v, table, RoutingConfig(), backend="cuda")


@pytest.mark.parametrize("gradients", [False, True])
def test_masks_of_all_blocks_are_kept_for_gradients_only(monkeypatch, gradients):
    """They are B x H x N x C in all: more than q, k and v where chunks are small."""
    routing, layout = RoutingConfig.of(top_k=2, tile=(1, 2, 2), own="frame"), TokenLayout(8 * 64, (8, 8, 8))
    kept, most = [], []

    def watched(*args, make=eager._route):
        for block in make(*args):
            kept.append(weakref.ref(block.chosen))
            most.append(sum(ref() is not None for ref in kept))
            yield block

    monkeypatch.setattr(eager, "_route", watched)
    monkeypatch.setattr(eager, "BLOCK_ELEMENTS", 1)
    q, k, v = (x.requires_grad_(gradients) for x in qkv(layout, dtype=torch.float32))
    moc_attention(q, k, v, build_chunks(layout, (0,), routing), routing, backend="eager")
    assert max(most) == len(kept) == 8 if gradients else max(most) <= 2 < len(kept)
