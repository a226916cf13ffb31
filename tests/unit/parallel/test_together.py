"""Four processes with gloo trace what one traces, and go on or stop together."""

import os
import re
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from moc.attention import moc_attention
from moc.backends import head_split
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from moc.parallel import Routed, Together, heads_of_rank, routing_of_heads, ulysses_attention
from moc.trace import trace as trace_module
from moc.trace.heatmap import heatmap
from moc.trace.pair_counts import Counts
from moc.trace.ranks import Part, part_of, put_together
from moc.trace.reasons import Reason
from moc.trace.trace import Trace

LAYOUT = TokenLayout(5 + 6 * 12 + 3, (6, 3, 4), 8, (Span("text", 0, 5), Span("reference", 5, 8)))
STARTS = (0, 2, 5)
TAILED = RoutingConfig.of(top_k=2, tile=(1, 2, 2), own="frame", tail="pooled")
ROUTINGS = {
    "tiles with a tail": TAILED,
    "causal shots": RoutingConfig.of(top_k=1, own="shot", causal=True),
    "top-p": TAILED.changed(rule="top-p", top_p=0.4),
    "a density for every head": TAILED.changed(head_density=(0.1, 0.9, 0.3, 0.5, 0.2, 1.0, 0.4, 0.6)),
}
HEADS, DIM, BATCH, RANKS, CALLS = 8, 8, 2, 4, 3
CPU = torch.device("cpu")


def qkv(call):
    generator = torch.Generator().manual_seed(call)
    return [torch.randn(BATCH, LAYOUT.length, HEADS, DIM, generator=generator) for _ in range(3)]


def traced(routing, group=None, ranks=1, rank=0, **options):
    """A trace of three calls by this rank's heads, in groups of heads as they are exchanged."""
    trace, table = Trace(**options), build_chunks(LAYOUT, STARTS, routing)
    trace.start(CALLS)
    n = -(-LAYOUT.length // ranks)
    for call in range(CALLS):
        counted = []

        def attend(q, k, v, heads, counted=counted):
            counted.append(trace.counts(table, routing, q, k))
            return moc_attention(q, k, v, table, routing_of_heads(routing, HEADS, heads), record=counted[-1])

        whole = [torch.nn.functional.pad(x, (0, 0, 0, 0, 0, ranks * n - LAYOUT.length)) for x in qkv(call)]
        if group is None:
            for heads in (slice(0, 3), slice(3, HEADS)):
                attend(*(x.transpose(1, 2)[:, heads] for x in whole), heads)
        else:
            own = [x[:, rank * n : (rank + 1) * n] for x in whole]
            ulysses_attention(*own, attend, length=LAYOUT.length, group=group, groups=2)
        trace.ran_routed(call, call, Counts.together(counted))
        trace.ran_dense(Reason.BLOCK)
    trace.note("the same on every GPU")
    trace.note(f"GPU {rank}")
    trace.flush()
    return trace


def broken(q, k, v, heads):
    raise torch.OutOfMemoryError("CUDA out of memory")


def stop_together(group, rank):
    """What every rank raises, where the third fails in the first of two calls of a pass."""
    together, own = Together(group, CPU), [x[:, rank * 20 : (rank + 1) * 20] for x in qkv(0)]
    routed = Routed(LAYOUT, STARTS, TAILED, HEADS)
    attend = together.guarded(broken if rank == 2 else routed)
    for _ in range(2):
        ulysses_attention(*own, attend, group=group)
    with pytest.raises(MoCError) as told:
        together.agree()
    ulysses_attention(*own, together.guarded(routed), group=group)
    together.agree()  # and the next pass is as if nothing had been
    return str(told.value)


def short_of_memory(group, rank):
    """How many heads at once every rank works on, where two of four could not hold all of theirs."""
    together, kind = Together(group, CPU), ("shape", "precision", "routing")
    head_split.start()
    if rank in (1, 3):
        head_split.fit(CPU, {kind: rank + 1})
    together.agree()
    found = head_split.fitted(CPU)
    together.agree()
    assert head_split.fitted(CPU) == found
    head_split.start()
    return found == {kind: 2}, together.all(True), together.all(rank != 3)


def left_alone(group, rank):
    """What the others raise when one process dies in the middle of an exchange."""
    own = [x[:, rank * 20 : (rank + 1) * 20] for x in qkv(0)]

    def attend(q, k, v, heads):
        if rank == 3:
            os._exit(1)
        return q

    with pytest.raises(MoCError) as told:
        for _ in range(10):
            ulysses_attention(*own, attend, group=group)
    return str(told.value)


def run_rank(rank, file, results):
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=RANKS)
        for ranks in (2, RANKS):
            group = dist.new_group(range(ranks))
            for name, routing in ROUTINGS.items() if rank < ranks else ():
                for keep in trace_module.KEEP[:2]:
                    trace = traced(routing, group, ranks, rank, keep=keep)
                    results.put(((ranks, name, keep), rank, part_of(trace, 0, rank, ranks)))
        results.put(("stop", rank, stop_together(None, rank)))
        results.put(("short", rank, short_of_memory(None, rank)))
        results.close()
        results.join_thread()
        dist.barrier()
    except Exception:
        results.put((None, rank, traceback.format_exc()))
        raise
    Path(f"{file}.{rank}").write_text(left_alone(None, rank))  # a queue may break with the process that dies


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(what, rank) -> what a rank found."""
    context = mp.get_context("spawn")
    file = tmp_path_factory.mktemp("ranks") / "meet"
    results = context.Queue()
    started = [context.Process(target=run_rank, args=(rank, file, results)) for rank in range(RANKS)]
    for process in started:
        process.start()
    found = {}
    for _ in range((2 + RANKS) * len(ROUTINGS) * 2 + 2 * RANKS):
        what, rank, value = results.get(timeout=300)
        assert what is not None, value
        found[what, rank] = value
    for rank, process in enumerate(started):
        process.join(100)
        if rank != 3:
            found["dead", rank] = (file.parent / f"meet.{rank}").read_text()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("keep", trace_module.KEEP[:2])
@pytest.mark.parametrize("name", ROUTINGS)
@pytest.mark.parametrize("ranks", [2, RANKS])
def test_traces_of_some_heads_add_up_to_that_of_one_process(together, ranks, name, keep):
    alone, whole = traced(ROUTINGS[name], keep=keep), Trace()
    put_together([together[(ranks, name, keep), rank] for rank in reversed(range(ranks))], whole)
    assert (whole.routed, whole.dense, whole.steps, whole.blocks) == (CALLS, {Reason.BLOCK: CALLS}, CALLS, CALLS)
    assert whole.notes == ["the same on every GPU", *(f"GPU {rank}" for rank in range(ranks))]
    for ours, theirs in zip(whole.records, alone.records, strict=True):
        assert (ours.step, ours.block) == (theirs.step, theirs.block)
        assert torch.equal(ours.chosen, theirs.chosen)  # pairs are counted, so that nothing is rounded but the share
        assert ours.density == pytest.approx(theirs.density, rel=1e-5)
        if keep != "routing":
            torch.testing.assert_close(ours.mass, theirs.mass, atol=1e-3, rtol=1e-2)
    for view in ("frames", "shots", "chunks"):
        ours, theirs = heatmap(whole, view), heatmap(alone, view)
        assert ours.rows == theirs.rows and (ours.open == theirs.open).all()
        torch.testing.assert_close(
            torch.tensor(ours.chosen_of_open), torch.tensor(theirs.chosen_of_open), equal_nan=True
        )


@pytest.mark.slow
def test_an_error_on_one_gpu_ends_the_pass_on_all_with_its_sentence(together):
    told = {together["stop", rank] for rank in range(RANKS)}
    assert told == {"routed attention failed, so all GPUs stopped. GPU 3 of 4: OutOfMemoryError: CUDA out of memory"}


@pytest.mark.slow
def test_all_gpus_work_on_as_few_heads_as_the_one_with_the_least_memory(together):
    assert {together["short", rank] for rank in range(RANKS)} == {(True, True, False)}


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_one_sentence(together):
    for rank in range(RANKS - 1):
        assert re.match("another GPU of this film stopped or lost its connection: .", together["dead", rank])


def part(rank, records, ranks=2, group=0):
    return Part(group, rank, ranks, records, {Reason.SHORT: 1}, 2, [], 1, 3, 0, {1})


def test_a_gpu_that_told_nothing_leaves_the_calls_and_a_note():
    trace = Trace()
    put_together([part(1, traced(TAILED).records)], trace)
    assert (trace.routed, trace.dense, trace.records) == (2, {Reason.SHORT: 1}, [])
    assert trace.notes == ["the heatmap is missing: 1 of 2 GPUs told what they had routed"]


def test_gpus_that_work_on_other_prompts_add_their_calls():
    records, trace = traced(TAILED).records, Trace()
    put_together([part(0, records, 1, group) for group in (2, 0)], trace)
    assert (trace.routed, trace.dense[Reason.SHORT], len(trace.records)) == (4, 2, 2 * CALLS)
    assert [record.step for record in trace.records] == sorted(2 * list(range(CALLS)))


def test_means_of_heads_stay_means_of_heads(monkeypatch):
    whole = traced(TAILED)
    half = whole.records[0].chosen[0].numel() * HEADS * 2
    monkeypatch.setattr(trace_module, "MOST_BYTES", half)
    parts = []
    for rank in range(2):
        own, trace = heads_of_rank(HEADS, rank, 2), Trace(share=2)
        for record in whole.records:
            table = build_chunks(LAYOUT, STARTS, TAILED)
            counts = trace.counts(table, TAILED, torch.empty(BATCH, 4, LAYOUT.length, DIM), None)
            q, k, v = (x.transpose(1, 2)[:, own] for x in qkv(record.step))
            moc_attention(q, k, v, table, TAILED, record=counts)
            trace.ran_routed(record.step, record.block, counts)
        trace.flush()
        parts.append(part_of(trace, 0, rank, 2))
    merged = Trace()
    put_together(parts, merged)
    assert [len(record.chosen) for record in merged.records] == [HEADS, 1, 1]
    mean = whole.records[1].chosen.float().mean(0)
    torch.testing.assert_close(merged.records[1].chosen[0].float(), mean, atol=1e-3, rtol=1e-2)
