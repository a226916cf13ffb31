"""Two to four processes with gloo attend what one attends, bit for bit.

Some heads at a time, in one process as in many: on a CPU torch rounds products of all heads otherwise than of a part of
them, by a bit.
"""

import pickle
import traceback
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from moc.attention import moc_attention
from moc.chunks.build import build_table
from moc.chunks.layout import Span, TokenLayout
from moc.config import PRESETS, RoutingConfig
from moc.errors import MoCError
from moc.parallel import Routed, heads_of_rank, ulysses_attention

LAYOUT = TokenLayout(5 + 6 * 12 + 3, (6, 3, 4), 8, (Span("text", 0, 5), Span("reference", 5, 8)))
STARTS = (0, 2, 5)
TAILED = RoutingConfig(top_k=3, tile=(1, 2, 2), own="frame", descriptor="minmax", tail="pooled")
ROUTINGS = {
    **{name: settings.routing for name, settings in PRESETS.items()},
    "tiles with a tail": TAILED,
    "causal shots": RoutingConfig(top_k=1, own="shot", causal=True),
    "top-p": replace(TAILED, rule="top-p", top_p=0.4),
    "union": replace(TAILED, lists="union", tail="none"),
    "a density for every head": replace(TAILED, head_density=(0.1, 0.9, 0.3, 0.5, 0.2, 1.0, 0.4, 0.6)),
    "the outer loop": replace(TAILED, shots_kept=1),
}
HEADS, DIM, BATCH = 8, 8, 2


def qkv(length):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(BATCH, length, HEADS, DIM, generator=generator) for _ in range(3)]


def run_rank(rank, ranks, file, jobs, results):
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ranks)
        for name, (routed, groups) in jobs.items():
            length = routed.layout.length
            n = -(-length // ranks)
            padded = [torch.nn.functional.pad(x, (0, 0, 0, 0, 0, ranks * n - length), value=9.0) for x in qkv(length)]
            own = [x[:, rank * n : (rank + 1) * n] for x in padded]
            out = ulysses_attention(*own, routed, length=length, groups=groups)
            results.put((name, rank, out.numpy()))
    except Exception:
        results.put((None, rank, traceback.format_exc()))
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def on_ranks(ranks, jobs, folder):
    """name -> output [B, N (and filling), H, D] of all ranks together."""
    context = mp.get_context("spawn")
    results = context.Queue()
    started = [
        context.Process(target=run_rank, args=(rank, ranks, folder / "meet", jobs, results)) for rank in range(ranks)
    ]
    for process in started:
        process.start()
    found = {}
    for _ in range(ranks * len(jobs)):
        name, rank, out = results.get(timeout=300)
        assert name is not None, out
        found[name, rank] = torch.from_numpy(out)
    for process in started:
        process.join(60)
    return {name: torch.cat([found[name, rank] for rank in range(ranks)], 1) for name in jobs}


def groups_of(ranks, groups):
    """The heads that are attended together, in order."""
    each = HEADS // ranks
    count = min(groups, each) if ranks > 1 else 1  # one GPU has nothing to wait for
    return [
        slice(rank * each + each * i // count, rank * each + each * (i + 1) // count)
        for rank in range(ranks)
        for i in range(count)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rule_gives_the_bits_of_one_process(ranks, tmp_path):
    jobs = {name: (Routed(LAYOUT, STARTS, routing, HEADS), 2) for name, routing in ROUTINGS.items()}
    jobs["one group of heads"] = (Routed(LAYOUT, STARTS, TAILED, HEADS), 1)
    jobs["a group for every head"] = (Routed(LAYOUT, STARTS, TAILED, HEADS), 99)
    together = on_ranks(ranks, jobs, tmp_path)
    for name, (routed, groups) in jobs.items():
        q, k, v = (x.transpose(1, 2) for x in qkv(LAYOUT.length))
        alone = torch.cat([routed(q[:, some], k[:, some], v[:, some], some) for some in groups_of(ranks, groups)], 1)
        assert torch.equal(together[name][:, : LAYOUT.length], alone.transpose(1, 2)), name
        whole = moc_attention(q, k, v, build_table(LAYOUT, STARTS, routed.routing), routed.routing)
        torch.testing.assert_close(alone, whole, atol=1e-6, rtol=0)
        assert not together[name][:, LAYOUT.length :].any(), f"{name}: filling comes back as zeros"


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
    routed = Routed(LAYOUT, STARTS, replace(TAILED, head_density=(0.5, 0.5)), HEADS)
    q, k, v = (x.transpose(1, 2)[:, :4] for x in qkv(LAYOUT.length))
    with pytest.raises(MoCError, match="2 numbers, but this model has 8 heads"):
        routed(q, k, v, slice(0, 4))
