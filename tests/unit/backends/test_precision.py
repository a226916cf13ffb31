"""Who computes in 8 bits, who does not, and what the report is told."""

import pytest
import torch

from moc.attention import moc_attention
from moc.backends import BACKENDS, eight_bits, registry
from moc.backends.allowed import Allowed
from moc.backends.registry import Backend, Call, select
from moc.backends.triton import ALLOWED, block_sizes
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import EIGHT_BITS, PRECISIONS, RoutingConfig
from moc.errors import MoCError
from tests.tools.cases import OnGpu, qkv

LAYOUT = TokenLayout(96, (4, 4, 6))
ROUTING = RoutingConfig.of(top_k=3, tile=(1, 2, 2), own="frame", tail="pooled", precision=EIGHT_BITS)
TABLE = build_chunks(LAYOUT, (0, 2), ROUTING)


def run(precision, backend="auto", **how):
    notes = []
    q, k, v = qkv(LAYOUT, dim=16, dtype=torch.float32)
    q, k, v = (x.requires_grad_(how.pop("grad", False)) for x in (q, k, v))
    out = moc_attention(q, k, v, TABLE, ROUTING.changed(precision=precision), backend=backend, note=notes.append, **how)
    return out, notes


@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
def test_auto_is_16_bits_to_the_bit_and_says_nothing(backend):
    (auto, silent), (wide, also), (eight, told) = (run(name, backend) for name in PRECISIONS)
    assert torch.equal(auto, wide) and not torch.equal(wide, eight)
    assert silent == also == [] and told == ["routed in 8 bits, as asked"]


@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
@pytest.mark.parametrize("how", [{"training": True}, {"grad": True}])
def test_training_runs_in_16_bits_and_the_report_says_so(backend, how):
    out, told = run(EIGHT_BITS, backend, **how)
    assert torch.equal(out, run("16 bits", backend, **how)[0])
    assert told == ["16 bits and not 8: training stays in 16 bits"]


def test_the_kernels_take_8_bits_on_cards_without_kernels_of_their_own(monkeypatch):
    q = torch.zeros(1, 1, 96, 64, dtype=torch.float16).as_subclass(OnGpu)
    for card in ALLOWED.eight_bits:
        monkeypatch.setattr(block_sizes, "capability", lambda device, card=card: card)
        assert ALLOWED.refuses(q, ROUTING) is None
    for card in ((9, 0), (10, 0)):
        monkeypatch.setattr(block_sizes, "capability", lambda device, card=card: card)
        assert ALLOWED.refuses(q, ROUTING) == "8 bits are not faster here"
        assert ALLOWED.refuses(q, ROUTING.changed(precision="auto")) is None


def test_where_8_bits_are_not_faster_the_same_kernels_run_in_16_and_a_named_backend_refuses(monkeypatch):
    """And not the next backend, which has 8 bits and is slower than the first one with 16."""
    toy = Backend("toy", BACKENDS["eager"].attend, Allowed(("none", "pooled"), ("token",)), devices=("cpu",))
    monkeypatch.setattr(registry, "BACKENDS", {"toy": toy, **BACKENDS})
    call = Call(torch.zeros(1, 1, 96, 16), TABLE, ROUTING)
    found = select("auto", call)
    assert (found.backend, found.precision) == (toy, "16 bits")
    assert found.told == "16 bits and not 8: 8 bits are not faster here"
    with pytest.raises(MoCError, match="the toy backend cannot run this: 8 bits are not faster here"):
        select("toy", call)
    assert select("eager", call).precision == EIGHT_BITS
    out, told = run(EIGHT_BITS)
    assert torch.equal(out, run("16 bits")[0]) and told == [found.told]


def test_keys_without_their_mean_err_less():
    """Keys of one head are alike for the most part, and 8 bits of what they share are lost on all."""
    q, k, _ = qkv(LAYOUT, dim=64)
    k = k + 10
    eight = eight_bits.in_eight_bits(q, k)
    exact, found = q @ k.mT, eight.q @ eight.k.mT + eight.offset[..., None]
    as_it_is = eight_bits._rounded(q, q.abs().amax(-1, keepdim=True)) @ (k / k.amax() * 127).round().mT * k.amax() / 127
    assert (found - exact).std() < 0.3 * (as_it_is - exact).std()


def test_what_a_routing_says_of_itself_names_8_bits():
    assert ROUTING.sentence.endswith(", in 8 bits") and "bits" not in ROUTING.changed(precision="auto").sentence
    with pytest.raises(MoCError, match="precision is '4 bits'; choose one of: auto, 16 bits, 8 bits"):
        RoutingConfig.of(precision="4 bits")
