"""Text padding: exactly what hiding it gives, and no other mask is taken for it."""

from __future__ import annotations

import pytest
import tiny
import torch
from comfy.ldm.modules.attention import attention_pytorch
from mixture_of_contexts.moc.chunks.layout import Span, TokenLayout
from mixture_of_contexts.moc.host.text_padding import unpad
from mixture_of_contexts.moc.trace.reasons import Reason
from spies import apart, everything
from test_override import GRID, HEADS, TOKENS, attend, forward

TEXT = 6
LOWEST = torch.finfo(torch.float32).min


def hide(*tokens: int, shape: tuple = (1, 1), value: float = LOWEST) -> torch.Tensor:
    mask = torch.zeros(*shape, TOKENS + TEXT)
    mask[..., list(tokens)] = value
    return mask


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("hidden", [(4, 5), (0, 3), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("boolean", [True, False])
def test_hidden_text_is_as_if_it_were_not_there(front, hidden, boolean):
    start = 0 if front else TOKENS
    mask = hide(*(start + i for i in hidden))
    mask = mask == 0 if boolean else mask
    state = forward(settings=everything(), **{"before" if front else "after": (("text", TEXT),)})
    out = attend(state, tokens=TOKENS + TEXT, mask=mask)

    q, k, v = (tiny.random(1, TOKENS + TEXT, HEADS * 16, seed=i) for i in range(3))
    masked = attention_pytorch(q, k, v, HEADS, mask, _inside_attn_wrapper=True)
    seen = [i for i in range(TOKENS + TEXT) if i - start not in hidden]
    assert apart(out[:, seen], masked[:, seen]) < 1e-5
    assert not state.run.patch.trace.dense and state.run.patch.trace.routed == 1


@pytest.mark.parametrize(
    "mask",
    [
        hide(TEXT),  # the first video token
        hide(0, value=-0.7),  # weaker, not gone
        hide(0, shape=(TOKENS + TEXT,)),  # query by key
        torch.cat([hide(0), hide(1)]),  # not the same for all samples
        hide(0)[..., :-1],
    ],
    ids=["video", "weaker", "two-dimensional", "sample by sample", "another length"],
)
def test_any_other_mask_runs_dense(mask):
    layout = TokenLayout(TOKENS + TEXT, GRID, TEXT, (Span("text", 0, TEXT),))
    assert unpad(mask, layout) is None


def test_a_mask_that_changes_between_blocks_is_read_anew():
    state = forward(settings=everything(), before=(("text", TEXT),))
    one, two = (attend(state, tokens=TOKENS + TEXT, mask=hide(i)) for i in (0, 1))
    assert apart(one[:, TEXT:], two[:, TEXT:]) > 1e-4


def test_a_call_for_some_of_the_queries_only_runs_dense_and_says_so():
    """LTX asks for the video's queries and the guides' apart when a guide is weaker than 1."""
    state = forward(after=(("reference", TEXT),))
    q, k, v = (tiny.random(1, TOKENS + TEXT, HEADS * 16, seed=i) for i in range(3))
    from mixture_of_contexts.moc.host.override import attention_override
    from mixture_of_contexts.moc.host.state import FORWARD

    options = {"_inside_attn_wrapper": True, "transformer_options": {FORWARD: state}}
    out = attention_override(attention_pytorch, q[:, :TOKENS], k, v, HEADS, hide(TOKENS, value=-0.7), **options)
    assert out.shape == (1, TOKENS, HEADS * 16) and state.run.patch.trace.dense == {Reason.MASK: 1}
