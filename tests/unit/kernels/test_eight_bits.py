"""8 bits in Triton's interpreter: the kernels give the reference's numbers, and choose what 16 bits choose."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (pip install triton): the GPU engine is not tested")

from moc.backends import eight_bits, reference
from moc.backends.triton import forward
from moc.backends.triton.dataflow import CHUNK_MAJOR, HOPPER, QUERY_MAJOR, Arch, Wants, choose_dataflow
from moc.backends.triton.device_table import device_table_of
from moc.backends.triton.lib.quantise import quantised
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import EIGHT_BITS, RoutingConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WITH_TEXT = TokenLayout(103, (4, 4, 6), 7, (Span("text", 0, 7),))
LONG = TokenLayout(3 * 80 + 5, (3, 8, 10), 5, (Span("text", 0, 5),))
R = RoutingConfig.of
# A chunk of one step and of several, tails taken off and masked, lists of rows and of blocks, rows that see everything
CASES = {
    "frames of several steps, text": (LONG, R(top_k=1, own="chunk", tail="pooled"), CHUNK_MAJOR),
    "chunks of one step": (WITH_TEXT, R(top_k=2, tile=(1, 2, 6), own="frame", tail="pooled"), CHUNK_MAJOR),
    "own shot": (WITH_TEXT, R(top_k=1, causal=True), CHUNK_MAJOR),
    "small tiles": (WITH_TEXT, R(top_k=3, tile=(1, 2, 2), own="frame", tail="pooled"), QUERY_MAJOR),
    "small tiles, shared lists": (WITH_TEXT, R(top_k=2, tile=(1, 2, 2), own="frame", lists="union"), QUERY_MAJOR),
}


class Choice(list):
    def add(self, rows: slice, chosen: torch.Tensor) -> None:
        self.append(chosen)


def inputs(layout: TokenLayout, dim: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Keys with a large mean, as models have them, one of them far longer than all others, and queries of nothing."""
    torch.manual_seed(0)
    q, k, v = (x.transpose(1, 2) for x in torch.randn(2, layout.length, 3, 2, dim, device=DEVICE).to(dtype).unbind(2))
    k += 4 * torch.randn(dim, device=DEVICE, dtype=dtype)
    k[:, :, layout.length // 2] *= 3
    q[0, 0, ::5] = 0
    return [q, k, v]


@pytest.mark.parametrize("name", CASES)
def test_8_bits_are_those_of_the_reference_and_choose_as_16_bits_do(name: str) -> None:
    layout, routing, kind = CASES[name]
    table, seen = build_chunks(layout, (0, 2), routing), [Choice(), Choice(), Choice()]
    q, k, v = inputs(layout, 20)
    lse = torch.empty(q.shape[:-1], device=DEVICE)
    how = dict(scale=0.2, training=False)
    exact = reference.attend(q, k, v, table, routing, record=seen[0], **how)
    in_8 = routing.changed(precision=EIGHT_BITS)
    want = reference.attend(q, k, v, table, in_8, record=seen[1], lse=lse, **how)
    kept = forward.SavedForBackward.of(q, choices=False)
    got = forward.run(q, k, v, table, in_8, 0.2, seen[2], wants=Wants(rows=True, kind=kind), keep=kept)
    sums = torch.empty_like(lse)
    kept.hand_over(sums)
    for chosen in seen[1:]:
        assert torch.equal(torch.cat(chosen, 2), torch.cat(seen[0], 2))
    close = {"rtol": 0, "atol": 2e-5 if DEVICE == "cpu" else 5e-3}
    torch.testing.assert_close(got, want, **close)
    torch.testing.assert_close(sums, lse, **close)
    assert 1e-4 < (got - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_queries_and_keys_are_rounded_as_plain_torch_rounds_them(dtype: torch.dtype) -> None:
    q, k, _ = inputs(WITH_TEXT, 20, dtype)
    found, want = quantised(q, k, 1.0), eight_bits.in_eight_bits(q, k)
    q8, k8 = (x.float().view_as(q) for x in (found.q8, found.k8))
    torch.testing.assert_close(q8 * found.q_scale.view(2, 2, -1, 1), want.q, rtol=1e-6, atol=0)
    each = found.k_scale.repeat_interleave(eight_bits.KEYS, -1)[:, : q.shape[2]].view(2, 2, -1, 1)
    torch.testing.assert_close(k8 * each, want.k, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.offset.view(2, 2, -1), want.offset, rtol=1e-5, atol=1e-5)
    assert k8.abs().amax() == q8.abs().amax() == eight_bits.MOST


def test_what_computes_in_16_bits_only_takes_no_part() -> None:
    routing = R(top_k=8, tile=(1, 8, 8), own="frame", tail="pooled", precision=EIGHT_BITS)
    table = build_chunks(TokenLayout(8 * 2048, (8, 32, 64)), (0,), routing)
    geometry = device_table_of(table, routing, torch.device("cpu")).geometry
    arch = Arch((9, 0), frozenset(HOPPER), library=True)
    for lists, usual in (("token", "gather_sm90"), ("union", "union_sm90")):
        wide = choose_dataflow(geometry, routing.changed(lists=lists, precision="auto"), arch)
        flow = choose_dataflow(geometry, routing.changed(lists=lists), arch)
        assert wide.attend == usual and wide.hot == wide.library == (lists == "token")
        assert flow.attend == usual.removesuffix("_sm90").replace("union", "block") and not (flow.hot or flow.library)
        assert (flow.selection, flow.tail_by) == (wide.selection, wide.tail_by)
