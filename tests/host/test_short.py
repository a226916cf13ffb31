"""Films so short that dense attention is faster on a GPU: dense by itself, routed where somebody asks for it."""

from __future__ import annotations

import pytest
import tiny
import torch
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig
from mixture_of_contexts.moc.host import apply_probe, break_even
from mixture_of_contexts.moc.probe.log import ProbeLog
from mixture_of_contexts.moc.trace.reasons import Reason
from mixture_of_contexts.moc.trace.trace import Trace
from spies import TWO_SHOTS, little, routed
from test_training import model, train  # noqa: F401 - a fixture

BLOCKS, STEPS = 3, 2
TOKENS = 5 * 4 * 4


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, ...]]:
    """As if this were a GPU on which routing never pays; the shapes that were asked about."""
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(break_even.cost_model, "applies", lambda device: True)
    monkeypatch.setattr(break_even.cost_model, "pays", lambda q, *_, kernels: bool(shapes.append(tuple(q.shape))))
    return shapes


def test_what_does_not_pay_is_bitwise_the_unpatched_model_and_says_why(asked):
    patched, trace = routed(tiny.load())
    assert torch.equal(tiny.sample(patched), tiny.sample(tiny.load()))
    assert trace.dense == {Reason.SHORT: STEPS * BLOCKS} and not trace.routed
    assert {shape[2] for shape in asked} == {TOKENS} and {len(shape) for shape in asked} == {4}
    assert "min_tokens" in trace.report() and "dense is as fast" in trace.status()


def test_where_only_the_kernels_are_missing_the_report_says_that(asked, monkeypatch):
    taken = break_even.registry.Selected(break_even.registry.BACKENDS["eager"], "Triton is not installed")
    monkeypatch.setattr(break_even.registry, "select", lambda *_: taken)
    patched, trace = routed(tiny.load())
    assert torch.equal(tiny.sample(patched), tiny.sample(tiny.load()))
    assert trace.dense == {Reason.KERNELS: STEPS * BLOCKS} and not trace.routed
    assert "MoC's GPU kernels do not run here: Triton is not installed" in trace.report()
    assert "no GPU kernels" in trace.status()


def test_what_pays_is_routed(asked, monkeypatch):
    monkeypatch.setattr(break_even.cost_model, "pays", lambda *_, kernels: True)
    patched, trace = routed(tiny.load())
    tiny.sample(patched)
    assert trace.routed == STEPS * BLOCKS and not trace.dense


@pytest.mark.parametrize(
    "settings, options", [(little(min_tokens=1), {}), (little(min_tokens=TOKENS), {}), (little(), {"backend": "eager"})]
)
def test_a_limit_or_a_backend_of_ones_own_is_kept_to(asked, settings, options):
    patched, trace = routed(tiny.load(), settings, **options)
    tiny.sample(patched)
    assert trace.routed == STEPS * BLOCKS and not trace.dense and not asked


def test_a_probe_looks_all_the_same(asked):
    log = ProbeLog(MoCSettings(RoutingConfig.of(top_k=2, own="frame", tile=(1, 2, 2))), steps_asked=(0, 1))
    tiny.sample(apply_probe(tiny.load(), TWO_SHOTS, log, Trace()))
    assert len(log.calls) == STEPS * BLOCKS and not asked


def test_training_routes_all_the_same(asked, model):  # noqa: F811 - the fixture
    patched, trace = routed(model)
    train(patched)
    assert trace.routed and not trace.dense and not asked


def test_a_cpu_is_never_asked(monkeypatch):
    monkeypatch.setattr(break_even.cost_model, "pays", lambda *_: pytest.fail("there is nothing to ask"))
    patched, trace = routed(tiny.load())
    tiny.sample(patched)
    assert trace.routed == STEPS * BLOCKS
