"""Mixed precision, as models that train under autocast have it: normalised queries and keys float32, values half."""

import pytest
import torch

from moc.attention import moc_attention
from moc.autocast import without_autocast
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from tests.tools.cases import qkv

LAYOUT = TokenLayout(96, (6, 4, 4))
ROUTING = RoutingConfig.of(top_k=1, tile=(1, 2, 2), own="frame", shots_kept=1, tail="pooled")


@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
def test_tensors_of_two_precisions_are_taken_as_torchs_attention_takes_them(backend):
    q, k, v = (x.requires_grad_() for x in qkv(LAYOUT, dtype=torch.float32))
    table = build_chunks(LAYOUT, (0, 2, 4), ROUTING)
    with torch.autocast("cpu", torch.bfloat16):
        out = moc_attention(q, k, v.bfloat16(), table, ROUTING, backend=backend)
        same = moc_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), table, ROUTING, backend=backend)
    assert out.dtype == torch.bfloat16 and torch.equal(out, same)
    out.float().square().sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in (q, k, v))


def test_two_precisions_without_autocast_are_a_mistake():
    q, k, v = qkv(LAYOUT, dtype=torch.float32)
    with pytest.raises(MoCError, match="give all three one precision"):
        moc_attention(q, k, v.half(), build_chunks(LAYOUT, (0,), ROUTING), ROUTING)


def test_a_device_that_knows_no_autocast_needs_none():
    with without_autocast(torch.device("privateuseone")):  # DirectML
        pass


@pytest.mark.slow
def test_kernels_keep_the_outer_loops_digits_under_autocast():
    """Else a forward pass without gradients, and the one that autograd repeats, would read other shots."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from moc.backends.registry import Call
    from moc.backends.triton import supports

    table = build_chunks(LAYOUT, (0, 1, 2, 3, 4, 5), ROUTING)
    q, k, v = qkv(LAYOUT, dtype=torch.float32)
    if supports(Call(q, table, ROUTING)) is not None:
        pytest.skip("needs a GPU or Triton's interpreter")
    k += 10 * torch.randn(k.shape[-1])  # what all keys share leaves few digits for what tells shots apart
    plain = moc_attention(q, k, v, table, ROUTING, backend="triton")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(moc_attention(q, k, v, table, ROUTING, backend="triton"), plain)
