"""MoC Apply, MoC Shot Conditioning and MoC Windows share what a run and its passes are, in any order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import pytest
import tiny
import torch
from mixture_of_contexts.moc.host.adapters import ADAPTERS
from mixture_of_contexts.moc.host.captions import join_captions, read_by_shot
from mixture_of_contexts.moc.host.session import SESSION, session_of
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.nodes.windows import MoCWindows
from spies import apart, everything, routed
from test_cross import captions, sample

SHOTS = Shots(cuts=(2, 3), unit="latent")
ORDERS = ("routed", "captions"), ("captions", "routed")


def put(model, nodes, shots=SHOTS, settings=None):
    """(the model with these nodes in a row, the trace of MoC Apply)"""
    trace = None
    for node in nodes:
        if node == "routed":
            model, trace = routed(model, settings or everything(), shots)
        elif node == "captions":
            model = read_by_shot(model)
        else:
            model = MoCWindows.execute(model, shots, "shots", 13, 0).args[0]
    return model, trace


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_the_model_is_asked_once_in_a_pass_and_nothing_stays(order, monkeypatch):
    asked, wan = [], ADAPTERS["WanModel"]
    counted = replace(wan, sequence=lambda *args: asked.append(args) or wan.sequence(*args))
    monkeypatch.setitem(ADAPTERS, "WanModel", counted)
    patched, _ = put(tiny.load(), order)
    sample(patched, join_captions(captions(), SHOTS), cfg=3.0, steps=2)
    assert len(asked) == 4  # two prompts, two steps
    assert "moc_" not in str(patched.model_options) and "moc_" not in str(tiny.load().model_options)


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_captions_together_as_long_as_the_video_do_not_keep_moc_from_it(order):
    """The text is made longer for the captions, and MoC knows of it, whoever comes first."""
    texts = join_captions(captions((20, 30, 30)), SHOTS)  # 80 tokens, as the video has
    wanted = sample(read_by_shot(tiny.load()), texts)
    patched, trace = put(tiny.load(), order)
    assert apart(sample(patched, texts), wanted) < 1e-5
    assert trace.routed == 6 and not trace.dense


@pytest.mark.parametrize("order", list(permutations(("routed", "captions", "windows"))), ids=" then ".join)
def test_all_three_in_any_order(order):
    shots, shape = Shots(cuts=(3, 6), unit="latent"), (1, 16, 9, 8, 8)
    texts = join_captions(captions(), shots)
    wanted = sample(put(tiny.load(), ("captions", "windows"), shots)[0], texts, shape=shape)
    patched, trace = put(tiny.load(), order, shots)
    assert apart(sample(patched, texts, shape=shape), wanted) < 1e-5
    assert trace.routed and not trace.dense
    assert {shot for record in trace.records for shot in record.axes.shots} == {0, 1, 2}


def test_a_run_inside_a_run_has_a_session_of_its_own():
    model, options, conds = tiny.load(), {}, {"positive": []}
    guider = SimpleNamespace(model_patcher=model, conds=conds, model_options={"transformer_options": options})
    first = session_of(guider, torch.zeros(1, 16, 5, 8, 8), {})
    assert session_of(guider, torch.zeros(1, 16, 5, 8, 8), {}) is first is options[SESSION]
    assert session_of(guider, torch.zeros(1, 16, 9, 8, 8), {}).stop == 9
    guider.conds = {"positive": []}
    assert session_of(guider, torch.zeros(1, 16, 5, 8, 8), {}) is not first
