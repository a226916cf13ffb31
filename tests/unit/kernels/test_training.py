"""Gradients of the GPU engine's kernels on the CPU, through Triton's interpreter, against those of the reference."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (pip install triton): the GPU engine is not tested")

from moc.attention import moc_attention
from moc.backends import health, library
from moc.backends.registry import Call, wants_gradients
from moc.backends.triton import BACKEND, autograd, dataflow
from moc.backends.triton.attend import own
from moc.backends.triton.lib import head_ranges
from moc.backends.triton.lib.permute import Move
from moc.chunks.build import build_chunks
from moc.routing.bits import pack, unpack
from tests.unit.kernels.test_triton import CASES, DEVICE, HALF, LIBRARY, PLAIN, WITH_TEXT, R, plain_attention


def gradients(layout, starts, routing, batch=1, dim=16, backend="triton", dtype=torch.float32, wide=False, noise=False):
    table = build_chunks(layout, starts, routing)
    torch.manual_seed(len(table.chunks))
    # as a fused projection leaves them: strided, not contiguous
    x = torch.randn(batch, layout.length, 3, 2, dim, device=DEVICE).to(dtype)
    weight = torch.randn(batch, 2, layout.length, dim, device=DEVICE)
    x = (x.float() if wide else x).requires_grad_()
    out = moc_attention(*(y.transpose(1, 2) for y in x.unbind(2)), table, routing, backend=backend, training=noise)
    (grad,) = torch.autograd.grad((out.float() * weight).sum(), x)
    return out.detach(), grad


@pytest.fixture(autouse=True)
def lists_of_several_tiles(monkeypatch):
    monkeypatch.setattr(autograd, "SEGMENT", 32)


def same(case, **how):
    want, got = (gradients(*case, backend=backend, **how) for backend in ("reference", "triton"))
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_reference(name):
    same(CASES[name])


@pytest.mark.parametrize(
    "routing",
    [
        R(top_k=2, own="frame", causal=True, tail="pooled"),
        R(top_k=3, tile=(1, 4, 5), own="chunk", tail="pooled"),
        R(top_k=1, own="shot", descriptor="minmax"),
    ],
    ids=str,
)
def test_chunks_of_several_steps_of_keys(routing):
    """24 and 20 tokens where a step takes 16: rows and keys are then served by a kernel each."""
    same((WITH_TEXT, (0, 2), routing), dim=32)


def test_heads_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(head_ranges, "WORKSPACE", 1)
    same((PLAIN, (0, 2), R(top_k=2, tile=(1, 2, 3), own="frame", tail="pooled"), 2))


def plain_gradients(q, out, grad, lse, k, v, scale):
    p = (q @ k.mT * scale - lse[..., None]).exp()
    ds = p * (grad @ v.mT - (grad * out).sum(-1, keepdim=True)) * scale
    return ds @ k, ds.mT @ q, p.mT @ grad


def by_library(monkeypatch):
    """Own parts of all groups, however small, where chunks are not."""
    monkeypatch.setattr(library, "usable", lambda q: True)
    for module in (dataflow, own):
        monkeypatch.setattr(module, "library_fits", lambda g: True)
    monkeypatch.setattr(dataflow, "_chosen", dataflow._chosen.__wrapped__)


@pytest.mark.parametrize("name", LIBRARY)
def test_own_part_from_an_attention_library(monkeypatch, name):
    """On a GPU cuDNN makes its gradients; here plain torch does, from the same rows and keys."""
    by_library(monkeypatch)
    monkeypatch.setattr(own, "pays", lambda *_: True)
    monkeypatch.setattr(library, "_attention", plain_attention)
    monkeypatch.setattr(library, "gradients", plain_gradients)
    same(LIBRARY[name])


def test_a_library_without_gradients_is_left_alone(monkeypatch):
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("no such plan")

    by_library(monkeypatch)
    monkeypatch.setattr(own, "pays", lambda *_: True)
    monkeypatch.setattr(library, "_attention", plain_attention)
    monkeypatch.setattr(library, "gradients", broken)
    monkeypatch.setattr(health, "_reasons", {})
    for _ in range(2):
        same((WITH_TEXT, (0, 2), R(top_k=1, own="frame", tail="pooled")))
    assert calls == [1]


def test_head_dims_that_are_no_power_of_two():
    same((PLAIN, (0, 2), R(top_k=2, own="frame", tail="pooled")), dim=20)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_as_near_as_its_digits_allow(dtype):
    case = PLAIN, (0, 2), R(top_k=2, tile=(1, 2, 3), own="frame", tail="pooled")
    _, want = gradients(*case, backend="reference", dtype=dtype, wide=True)
    _, got = gradients(*case, dtype=dtype)
    assert got.dtype == dtype
    assert float((got.float() - want).norm() / want.norm()) < (3e-3 if dtype == torch.float16 else 2e-2)


def test_moved_rows_take_their_gradients_back():
    x = torch.randn(2, 3, 7, 16, device=DEVICE, requires_grad=True)
    index = torch.randperm(7, device=DEVICE)
    weight = torch.randn(7, 16, device=DEVICE).expand(2, 3, 7, 16)
    out = Move.apply(x, index, index.argsort())
    assert torch.equal(out, x[:, :, index])
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    assert torch.equal(grad, weight[:, :, index.argsort()])


@pytest.mark.parametrize(
    "routing",
    [
        R(top_k=2, tile=(1, 2, 3), own="frame", tail="pooled", drop_off=0.5, drop_in=2.0, seed=3),
        R(top_k=1, own="shot", causal=True, drop_in=1.0),
        R(top_k=3, own="chunk", drop_off=0.9, shots_kept=1),
    ],
    ids=str,
)
def test_chunks_are_dropped_and_added_as_the_reference_does(routing):
    same((WITH_TEXT, (0, 1, 2), routing, 2), noise=True)


@pytest.mark.parametrize(
    "routing",
    [
        R(rule="top-p", top_p=0.6, tile=(1, 2, 3), own="frame", tail="pooled", drop_in=1.0),
        R(rule="threshold", beta=0.5, own="shot"),
    ],
    ids=str,
)
def test_other_rules_have_gradients_too(routing):
    same((WITH_TEXT, (0, 1, 2), routing, 2), noise=True)


def test_bits_and_back():
    chosen = torch.rand(2, 5, 70, device=DEVICE) > 0.5
    assert torch.equal(unpack(pack(chosen), 70, slice(0, 5)), chosen)


def test_what_has_no_gradients_says_so():
    table = build_chunks(PLAIN, (0,), R(lists="union"))
    q = torch.zeros(1, 1, 96, 64, requires_grad=True)
    assert wants_gradients(q.detach(), q) and not wants_gradients(q.detach())
    assert "lists that rows share" in BACKEND.refuses(Call(q, table, R(lists="union"), gradients=True))
    with torch.no_grad():
        assert not wants_gradients(q)
