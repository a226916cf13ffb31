"""How the router for Hopper guesses a level. What its kernels compute is checked on a GPU: tests/gpu/check_gpu.py."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
hopper_sift = pytest.importorskip("moc.backends.triton.select.topk_filter_sm90", reason="this Triton has no Gluon")

from moc.backends.triton.device_table import device_table_of
from moc.backends.triton.select.topk_filter_finish_sm90 import SLOTS, SURVIVORS
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig


def plan(frames: int, top_k: int, text: int = 0):
    routing = RoutingConfig.of(top_k=top_k, tile=(1, 4, 4), own="frame")
    spans = (Span("text", 0, text),) if text else ()
    layout = TokenLayout(text + frames * 24 * 34, (frames, 24, 34), text, spans)
    table = build_chunks(layout, (0, frames // 2), routing)
    return table, device_table_of(table, routing, torch.device("cpu"))


@pytest.mark.parametrize("top_k", [4, 20, 32, 40])
@pytest.mark.parametrize("frames", [8, 16, 60])
def test_nearly_all_rows_write_enough_and_not_too_much(top_k: int, frames: int) -> None:
    """Chunks in no order are the worst that a sample can meet."""
    _, p = plan(frames, top_k)
    sample, groups = hopper_sift.sample_of(p), hopper_sift.CHUNKS
    torch.manual_seed(0)
    scores = torch.randn(4000, p.chunks)
    best_of_groups = scores[:, sample.chunk.long()].unflatten(1, (sample.passes, groups)).amax(1)
    level = best_of_groups.topk(sample.rank, dim=1).values[:, -1:]
    written = (scores > level).sum(1)
    assert (written < top_k).float().mean() < 0.03
    assert (written > 4 * SURVIVORS).float().mean() < 0.01


def test_a_sample_is_of_chunks_that_may_be_chosen_spread_over_the_film() -> None:
    table, p = plan(20, 20, text=13)
    chunk = hopper_sift.sample_of(p).chunk.tolist()
    assert chunk == sorted(chunk) and len(set(chunk)) == len(chunk)
    assert all(table.chunks[c].routable and not table.chunks[c].linked for c in chunk)
    gaps = [b - a for a, b in zip(chunk, chunk[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_the_ranges_of_a_sample_hold_its_chunks_and_shots() -> None:
    table, p = plan(20, 20)
    sample = hopper_sift.sample_of(p)
    for chunks, (low, high, shot) in zip(sample.chunk.view(sample.passes, -1), sample.range.tolist(), strict=True):
        assert low == min(chunks) and high == max(chunks) + 1
        assert shot == max(table.chunks[c].shot for c in chunks)


def test_every_pass_takes_its_own_chunks_once() -> None:
    _, p = plan(20, 20)
    sample, size = hopper_sift.sample_of(p), hopper_sift.CHUNKS
    passes = sample.index[len(sample.chunk) :].view(sample.num_blocks, size)
    for number, taken in enumerate(passes[:-1]):
        assert sorted(taken.tolist()) == list(range(number * size, number * size + size))


def test_threads_write_to_room_that_begins_at_a_multiple_of_its_size() -> None:
    for threads in (1, 7):
        room = hopper_sift.slots(threads, torch.device("cpu"))
        assert room.numel() == threads * SLOTS and room.data_ptr() % (8 * SLOTS) == 0
