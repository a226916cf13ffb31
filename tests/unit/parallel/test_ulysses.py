"""Four processes with gloo attend what one attends, bit for bit; so do two of them, and one.

Some heads at a time, in one process as in many: on a CPU torch rounds products of all heads otherwise than of a part of
them, by a bit.
"""

import pickle
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from moc.attention import moc_attention
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.config import PRESETS, RoutingConfig
from moc.errors import MoCError
from moc.parallel import AttnProcessor, Routed, heads_of_rank, ulysses_attention

LAYOUT = TokenLayout(5 + 6 * 12 + 3, (6, 3, 4), 8, (Span("text", 0, 5), Span("reference", 5, 8)))
STARTS = (0, 2, 5)
TAILED = RoutingConfig.of(top_k=3, tile=(1, 2, 2), own="frame", descriptor="minmax", tail="pooled")
ROUTINGS = {
    **{name: settings.routing for name, settings in PRESETS.items()},
    "tiles with a tail": TAILED,
    "causal shots": RoutingConfig.of(top_k=1, own="shot", causal=True),
    "top-p": TAILED.changed(rule="top-p", top_p=0.4),
    "union": TAILED.changed(lists="union", tail="none"),
    "a density for every head": TAILED.changed(head_density=(0.1, 0.9, 0.3, 0.5, 0.2, 1.0, 0.4, 0.6)),
    "the outer loop": TAILED.changed(shots_kept=1),
}
HEADS, DIM, BATCH = 8, 8, 2
RANKS = (4, 2, 1)
JOBS = {name: (Routed(LAYOUT, STARTS, routing, HEADS), 2) for name, routing in ROUTINGS.items()}
JOBS["one group of heads"] = (Routed(LAYOUT, STARTS, TAILED, HEADS), 1)
JOBS["a group for every head"] = (Routed(LAYOUT, STARTS, TAILED, HEADS), 99)


def qkv(length):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(BATCH, length, HEADS, DIM, generator=generator) for _ in range(3)]


def as_yunchang(rank, jobs, results):
    """All of them inside yunchang's own exchange."""
    from yunchang import LongContextAttention, set_seq_parallel_pg
    from yunchang.globals import PROCESS_GROUP

    set_seq_parallel_pg(RANKS[0], 1, rank, RANKS[0])
    for name, (routed, _) in jobs.items():
        n = -(-routed.layout.length // RANKS[0])
        filling = (0, 0, 0, 0, 0, RANKS[0] * n - routed.layout.length)
        own = [torch.nn.functional.pad(x, filling, value=9.0)[:, rank * n : (rank + 1) * n] for x in qkv(LAYOUT.length)]
        processor = AttnProcessor(routed, PROCESS_GROUP.ULYSSES_PG)
        with torch.no_grad():
            out = LongContextAttention(attn_type=None, attn_processor=processor)(*own)
        results.put((("yunchang", name), rank, out.numpy()))


def run_rank(rank, file, jobs, results):
    """Every job with all ranks, then with the first two and with the first alone: starting a process costs more."""
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=RANKS[0])
        for ranks in RANKS:
            some = dist.new_group(range(ranks))
            for name, (routed, groups) in jobs.items() if rank < ranks else ():
                length = routed.layout.length
                n = -(-length // ranks)
                filling = (0, 0, 0, 0, 0, ranks * n - length)
                padded = [torch.nn.functional.pad(x, filling, value=9.0) for x in qkv(length)]
                own = [x[:, rank * n : (rank + 1) * n] for x in padded]
                out = ulysses_attention(*own, routed, length=length, group=some, groups=groups)
                results.put(((ranks, name), rank, out.numpy()))
        as_yunchang(rank, jobs, results)
    except Exception:
        results.put((None, rank, traceback.format_exc()))
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.fixture(autouse=True)
def one_thread():
    """As in the ranks: two threads round a product otherwise than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(ranks, name of a job) -> output [B, N (and filling), H, D] of all ranks together."""
    context = mp.get_context("spawn")
    results, file = context.Queue(), tmp_path_factory.mktemp("ranks") / "meet"
    started = [context.Process(target=run_rank, args=(rank, file, JOBS, results)) for rank in range(RANKS[0])]
    for process in started:
        process.start()
    found = {}
    for _ in range((sum(RANKS) + RANKS[0]) * len(JOBS)):
        job, rank, out = results.get(timeout=300)
        assert job is not None, out
        found[job, rank] = torch.from_numpy(out)
    for process in started:
        process.join(60)
    return {
        (ranks, name): torch.cat(
            [found[(ranks, name), rank] for rank in range(RANKS[0] if ranks == "yunchang" else ranks)], 1
        )
        for ranks in (*RANKS, "yunchang")
        for name in JOBS
    }


def groups_of(ranks, groups):
    """The heads that are attended together, in order."""
    each = HEADS // ranks
    count = min(groups, each) if ranks > 1 else 1  # one GPU has nothing to wait for
    return [
        slice(rank * each + each * i // count, rank * each + each * (i + 1) // count)
        for rank in range(ranks)
        for i in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", JOBS)
def test_a_rule_gives_the_bits_of_one_process(together, name, ranks):
    routed, groups = JOBS[name]
    q, k, v = (x.transpose(1, 2) for x in qkv(LAYOUT.length))
    alone = torch.cat([routed(q[:, some], k[:, some], v[:, some], some) for some in groups_of(ranks, groups)], 1)
    found = together[ranks, name]
    assert torch.equal(found[:, : LAYOUT.length], alone.transpose(1, 2))
    whole = moc_attention(q, k, v, build_chunks(LAYOUT, STARTS, routed.routing), routed.routing)
    torch.testing.assert_close(alone, whole, atol=1e-6, rtol=0)
    assert not found[:, LAYOUT.length :].any(), "filling comes back as zeros"


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_inside_yunchang_a_rule_gives_the_same(together, name):
    routed, _ = JOBS[name]
    q, k, v = (x.transpose(1, 2) for x in qkv(LAYOUT.length))
    alone = torch.cat([routed(*(x[:, some] for x in (q, k, v)), some) for some in groups_of(RANKS[0], 1)], 1)
    found = together["yunchang", name]
    assert torch.equal(found[:, : LAYOUT.length], alone.transpose(1, 2))
    assert not found[:, LAYOUT.length :].any(), "filling comes back as zeros"


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_processor_gives_the_log_sum_exp_of_what_it_read(alone):
    routed = Routed(LAYOUT, STARTS, TAILED, HEADS)
    q, k, v = qkv(LAYOUT.length)
    _, lse = AttnProcessor(routed)(q, k, v, softmax_scale=0.5)
    expected = torch.zeros(BATCH, HEADS, LAYOUT.length)
    sides = (x.transpose(1, 2) for x in (q, k, v))
    moc_attention(*sides, routed.table, TAILED, backend="reference", scale=0.5, lse=expected)
    torch.testing.assert_close(lse, expected, atol=1e-5, rtol=0)


def test_registered_in_xdit_self_attention_is_routed_and_text_is_not(alone):
    processor, text = AttnProcessor(Routed(LAYOUT, STARTS, TAILED, HEADS)), []

    def otherwise(query, key, value, dropout_p, is_causal, attention_kwargs):
        text.append(key.shape)
        return query, None

    attention = processor.registered(otherwise)
    q, k, v = (x.transpose(1, 2) for x in qkv(LAYOUT.length))
    out, lse = attention(q, k, v, dropout_p=0.0, is_causal=False, attention_kwargs=None)
    expected = processor(*qkv(LAYOUT.length))
    assert torch.equal(out, expected[0].transpose(1, 2)) and torch.equal(lse, expected[1])
    few = k[:, :, :7]
    assert attention(q, few, few, 0.0, False)[0] is q and text == [few.shape]
    with pytest.raises(MoCError, match="no attn_mask"):
        attention(q, k, v, 0.0, False, {"attn_mask": q})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"causal": True}, "no causal"),
        ({"softcap": 30.0}, "no softcap"),
        ({"window_size": (8, 8)}, "no window_size"),
        ({"dropout_p": 0.1}, "no dropout_p"),
    ],
)
def test_what_routing_does_not_compute_is_refused(alone, asked, told):
    with pytest.raises(MoCError, match=told):
        AttnProcessor(Routed(LAYOUT, STARTS, TAILED, HEADS))(*qkv(LAYOUT.length), **asked)


def test_a_part_of_the_tokens_is_refused_as_a_ring(alone):
    with pytest.raises(MoCError, match="set the ring degree to 1"):
        AttnProcessor(Routed(LAYOUT, STARTS, TAILED, HEADS))(*(x[:, :40] for x in qkv(LAYOUT.length)))


def test_heads_that_do_not_divide_are_refused_with_the_numbers_that_do():
    with pytest.raises(MoCError, match=r"40 heads cannot be split evenly over 3 GPUs: use 1, 2, 4, 5 GPUs"):
        heads_of_rank(40, 0, 3)
    assert [heads_of_rank(40, rank, 4) for rank in (0, 3)] == [slice(0, 10), slice(30, 40)]


def test_what_a_worker_is_sent_is_small_and_complete():
    routed = Routed(LAYOUT, STARTS, TAILED, HEADS)
    assert routed.table.length == LAYOUT.length
    sent = pickle.dumps(routed)
    assert len(sent) < 3000
    assert pickle.loads(sent) == routed


def test_a_density_for_every_head_wants_all_heads():
    routed = Routed(LAYOUT, STARTS, TAILED.changed(head_density=(0.5, 0.5)), HEADS)
    q, k, v = (x.transpose(1, 2)[:, :4] for x in qkv(LAYOUT.length))
    with pytest.raises(MoCError, match="2 numbers, but this model has 8 heads"):
        routed(q, k, v, slice(0, 4))
