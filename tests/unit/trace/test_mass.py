"""The mass of a chunk is the sum of its keys' softmax weights, counted one by one in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.trace import attention_mass
from tests.tools.cases import layouts, qkv, shot_starts

tiles = st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def counted(q, k, table, attended, scale):
    """[R, C] by loops; q [R, D], k [N, D], attended [R, C]."""
    result = np.zeros(attended.shape)
    for i, query in enumerate(q):
        weight = [np.exp(query @ key * scale) for key in k]
        for c, chunk in enumerate(table.chunks):
            result[i, c] = sum(weight[chunk.start : chunk.stop]) * attended[i, c]
        result[i] /= result[i].sum() or 1.0
    return result


@settings(max_examples=40, deadline=None)
@given(data=st.data(), layout=layouts(), tile=tiles, partly=st.booleans())
def test_it_equals_a_count_in_float64(data, layout, tile, partly):
    table = build_chunks(layout, data.draw(shot_starts(layout.grid[0])), RoutingConfig.of(tile=tile))
    q, k, _ = qkv(layout, batch=1, heads=1, dim=4)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, layout.length - 1), min_size=1, max_size=5)))
    attended = torch.rand(len(rows), len(table.chunks)) < (0.5 if partly else 2.0)
    found = attention_mass.chunk_mass(q, k, table, rows=rows, attended=attended if partly else None, scale=0.7)
    expected = counted(q[0, 0, rows].numpy(), k[0, 0].numpy(), table, attended.numpy(), 0.7)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_sample_and_head_has_its_own_and_blocks_change_nothing(dtype, monkeypatch):
    layout = TokenLayout(6 * 20, (6, 4, 5))
    table = build_chunks(layout, (0, 2), RoutingConfig.of(tile=(1, 2, 2)))
    q, k, _ = qkv(layout, dtype=dtype)
    whole = attention_mass.chunk_mass(q, k, table)
    assert whole.dtype == torch.float32 and whole.shape == (2, 2, 120, len(table.chunks))
    torch.testing.assert_close(whole.sum(-1), torch.ones(2, 2, 120))
    torch.testing.assert_close(whole[1:, 1:], attention_mass.chunk_mass(q[1:, 1:], k[1:, 1:], table))
    monkeypatch.setattr(attention_mass, "BLOCK_ELEMENTS", 1)
    torch.testing.assert_close(attention_mass.chunk_mass(q, k, table), whole)
