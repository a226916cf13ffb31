"""On a GPU whose kernels do not run, the call goes on in torch and says so."""

import pytest
import torch
from cases import qkv

import moc.attention as attention
from moc.attention import moc_attention
from moc.chunks import build_table
from moc.config import RoutingConfig
from moc.layout import TokenLayout


class OnGpu(torch.Tensor):
    """A CPU tensor that says it lives on a CUDA device."""

    @property
    def device(self):
        return torch.device("cuda")


@pytest.mark.parametrize(
    ("supports", "attend", "expected"),
    [
        (lambda *_: "Triton is not installed", None, "Triton is not installed"),
        (lambda *_: None, RuntimeError("no such architecture"), "RuntimeError: no such architecture"),
        (lambda *_: None, torch.OutOfMemoryError("2 GiB"), "OutOfMemoryError: 2 GiB"),
    ],
)
def test_torch_takes_over_and_the_reason_is_noted(monkeypatch, supports, attend, expected):
    def broken(*args, **kwargs):
        raise attend

    notes, calls = [], []
    monkeypatch.setattr(attention.triton, "supports", supports)
    monkeypatch.setattr(attention.triton, "attend", broken)
    monkeypatch.setattr(attention.triton, "_failed", {})
    monkeypatch.setattr(attention.eager, "attend", lambda q, *args, **kwargs: calls.append(1) or q)
    layout = TokenLayout(32, (2, 4, 4))
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    moc_attention(q, k, v, build_table(layout, (0,), RoutingConfig()), RoutingConfig(), note=notes.append)
    assert calls == [1]
    assert len(notes) == 1 and expected in notes[0] and "slower" in notes[0]


def test_a_cpu_has_no_kernels_to_miss():
    layout, notes = TokenLayout(32, (2, 4, 4)), []
    routing = RoutingConfig(top_k=1, own="frame")
    moc_attention(*qkv(layout), build_table(layout, (0,), routing), routing, note=notes.append)
    assert notes == []
