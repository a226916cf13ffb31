"""Lists of rows per chunk from bits: every pair once, in its chunk's list, at a slot of its row that no other has."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (pip install triton): the GPU engine is not tested")

from moc.backends.triton.device_table import device_table_of
from moc.backends.triton.lists import csr_from_bits
from moc.backends.triton.lists.csr import indices_of, listed
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.routing.bits import pack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ("a third", "neighbours alike", "all", "none", "some rows all, some none")


def chosen_by(kind: str, heads: int, rows: int, chunks: int) -> torch.Tensor:
    torch.manual_seed(rows)
    if kind == "neighbours alike":
        return (torch.rand(heads, -(-rows // 40), chunks) < 0.3).repeat_interleave(40, 1)[:, :rows]
    if kind == "some rows all, some none":
        return (torch.rand(heads, rows, 1) < 0.5).expand(-1, -1, chunks)
    return torch.rand(heads, rows, chunks) < {"a third": 0.3, "all": 1.0, "none": 0.0}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_is_listed_once(kind: str) -> None:
    """300 rows and 36 chunks: two programs, a ragged square, a second word."""
    shape = 3, 10, 10
    table = build_chunks(TokenLayout(shape[0] * shape[1] * shape[2], shape), (0,), RoutingConfig.of(tile=(1, 4, 3)))
    plan = device_table_of(table, RoutingConfig.of(top_k=len(table.chunks), own="chunk"), torch.device(DEVICE))
    chosen = chosen_by(kind, 2, plan.length, plan.chunks)
    places = plan.chunks
    bits = csr_from_bits.SelectionMask(pack(chosen.to(DEVICE)).contiguous(), plan.chunks, places)
    lists = listed(bits, plan, rows=7)
    for heads in (slice(0, 1), slice(1, 2)):  # placed for some heads at a time
        some = lists.of(heads)
        count = chosen[heads].sum(2).to(torch.int32)
        assert torch.equal(some.number.cpu(), count)
        first, last = some.border[heads.start].item(), some.border[heads.stop].item()
        assert last - first <= some.most
        found = torch.zeros_like(chosen[heads])
        slots = torch.zeros(*count.shape, places, dtype=torch.int32)
        for chunk, low, end in some.tile[:, first:last].T.tolist():
            head, chunk = divmod(chunk - heads.start * plan.chunks, plan.chunks)
            entry = some.entry[head, low : min(low + 7, end)].cpu()
            assert 0 < len(entry) and not found[head, entry // places, chunk].any()
            found[head, entry // places, chunk] = True
            slots[head].view(-1)[entry] += 1
        assert torch.equal(found, chosen[heads])
        assert torch.equal(slots, (torch.arange(places) < count[..., None]).to(torch.int32))


def test_rows_are_unpacked_in_the_order_of_their_chunks() -> None:
    table = build_chunks(TokenLayout(130, (1, 10, 13)), (0,), RoutingConfig.of(tile=(1, 1, 2)))
    plan = device_table_of(table, RoutingConfig.of(top_k=20), torch.device(DEVICE))
    chosen = torch.zeros(2, plan.length, plan.chunks, dtype=torch.bool)
    chosen.scatter_(2, torch.rand(chosen.shape).topk(20).indices, True)
    choice = indices_of(csr_from_bits.SelectionMask.of_plan(pack(chosen.to(DEVICE)).contiguous(), plan), plan)
    assert torch.equal(choice.indices.cpu() >> 16, chosen.nonzero()[:, 2].view(2, -1, 20).int())
    assert (choice.number == 20).all()
    assert torch.equal(choice.bits(plan).cpu(), pack(chosen))
