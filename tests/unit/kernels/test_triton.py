"""The GPU engine's kernels on the CPU, through Triton's interpreter: small shapes against the reference."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (pip install triton): the GPU engine is not tested")

from moc.backends import health, reference
from moc.backends import library as attention_library
from moc.backends.registry import Call
from moc.backends.triton import BACKEND, chunk_major, dataflow, forward
from moc.backends.triton.arch import arch_of
from moc.backends.triton.attend import own, own_calls
from moc.backends.triton.dataflow import CHUNK_MAJOR, FEWEST_ROWS, QUERY_MAJOR, Wants, choose_dataflow
from moc.backends.triton.device_table import device_table_of
from moc.backends.triton.lib import head_ranges
from moc.backends.triton.lib.pair_counts import count_frames
from moc.backends.triton.lib.permute import Move
from moc.backends.triton.select import first_plan, topk_stream
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from moc.routing.bits import unpack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = [torch.float16] + [torch.bfloat16] * torch.cuda.is_available()  # the interpreter computes no bfloat16
PLAIN = TokenLayout(96, (4, 4, 6))
WITH_TEXT = TokenLayout(103, (4, 4, 6), 7, (Span("text", 0, 7),))
AROUND = TokenLayout(123, (4, 4, 6), 15, (Span("text", 0, 5), Span("reference", 5, 15), Span("other", 111, 123)))
R = RoutingConfig.of

# name: layout, starts, routing, batch (each with the reason why it is here)
CASES = {
    "paper: own shot, text, causal": (WITH_TEXT, (0, 2, 3), R(top_k=1, causal=True), 1),
    "k above the number of chunks, batch": (PLAIN, (0,), R(top_k=9, own="chunk"), 2),
    "tiles, min-max, tail": (
        WITH_TEXT, (0, 2), R(top_k=3, tile=(1, 2, 2), own="frame", descriptor="minmax", tail="pooled"), 1,
    ),
    "tiles, mean+max+min": (PLAIN, (0, 2), R(top_k=3, tile=(1, 2, 2), own="frame", descriptor="mean+max+min"), 1),
    "own chunk smaller than a tile of rows": (PLAIN, (0, 1), R(top_k=2, tile=(1, 2, 3), own="chunk", tail="pooled"), 1),
    "ragged chunks, window": (PLAIN, (0,), R(top_k=2, tile=(1, 3, 4), own="frame", window=1), 1),
    "static memory, outer loop": (
        PLAIN, (0, 1, 2, 3), R(top_k=2, static="first tokens", static_tokens=5, shots_kept=1), 1,
    ),
    "references routed, other tokens after": (AROUND, (0, 2), R(top_k=1, tile=(2, 4, 6), own="frame"), 1),
    "nothing routed": (WITH_TEXT, (0, 2), R(top_k=0, tail="pooled"), 1),
}  # fmt: skip


class Choice:
    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []

    def add(self, rows: slice, chosen: torch.Tensor) -> None:
        self.parts.append(chosen)


def both(layout, starts, routing, batch=1, dim=16, which=None, quantised=False, selection=None, **flow):
    """which, selection: other than the usual ones; flow: other parts of the dataflow."""
    table = build_chunks(layout, starts, routing)
    torch.manual_seed(len(table.chunks))
    q, k, v = torch.randn(batch, layout.length, 3, 2, dim, device=DEVICE).unbind(2)
    if quantised:  # equal scores everywhere
        q, k = q.round(), k.sign()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    theirs, ours = Choice(), Choice()
    want = reference.attend(q, k, v, table, routing, scale=dim**-0.5, training=False, record=theirs)
    wants = Wants(rows=True, kind=which, selection=selection)
    usual = choose_dataflow(first_plan(table, routing, q).geometry, routing, arch_of(q, k, v), wants)
    got = forward.run(q, k, v, table, routing, dim**-0.5, ours, dataflow=replace(usual, **flow))
    assert torch.equal(torch.cat(ours.parts, 2), torch.cat(theirs.parts, 2))
    torch.testing.assert_close(got, want, atol=2e-5 if DEVICE == "cpu" else 5e-3, rtol=0)


@pytest.mark.parametrize("which", [CHUNK_MAJOR, QUERY_MAJOR])
@pytest.mark.parametrize("name", CASES)
def test_reference(name: str, which: str) -> None:
    layout, starts, routing, batch = CASES[name]
    both(layout, starts, routing, batch, which=which)


RULES = {
    "top-p": R(rule="top-p", top_p=0.7, tile=(1, 2, 2), own="frame", descriptor="minmax", tail="pooled"),
    "threshold": R(rule="threshold", beta=0.4, own="shot", causal=True),
    "top-k or top-p": R(rule="top-k or top-p", top_k=2, top_p=0.3, own="chunk", shots_kept=1),
    "density per head": R(head_density=(0.3, 0.9), tile=(1, 2, 3), own="frame"),
    "union of top-p": R(rule="top-p", top_p=0.2, top_k=0, tile=(1, 2, 2), own="frame", lists="union"),
    "nearly all": R(rule="top-p", top_p=0.999, tile=(1, 1, 1), own="frame", tail="pooled"),
}


@pytest.mark.parametrize(("name", "which"), [*((name, CHUNK_MAJOR) for name in RULES), ("top-p", QUERY_MAJOR)])
def test_other_rules(name: str, which: str) -> None:
    both(WITH_TEXT, (0, 2, 3), RULES[name], 1 + (name == "density per head"), which=which)


@pytest.mark.parametrize("rule", ["top-p", "threshold", "top-k or top-p"])
def test_other_rules_among_equal_scores(rule: str) -> None:
    """Of chunks of one score the lower ones win, also across the steps of 32 chunks that the kernel takes."""
    both(PLAIN, (0,), R(rule=rule, top_p=0.61, beta=0.9, top_k=5, tile=(1, 1, 1), own="frame"), quantised=True)


def test_a_share_of_one_is_everything() -> None:
    both(PLAIN, (0, 2), R(rule="top-p", top_p=1.0, tile=(1, 2, 2), own="frame", causal=True))


def test_so_many_choices_that_a_partial_for_each_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "WORKSPACE", 1)
    called = []
    monkeypatch.setattr(chunk_major, "attend", lambda *a, **kw: called.append(1))
    both(WITH_TEXT, (0, 2), RULES["nearly all"], which=CHUNK_MAJOR)
    assert not called


def test_a_density_for_a_head_that_is_not_there_is_the_users_mistake() -> None:
    table = build_chunks(PLAIN, (0,), R())
    q = torch.zeros(1, 2, PLAIN.length, 16, device=DEVICE)
    with pytest.raises(MoCError, match="give one each"):
        BACKEND.attend(q, q, q, table, R(head_density=(0.1, 0.2, 0.3)), scale=1.0, training=False, record=None)


@pytest.mark.parametrize("dtype", HALF + [torch.float32])
@pytest.mark.parametrize("chunk_tokens", [4, 24])
@pytest.mark.parametrize("kind", ["alike", "alike, high", "nearly all chosen", "all chosen"])
def test_summaries_of_chosen_chunks_are_taken_off_without_a_trace(kind: str, chunk_tokens: int, dtype) -> None:
    """The worst there is: a chunk whose keys are one key weighs what its summary weighs, and of a tail whose
    chunks are nearly all chosen next to nothing may be left."""
    top_k = {"nearly all chosen": 96 // chunk_tokens - 1, "all chosen": 99}.get(kind, 2)
    routing = R(top_k=top_k, chunk_tokens=chunk_tokens, own="chunk", tail="pooled")
    table = build_chunks(PLAIN, (0,), routing)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, PLAIN.length, 16, device=DEVICE).to(dtype).unbind(0)
    if kind.startswith("alike"):
        for c in table.chunks:
            k[..., c.start : c.stop, :] = k[..., c.start : c.start + 1, :]
            v[..., c.start : c.stop, :] = v[..., c.start : c.start + 1, :]
    if kind.endswith("high"):
        k *= 20
    ours, theirs = Choice(), Choice()
    got = forward.run(q, k, v, table, routing, 0.25, ours, wants=Wants(kind=CHUNK_MAJOR)).float()
    q, k, v = q.float(), k.float(), v.float()
    want = reference.attend(q, k, v, table, routing, scale=0.25, training=False, record=theirs)
    assert torch.equal(torch.cat(ours.parts, 2), torch.cat(theirs.parts, 2))
    exact = 2e-5 if DEVICE == "cpu" else 5e-3
    assert (got - want).abs().max() <= (exact if dtype == torch.float32 else 2**-7 * want.abs().max())


def test_rows_go_back_beside_queries_that_lie_any_way_in_memory() -> None:
    table = build_chunks(PLAIN, (0, 2), R(tile=(1, 2, 2)))
    t, x = table.tensors(torch.device(DEVICE)), torch.randn(2, 2, PLAIN.length, 16, device=DEVICE)
    across = torch.empty(2, 2, 16, PLAIN.length, device=DEVICE).mT
    for like in (x, across, x.transpose(1, 2).contiguous().transpose(1, 2)):
        assert torch.equal(Move.apply(x, t.inverse, t.order, like), x.index_select(-2, t.inverse))


def test_counters_of_a_very_long_film_count_as_workspace() -> None:
    short, long = (TokenLayout(f * 48, (f, 6, 8)) for f in (8, 400))
    plans = [
        device_table_of(build_chunks(x, (0,), R(tile=(1, 2, 2))), R(top_k=2), torch.device("cpu"))
        for x in (short, long)
    ]
    size = [chunk_major.bytes_of_choice(p, slots=True) for p in plans]
    assert size[0] < 8 * plans[0].chunks * 100 and size[1] >= 8 * plans[1].chunks * 400 > 4 * 2 * plans[1].length


def test_a_table_goes_with_all_that_was_made_of_it() -> None:
    """Every run brings tables of its own: kept for ever they would fill the GPU."""
    table = build_chunks(PLAIN, (0, 2), R(top_k=1, own="frame"))
    both_plans = (
        device_table_of(table, R(top_k=1), torch.device(DEVICE)),
        device_table_of(table, R(top_k=2), torch.device(DEVICE)),
    )
    assert device_table_of(table, R(top_k=1, causal=True), torch.device(DEVICE)) is both_plans[0] is not both_plans[1]
    gone = weakref.ref(table), weakref.ref(both_plans[0])
    del table, both_plans
    gc.collect()
    assert gone[0]() is None is gone[1]()


UNIONS = {
    "small groups joined in a shot, outer loop, causal": (
        TokenLayout(60, (3, 4, 5)), (0, 1, 2),
        R(top_k=2, tile=(1, 2, 2), own="chunk", lists="union", shots_kept=1, causal=True, tail="pooled"),
    ),
    "large groups": (
        TokenLayout(135, (2, 8, 8), 7, (Span("text", 0, 7),)), (0,),
        R(top_k=1, tile=(1, 4, 4), own="frame", lists="union", descriptor="minmax", tail="pooled"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNIONS)
def test_union_lists(name: str) -> None:
    both(*UNIONS[name], batch=2)  # a list is of one sample


@pytest.mark.parametrize("tile", [(1, 2, 3), (3, 2, 3)])
def test_counts_per_frame_equal_those_of_the_masks(tile: tuple[int, int, int]) -> None:
    """A trace gets the same from sums made on the way as from the mask of every row; frames may share a chunk."""
    from moc.trace.pair_counts import Counts

    table = build_chunks(WITH_TEXT, (0, 2), R(tile=tile))
    q, k, v = torch.randn(3, 2, 2, WITH_TEXT.length, 16, device=DEVICE).unbind(0)
    masks, counts = Choice(), Counts(table, 2, q.device, 2)
    for record in (masks, counts):
        forward.run(q, k, v, table, R(top_k=1, tile=tile), 0.25, record)
    want = Counts(table, 2, q.device, 2)
    want.add(slice(0, WITH_TEXT.length), torch.cat(masks.parts, 2))
    assert want._pairs.sum() > 0
    assert torch.equal(counts._pairs, want._pairs)


@pytest.mark.parametrize("tile", [(1, 1, 1), (3, 1, 1)])
def test_pairs_of_any_bits(monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int, int]) -> None:
    """Many words, frames in several parts, sums beyond what pairs of bits hold; rows in a row and not; columns of
    several chunks and of one."""
    monkeypatch.setattr("moc.backends.triton.device_table.FRAME_PART", 67)
    monkeypatch.setattr("moc.backends.triton.lib.pair_counts.ROWS", 16)
    layout = TokenLayout(307, (3, 10, 10), 7, (Span("text", 0, 7),))
    plan = device_table_of(build_chunks(layout, (0, 1), R(tile=tile)), R(), torch.device(DEVICE))
    assert plan.frame_parts().in_a_row == (tile[0] == 1)
    sel = torch.randint(-(2**31), 2**31, (4, plan.words, 307), dtype=torch.int32, device=DEVICE)
    chosen = unpack(sel, plan.chunks, slice(None)).float() * plan.chunk[1]
    frame = plan.table.tensors(DEVICE).row_frame
    want = torch.stack([chosen[:, frame == f].sum(1) for f in range(3)], 1)
    want = want[:2] + want[2:]  # two heads, batch of two
    column = torch.arange(plan.chunks, device=DEVICE, dtype=torch.int32) // 25
    joined = want.new_zeros(2, 3, int(column[-1]) + 1).index_add(-1, column, want)
    for right, columns in ((want, None), (joined, column)):
        pairs = torch.zeros_like(right)
        for heads in (range(0, 3), range(3, 4)):
            count_frames(sel[heads.start : heads.stop], plan, heads, pairs, columns)
        assert torch.equal(pairs, right)


@pytest.mark.parametrize("top_k", [3, 20])
def test_streaming_router_deals_again_and_repairs(top_k: int) -> None:
    """More chunks than the kept places of the groups: some tile overflows, and the result is still exact."""
    both(PLAIN, (0, 2), R(top_k=top_k, tile=(1, 1, 1), own="frame", causal=True), selection="topk_stream")


@pytest.mark.parametrize("which", [CHUNK_MAJOR, QUERY_MAJOR])
@pytest.mark.parametrize("rounds", [0, 1])
def test_rows_with_equal_scores_below_zero_are_dealt_again_or_counted(
    monkeypatch: pytest.MonkeyPatch, rounds, which
) -> None:
    """Ten rows of a head fall through the first deal here; dealt again, none does. Chunk by chunk the router writes
    chunks, tile by tile bits."""
    monkeypatch.setattr(topk_stream, "RETRIES", rounds)
    routing = R(top_k=8, tile=(1, 1, 1), own="frame", causal=True, tail="pooled")
    both(PLAIN, (0, 2), routing, which=which, quantised=True, selection="topk_stream")


def test_router_that_writes_chunks_and_one_that_writes_bits_choose_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_ranges, "WORKSPACE", 1)
    routing = R(top_k=3, tile=(1, 2, 2), own="frame", tail="pooled")
    for direct in (True, False):
        both(WITH_TEXT, (0, 2), routing, 2, which=CHUNK_MAJOR, selection="topk_stream", direct=direct)


@pytest.mark.parametrize(("selection", "top_k"), [("topk_stream", 4), ("topk_stream", 20), ("topk_registers", 4)])
def test_equal_scores_go_to_the_lower_chunk(selection: str, top_k: int) -> None:
    """Above and below the score that the streaming router takes as zero."""
    both(PLAIN, (0, 2), R(top_k=top_k, tile=(1, 1, 2), own="chunk"), quantised=True, selection=selection)


@pytest.mark.parametrize("tail", ["subtract", "mask"])
def test_a_tail_chosen_chunks_are_taken_off_and_one_that_masks_them_are_one(tail: str) -> None:
    routing = R(top_k=3, tile=(1, 2, 2), own="frame", tail="pooled")
    both(WITH_TEXT, (0, 2), routing, which=CHUNK_MAJOR, selection="topk_registers", tail=tail)


def plain_attention(q, k, v, scale):
    scores = q @ k.mT * scale
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


LIBRARY = {
    "own shots, text": (WITH_TEXT, (0, 2, 3), R(top_k=1, causal=True), 2),
    "own frames in one call, text": (WITH_TEXT, (0,), R(top_k=1, own="frame", tail="pooled"), 2),
    "static memory inside an own shot": (WITH_TEXT, (0, 2), R(top_k=1, static="first frame"), 1),
    "static memory inside one own frame of several": (PLAIN, (0,), R(top_k=1, own="frame", static="first tokens"), 1),
    "references linked": (AROUND, (0, 2), R(top_k=1, own="frame", references="linked"), 1),
    "nothing linked": (PLAIN, (0, 2), R(top_k=1, own="frame", window=1), 1),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_own_part_from_an_attention_library(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On a GPU cuDNN makes it; here plain torch does, from the same queries, keys and values."""
    monkeypatch.setattr(own, "pays", lambda *_: True)
    monkeypatch.setattr(attention_library, "_attention", plain_attention)
    layout, starts, routing, batch = LIBRARY[name]
    both(layout, starts, routing, batch, which=CHUNK_MAJOR, library=True)


UNEVEN = TokenLayout(7 * 16 + 5, (7, 4, 4), 5, (Span("text", 0, 5),))


@pytest.mark.parametrize("static", ["none", "first tokens"])
@pytest.mark.parametrize("few", [1, 9])
def test_equal_shots_that_stand_apart_are_one_call_of_the_library(monkeypatch, few: int, static: str) -> None:
    """Shots of 1, 2, 1, 2 and 1 frames: three calls where so few are made as they stand, and two together."""
    asked = []
    monkeypatch.setattr(own_calls, "FEW", few)
    monkeypatch.setattr(own, "pays", lambda *_: True)
    monkeypatch.setattr(attention_library, "_attention", lambda *a: asked.append(a[0].shape[:3]) or plain_attention(*a))
    routing = R(top_k=2, tile=(1, 2, 4), own="shot", static=static, static_tokens=3, tail="pooled")
    both(UNEVEN, (0, 1, 3, 4, 6), routing, 2, which=CHUNK_MAJOR, library=True)
    shapes = [(1, 2, 16), (1, 2, 32), (1, 2, 16), (1, 2, 32), (1, 2, 16)] if few > 1 else [(3, 2, 16), (2, 2, 32)]
    assert sorted(map(tuple, asked)) == sorted(shapes * 2)  # a sample each


def test_eighty_uneven_shots_are_a_few_calls_of_the_library() -> None:
    """180,000 tokens, text and 24 heads: once a call for every shot and run of heads, so some four hundred."""
    cuts = sorted(random.Random(0).sample(range(1, 115), 79))
    layout = TokenLayout(115 * 1560 + 512, (115, 30, 52), 512, (Span("text", 0, 512),))
    routing = R(top_k=5, chunk_tokens=1280, causal=True)
    plan = device_table_of(build_chunks(layout, (0, *cuts), routing), routing, torch.device("cpu"))
    heads = own_calls.heads_at_once(24, layout.length, 128)
    assert heads == 4 and len(plan.runs()) > 30
    assert 0 < own_calls.calls(plan, heads, 128) <= 8
    assert sum(some.groups for some in own_calls.alike(plan)) == 80


def test_what_is_linked_is_not_copied_for_many_shots_at_once() -> None:
    """Forty shots that all see the first frame of each: keys for all of them would be twenty times the sequence."""
    starts = tuple(3 * i // 2 for i in range(40))
    routing = R(top_k=1, own="shot", static="first frame")
    plan = device_table_of(
        build_chunks(TokenLayout(60 * 16, (60, 4, 4)), starts, routing), routing, torch.device("cpu")
    )
    assert all(len(some.seen) <= max(2 * plan.length, some.keys) for some in own_calls.alike(plan))
    assert sum(len(some.seen) for some in own_calls.alike(plan)) > 10 * plan.length
    rows = torch.cat([some.rows for some in own_calls.alike(plan)])
    assert torch.equal(rows.sort().values, torch.arange(plan.length, dtype=torch.int32))


def test_shots_that_all_differ_are_left_to_our_own_kernel() -> None:
    """Forty-five shots of 16 to 60 small frames: 45 calls would take longer than they spare. Few are the library's."""
    for shots, expected in ((45, 0), (6, 6)):
        lengths = [16 + 7 * i % 45 for i in range(shots)]
        frames, starts = sum(lengths), tuple(itertools.accumulate(lengths, initial=0))[:-1]
        routing = R(top_k=5, own="shot")
        table = build_chunks(TokenLayout(frames * 64, (frames, 8, 8)), starts, routing)
        plan = device_table_of(table, routing, torch.device("cpu"))
        assert plan.group_rows >= FEWEST_ROWS and len({g.stop - g.start for g in table.groups}) == shots
        heads = own_calls.heads_at_once(24, table.length, 128)
        found = own_calls.calls(plan, heads, 128)
        assert found == (expected and len(plan.runs()))


def test_a_library_that_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(dataflow, "usual_kind", lambda *_: CHUNK_MAJOR)
    monkeypatch.setattr(dataflow, "library_fits", lambda g: True)
    monkeypatch.setattr(dataflow, "_chosen", dataflow._chosen.__wrapped__)
    monkeypatch.setattr(health, "_reasons", {})
    monkeypatch.setattr(attention_library, "usable", lambda q: not health.reason(q.device, health.LIBRARY))
    monkeypatch.setattr(own, "pays", lambda *_: True)
    monkeypatch.setattr(attention_library, "_attention", broken)
    routing = R(top_k=1, own="frame", tail="pooled")
    table = build_chunks(PLAIN, (0, 2), routing)
    q, k, v = torch.randn(3, 1, 2, PLAIN.length, 16, device=DEVICE)
    want = reference.attend(q, k, v, table, routing, scale=0.25, training=False, record=None)
    for _ in range(2):
        got = BACKEND.attend(q, k, v, table, routing, scale=0.25, training=False, record=None)
        torch.testing.assert_close(got, want, atol=2e-5 if DEVICE == "cpu" else 5e-3, rtol=0)
    assert calls == [1] and "no kernel image" in caplog.text


def test_odd_head_dim() -> None:
    both(WITH_TEXT, (0, 2), R(top_k=1, own="frame", tail="pooled"), dim=20)


@pytest.mark.parametrize("row_partials", [1, 2**14, 2**30])
@pytest.mark.parametrize("library", [False, True])
def test_few_heads_at_a_time(monkeypatch: pytest.MonkeyPatch, library: bool, row_partials: int) -> None:
    """Partials of slots one head at a time; those of rows for one, for some, or for all of both samples."""
    monkeypatch.setattr(head_ranges, "WORKSPACE", 1)
    monkeypatch.setattr(chunk_major, "ROW_PARTIALS", row_partials)
    monkeypatch.setattr(own, "pays", lambda *_: True)
    monkeypatch.setattr(attention_library, "_attention", plain_attention)
    both(WITH_TEXT, (0, 2), R(top_k=1, own="frame", tail="pooled"), batch=2, which=CHUNK_MAJOR, library=library)


def test_compiled_as_one_operator() -> None:
    routing = R(top_k=1, own="frame")
    table = build_chunks(PLAIN, (0,), routing)
    q, k, v = torch.randn(3, 1, 2, PLAIN.length, 16, device=DEVICE)

    def call(q, k, v):
        return BACKEND.attend(q, k, v, table, routing, scale=0.25, training=False, record=None) * 2

    got = torch.compile(call, backend="aot_eager", fullgraph=True)(q, k, v)
    torch.testing.assert_close(got, call(q, k, v), atol=0, rtol=0)


def test_says_what_it_cannot_do() -> None:
    table = build_chunks(PLAIN, (0,), R())
    q = torch.randn(1, 2, PLAIN.length, 16, device=DEVICE)
    assert BACKEND.refuses(Call(q, table, R())) is None
    assert "float64" in BACKEND.refuses(Call(q.double(), table, R()))
    assert "256" in BACKEND.refuses(Call(torch.empty(1, 2, PLAIN.length, 256, device=DEVICE), table, R()))
    assert "drop-off" in BACKEND.refuses(Call(q, table, R(drop_off=0.5, lists="union"), training=True))
