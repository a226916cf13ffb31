"""Published methods in a model: every block is routed once a step, and nothing is lost where a method keeps all."""

from __future__ import annotations

import pytest
import tiny
import torch
from mixture_of_contexts.moc.methods import METHODS
from mixture_of_contexts.moc.trace.reasons import Reason
from spies import apart, routed

CALLS = [0, 1, 2] * 2  # blocks, steps
ALL = {"density": None, "top_k": 1000}
EVERYTHING = {
    "MoC": {**ALL, "causal": False},
    "VSA": ALL,
    "Jenga": ALL,
    "SpargeAttn": ALL,
    "VMoBA": {"top_p": 1.0},
    "STA": {"box": (99, 99, 99)},
    "SVG": {"band": 1.0},
    "SVG 2": {"top_p": 1.0},
    "SVG-EAR": {"top_p": 1.0},
    "SubBlock": ALL,
    "Veda": ALL,
    "SparsePR": {"top_p": 1.0},
}


def settings_of(method: str, **changes):
    """Without the steps and blocks that its authors keep dense."""
    return METHODS[method].settings.with_schedule(start_percent=0.0, dense_first=0).with_routing(**changes)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_routes_every_block_once_a_step(method):
    patched, trace = routed(tiny.load(), settings_of(method))
    sampled, plain = tiny.sample(patched), tiny.sample(tiny.load())
    assert sampled.isfinite().all()
    if method == "LCT":
        assert trace.dense == {Reason.NO_CHOICE: len(CALLS)} and torch.equal(sampled, plain)
    else:
        assert trace.blocks_seen == CALLS and not trace.dense


@pytest.mark.parametrize("method", EVERYTHING)
def test_a_method_that_keeps_everything_loses_nothing(method):
    patched, trace = routed(tiny.load(), settings_of(method, **EVERYTHING[method]))
    assert apart(tiny.sample(patched), tiny.sample(tiny.load())) < 1e-4 and trace.blocks_seen == CALLS
