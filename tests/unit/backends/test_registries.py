"""Every rule, descriptor, tail and kind of list, on every backend, against brute force; and what is registered anew
works on all of them, or is refused."""

from functools import cache

import numpy as np
import pytest
import torch

from moc.attention import moc_attention
from moc.backends import BACKENDS, triton
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import DESCRIPTORS, LISTS, PART_OF, RULES, TAILS, RoutingConfig
from moc.errors import MoCError
from moc.routing.candidates import candidates
from moc.routing.descriptors import Descriptor
from moc.routing.rules import Rule, select
from tests.tools import brute
from tests.tools.cases import qkv, tiles_of

LAYOUT = TokenLayout(39, (3, 3, 4), 3, (Span("text", 0, 3),))
STARTS = (0, 2)
SHAPE = {"tile": (1, 2, 2), "own": "frame"}
BUDGETS = {
    "none": {"top_k": 0},
    "some": {"top_k": 2},
    "all": {"top_k": 99},
    "a density that is none": {"density": 0.01},
}
COUNTS = {"none": 0, "some": 2, "all": 99, "a density that is none": 0}
needs_triton = pytest.mark.skipif(triton._triton_missing() is not None, reason="Triton is not installed")
WITH_TRITON = pytest.param("triton", marks=[needs_triton, pytest.mark.slow])
EVERY = [*(name for name in BACKENDS if name != "triton"), WITH_TRITON]


class Choice:
    def __init__(self):
        self.rows = []

    def add(self, rows, chosen):
        self.rows.append(chosen)


def run(backend, q, k, v, table, routing, **how):
    seen = Choice()
    out = moc_attention(q, k, v, table, routing, backend=backend, record=seen, **how)
    return out, torch.cat(seen.rows, 2) if seen.rows else None


def budgets():
    """With every rule those that it looks at; nothing to choose by is one for all."""
    return [(rule, name) for rule in RULES for name in BUDGETS if name == "none" or "top_k" in RULES[rule].parameters]


@cache
def expected_of(routing, budget):
    """By the brute force, once for all backends."""
    table = build_chunks(LAYOUT, STARTS, routing)
    arrays = [x.numpy() for x in qkv(LAYOUT, batch=1, dim=16)]
    lse = np.zeros(arrays[0].shape[:-1])
    out, _ = brute.attend(*arrays, LAYOUT, STARTS, routing, 0.25, tiles_of(table), [COUNTS[budget]] * 2, lse)
    return torch.from_numpy(out), torch.from_numpy(lse)


@pytest.mark.slow
@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("descriptor", DESCRIPTORS)
@pytest.mark.parametrize(("rule", "budget"), budgets())
@pytest.mark.parametrize("backend", EVERY)
def test_a_backend_computes_every_setting(backend, rule, descriptor, tail, lists, budget):
    settings = {"top_p": 0.6, "beta": 0.3, **SHAPE, **BUDGETS[budget]}
    routing = RoutingConfig.of(rule=rule, descriptor=descriptor, tail=tail, lists=lists, **settings)
    table = build_chunks(LAYOUT, STARTS, routing)
    assert table.top_k(routing) == COUNTS[budget]
    q, k, v = qkv(LAYOUT, batch=1, dim=16)
    tolerance = {"rtol": 1e-9, "atol": 1e-11}
    if backend == "triton":
        q, k, v = (x.float() for x in (q, k, v))
        tolerance = {"rtol": 0, "atol": 2e-5 if q.device.type == "cpu" else 5e-3}
    expected, expected_lse = expected_of(routing, budget)
    out, _ = run(backend, q, k, v, table, routing, scale=0.25)
    torch.testing.assert_close(out.double(), expected, **tolerance)
    lse = torch.full(q.shape[:-1], torch.nan, dtype=q.dtype)
    again, _ = run(backend, q, k, v, table, routing, scale=0.25, lse=lse)
    torch.testing.assert_close(again.double(), expected, **tolerance)
    torch.testing.assert_close(lse.double(), expected_lse, **tolerance)


@pytest.mark.parametrize("budget", ["none", "a density that is none"])
@pytest.mark.parametrize("backend", EVERY)
def test_without_a_choice_a_union_still_is_of_what_the_rows_of_a_tile_own(backend, budget):
    """Tiles of queries span frames here; with a window and static memory own chunks overlap."""
    layout = TokenLayout(98, (7, 2, 7))
    shape = {"tile": (2, 2, 4), "own": "frame", "window": 1, "static": "first frame", "tail": "pooled"}
    routing = RoutingConfig.of(lists="union", **shape, **BUDGETS[budget])
    table = build_chunks(layout, (0,), routing)
    q, k, v = (x.float() for x in qkv(layout, batch=1, dim=16))
    arrays = [x.double().numpy() for x in (q, k, v)]
    expected, chosen_by = brute.attend(*arrays, layout, (0,), routing, 0.25, tiles_of(table), [0, 0])
    assert any(chosen_by.values())
    out, _ = run(backend, q, k, v, table, routing, scale=0.25)
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), rtol=0, atol=5e-5)


def test_what_is_registered_says_what_it_is():
    for rule in RULES.values():
        assert rule.sentence and set(rule.parameters) <= set(PART_OF)
    assert all(kind.sentence for kind in DESCRIPTORS.values())
    assert set(triton.RULES) <= set(RULES) and set(triton.DESCRIPTORS) <= set(DESCRIPTORS)


def worst(score, candidate, table, routing, scale):
    return select(-score, candidate, table.top_k(routing))


def farther_than_the_first(score, candidate, table, routing, scale):
    """Another number for every row, and all chunks, candidates or not: what may not be chosen has to be left out."""
    return score > score[..., :1]


def one_of_each(keys):
    return keys[..., 0, :].to(torch.promote_types(keys.dtype, torch.float32)), keys[..., -1, :].float()


TOYS = {
    "the same k": (Rule(worst, ("top_k",), "the worst", same_k=True), Descriptor(one_of_each, False, "first token")),
    "any k": (Rule(farther_than_the_first, (), "some"), Descriptor(one_of_each, True, "first and last token")),
}


def expected_of_toys(q, k, v, table, routing, rule, signed):
    """The whole of it with a mask."""
    mandatory, candidate = candidates(table, routing, slice(0, table.length), q.device)
    first = torch.stack([k[..., c.start, :] for c in table.chunks], -2)
    last = torch.stack([k[..., c.stop - 1, :] for c in table.chunks], -2)
    score = q.clamp(min=0) @ first.mT + q.clamp(max=0) @ (last if signed else first).mT
    if rule.same_k:
        order = score.masked_fill(~candidate, torch.inf).argsort(-1)[..., : routing.budget.top_k]
        chosen = torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True) & candidate
    else:
        chosen = (score > score[..., :1]) & candidate
    mask = (mandatory | chosen)[..., table.tensors(q.device).chunk_of]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.25), chosen


@pytest.mark.parametrize("tile", [(1, 2, 2), None])  # few tokens a chunk, and many: both dataflows
@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("backend", EVERY)
def test_a_new_rule_and_a_new_descriptor_work_on_every_backend(monkeypatch, backend, toy, tile):
    rule, descriptor = TOYS[toy]
    monkeypatch.setitem(RULES, "toy", rule)
    monkeypatch.setitem(DESCRIPTORS, "toy", descriptor)
    layout = TokenLayout(67, (4, 4, 4), 3, (Span("text", 0, 3),))
    routing = RoutingConfig.of(rule="toy", descriptor="toy", top_k=2, tile=tile, own="frame")
    table = build_chunks(layout, (0,), routing)
    inputs = [x.float()[..., table.order, :].requires_grad_() for x in qkv(layout, batch=1, dim=16)]
    expected, wanted = expected_of_toys(*inputs, table, routing, rule, descriptor.signed)
    seen = Choice()
    with torch.no_grad():
        out = BACKENDS[backend].attend(*inputs, table, routing, scale=0.25, training=False, record=seen)
    routed = table.tensors("cpu").group_routed[table.tensors("cpu").row_group]
    got = torch.cat(seen.rows, 2)
    assert torch.equal(got if got.shape[2] == routed.sum() else got[:, :, routed], wanted[:, :, routed])
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-5)

    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    trained = BACKENDS[backend].attend(*inputs, table, routing, scale=0.25, training=True, record=None)
    gradients = [torch.autograd.grad((x * weight).sum(), inputs) for x in (trained, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("backend", EVERY)
def test_a_new_descriptor_of_half_precision_keys_chooses_alike_everywhere(monkeypatch, backend, signed):
    """A third of the first key: not a number of half precision, so that what is rounded has to be rounded alike."""
    monkeypatch.setitem(
        DESCRIPTORS, "third", Descriptor(lambda keys: tuple(x / 3 for x in one_of_each(keys)), signed, "a third")
    )
    routing = RoutingConfig.of(descriptor="third", top_k=2, **SHAPE)
    table = build_chunks(LAYOUT, STARTS, routing)
    inputs = [x.half() for x in qkv(LAYOUT, dim=16)]
    out, chosen = run(backend, *inputs, table, routing)
    want, expected = run("reference", *inputs, table, routing)
    if chosen.shape == expected.shape:
        assert torch.equal(chosen, expected)
    torch.testing.assert_close(out, want, rtol=0, atol=4e-3)


def test_nothing_registered_is_left_behind():
    for setting in ({"rule": "toy"}, {"descriptor": "toy"}):
        with pytest.raises(MoCError, match="choose one of: "):
            RoutingConfig.of(**setting)


@pytest.mark.parametrize("name", ["tail", "lists"])
@pytest.mark.parametrize("backend", EVERY)
def test_what_a_backend_does_not_name_it_refuses(monkeypatch, backend, name):
    known = {"tail": TAILS, "lists": LISTS}[name]
    monkeypatch.setitem(known, "new", "what nobody knows yet")
    routing = RoutingConfig.of(**{name: "new"}, **SHAPE)
    table = build_chunks(LAYOUT, STARTS, routing)
    q = torch.zeros(1, 1, LAYOUT.length, 16)
    with pytest.raises(MoCError, match=f"the {backend} backend cannot run this: {name} 'new' is none of those"):
        moc_attention(q, q, q, table, routing, backend=backend)


def test_the_backends_name_all_that_can_be_asked_for():
    for backend in BACKENDS.values():
        assert set(backend.allowed.tails) == set(TAILS) and set(backend.allowed.lists) == set(LISTS)
