"""The override's side of the host's contract: tensor layouts, masks, scale, and what it hands on."""

from __future__ import annotations

import pytest
import tiny
import torch
from comfy.ldm.modules.attention import attention_pytorch
from mixture_of_contexts.moc.host.adapters import Sequence
from mixture_of_contexts.moc.host.override import attention_override
from mixture_of_contexts.moc.host.session import VideoPass
from mixture_of_contexts.moc.host.state import FORWARD, Forward, Patch, Run
from mixture_of_contexts.moc.trace.reasons import Reason
from spies import SpyTrace, little

HEADS, TOKENS, DIM = 2, 48, 16
GRID = (3, 4, 4)


def forward(previous=None, settings=None, **sequence) -> Forward:
    run = Run(Patch(None, settings or little(), SpyTrace(), "auto"), [1.0], (0.0, 1.0), (0,))
    return Forward(run, VideoPass(Sequence(GRID, ((),), **sequence), None), previous, 1.0, 0, None, True)


def attend(state: Forward, tokens: int = TOKENS, mask=None, per_head=False, out_per_head=False, **kwargs):
    q, k, v = (tiny.random(1, tokens, HEADS * DIM, seed=i) for i in range(3))
    if per_head:
        q, k, v = (x.unflatten(-1, (HEADS, DIM)).transpose(1, 2) for x in (q, k, v))
    return attention_override(
        attention_pytorch, q, k, v, HEADS, mask, skip_reshape=per_head, skip_output_reshape=out_per_head,
        _inside_attn_wrapper=True, transformer_options={FORWARD: state}, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("per_head", [False, True])
def test_both_tensor_layouts_in_and_out(per_head):
    flat, heads = attend(forward(), per_head=per_head), attend(forward(), per_head=per_head, out_per_head=True)
    assert flat.shape == (1, TOKENS, HEADS * DIM) and heads.shape == (1, HEADS, TOKENS, DIM)
    assert torch.equal(heads.transpose(1, 2).flatten(2), flat)
    assert torch.equal(flat, attend(forward()))


def test_the_callers_scale_counts():
    assert torch.equal(attend(forward(), scale=DIM**-0.5), attend(forward()))
    assert not torch.allclose(attend(forward(), scale=1.0), attend(forward()))


@pytest.mark.parametrize("mask", [torch.zeros(TOKENS, TOKENS), torch.ones(TOKENS, TOKENS, dtype=torch.bool)])
def test_a_mask_that_hides_nothing_is_no_mask(mask):
    state = forward()
    assert torch.equal(attend(state, mask=mask), attend(forward()))
    assert not state.run.patch.trace.dense


@pytest.mark.parametrize("mask", [torch.eye(TOKENS), torch.eye(TOKENS, dtype=torch.bool)])
def test_a_mask_runs_dense(mask):
    state = forward()
    out = attend(state, mask=mask)
    q, k, v = (tiny.random(1, TOKENS, HEADS * DIM, seed=i) for i in range(3))
    assert torch.equal(out, attention_pytorch(q, k, v, HEADS, mask, _inside_attn_wrapper=True))
    assert state.run.patch.trace.dense == {Reason.MASK: 1}


def test_tokens_that_the_sequence_does_not_explain_run_dense():
    state = forward()
    attend(state, tokens=TOKENS + 1)
    assert state.run.patch.trace.dense == {Reason.LENGTH: 1}


def test_fewer_tokens_than_the_video_has_are_not_the_video():
    state = forward()
    attend(state, tokens=TOKENS - 1)
    assert not state.run.patch.trace.dense and not state.run.patch.trace.routed


def test_one_part_of_open_length_takes_the_rest():
    sequence = Sequence(GRID, (), before=(("text", None), ("reference", 4)), after=(("audio", 2),))
    layout = sequence.layout(TOKENS + 16, None)
    assert [(s.kind, s.start, s.stop) for s in layout.spans] == [
        ("text", 0, 10),
        ("reference", 10, 14),
        ("audio", 62, 64),
    ]
    assert layout.video_start == 14 and sequence.layout(TOKENS + 5, None) is None


def test_everything_that_came_is_handed_on():
    got = {}

    def previous(func, q, k, v, heads, **kwargs):
        got.update(kwargs, func=func)
        return q

    attend(forward(previous), tokens=TOKENS - 1, low_precision_attention=False)
    assert got["func"] is attention_pytorch and got["_inside_attn_wrapper"] and not got["low_precision_attention"]
    assert FORWARD in got["transformer_options"] and got["mask"] is None and got["skip_reshape"] is False
