"""When routing pays on a GPU: the estimate knows which way things go, whatever its constants are."""

from dataclasses import replace

import pytest
import torch

from benchmarks.break_even import RULES, crossing, fit, plan
from moc.backends import cost_model
from moc.backends.cost_model import COSTS, MARGIN, Costs, Work, estimate, kind_of, library, pays, work_of
from moc.backends.triton.attend.own_calls import SLOWER, heads_at_once
from moc.backends.triton.dataflow import SMALL_CHUNK
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.chunks.table import ChunkTable
from moc.config import PRESETS, RoutingConfig
from moc.routing import rules

FRAMES = RoutingConfig.of(top_k=3, own="chunk")
ONE = Costs(call=0.0, dense=1, own=1, chosen=1, choices=1, scores=1, tail=1, rows=1)


def film(routing: RoutingConfig, frames: int, shots: int = 1, frame: tuple[int, int] = (30, 52)) -> ChunkTable:
    grid = (frames, *frame)
    return build_chunks(
        TokenLayout(frames * frame[0] * frame[1], grid), tuple(range(0, frames, frames // shots)), routing
    )


def query(heads: int, tokens: int) -> torch.Tensor:
    return torch.empty(1, heads, tokens, 128, device="meta", dtype=torch.bfloat16)


def test_pairs_are_those_of_the_density():
    table = film(FRAMES, 6, frame=(4, 8))
    own, chosen = table.pairs(3, False)
    assert (own, chosen) == (6 * 32**2, 3 * 6 * 32**2)
    assert table.density(3, False) == pytest.approx((own + chosen) / table.length**2)


def test_work_is_what_the_table_says():
    table = film(FRAMES, 6, frame=(4, 8))
    n = table.length
    work = work_of(table, FRAMES, heads=2, dim=8)
    assert work == Work(16 * n * n, 16 * 6 * 32**2, 16 * 3 * 6 * 32**2, 16 * n * 3, 16 * n * 6, 0, 16 * n)
    pooled = work_of(table, RoutingConfig.of(top_k=3, own="chunk", descriptor="minmax", tail="pooled"), 2, 8)
    assert (pooled.scores, pooled.tail) == (2 * work.scores, work.scores)
    assert work_of(table, RoutingConfig.of(top_k=99, own="chunk"), 2, 8).choices == 16 * n * 6, "more than there are"


def test_a_call_takes_its_launches_at_least_and_a_faster_card_the_less_for_the_rest():
    work = Work(1e12, 1e11, 0, 0, 0, 0, 0)
    assert estimate(work, ONE) == pytest.approx((1.0, 0.1))
    assert estimate(work, ONE, speed=2) == pytest.approx((0.5, 0.05))
    assert estimate(work, Costs(3.0, 1, 1, 1, 1, 1, 1, 1))[1] == 3.0


@pytest.mark.parametrize("heads", [12, 40])
@pytest.mark.parametrize("name", [*PRESETS, "own chunk + 3 frames"])
def test_every_preset_is_dense_on_a_short_film_and_routed_on_a_long_one(name, heads):
    routing = PRESETS[name].routing if name in PRESETS else FRAMES
    found = []
    for frames, frame in ((4, (15, 26)), *((frames, (30, 52)) for frames in (4, 8, 12, 20, 40, 80))):
        table = film(routing, frames, shots=4, frame=frame)
        found.append(pays(query(heads, table.length), table, routing, kernels=True))
    assert found == sorted(found), "once it pays, it pays for all longer films"
    assert not found[0] and found[-1]


def test_the_films_of_the_readme_are_routed():
    for routing, frames, frame in ((FRAMES, 21, (30, 52)), (FRAMES, 21, (45, 80)), (RULES["fast"][0], 21, (30, 52))):
        table = film(routing, frames, frame=frame)
        assert pays(query(40, table.length), table, routing, kernels=True)


def test_without_the_kernels_it_pays_later():
    table = film(FRAMES, 13)
    q = query(40, table.length)
    found = []
    for kernels in (True, False):
        found.append(pays(q, table, FRAMES, kernels))
    assert found == [True, False]


@pytest.mark.parametrize("routing", [RoutingConfig.of(rule="top-p"), RoutingConfig.of(rule="threshold")])
def test_rules_that_choose_nobody_knows_how_much_are_routed(routing):
    table = film(FRAMES, 4, frame=(4, 8))
    assert pays(query(2, table.length), table, routing, kernels=True)


def test_a_rule_without_a_kernel_is_routed_whatever_it_costs(monkeypatch):
    table = film(FRAMES, 4, frame=(4, 8))
    monkeypatch.setitem(rules.RULES, "new", replace(rules.RULES["top-k"]))
    assert not pays(query(2, table.length), table, RoutingConfig.of(own="chunk"), kernels=True)
    assert pays(query(2, table.length), table, RoutingConfig.of(rule="new", own="chunk"), kernels=True)


def test_a_density_for_every_head_pays_where_their_mean_does():
    found = []
    for routing in (RoutingConfig.of(head_density=(0.1, 0.3), own="chunk"), RoutingConfig.of(density=0.2, own="chunk")):
        tables = [film(routing, frames) for frames in (2, 6, 9, 21)]
        found.append([pays(query(2, table.length), table, routing, kernels=True) for table in tables])
    assert found[0] == found[1] and len(set(found[0])) == 2


def uneven(shots: int) -> tuple[ChunkTable, RoutingConfig]:
    """Shots of 16 frames and more, no two alike."""
    lengths = [16 + i for i in range(shots)]
    routing = RoutingConfig.of(top_k=5, own="shot")
    starts = tuple(sum(lengths[:i]) for i in range(shots))
    return build_chunks(TokenLayout(sum(lengths) * 64, (sum(lengths), 8, 8)), starts, routing), routing


def test_the_estimate_knows_how_often_a_library_is_called(monkeypatch):
    table, routing = uneven(6)
    q = query(24, table.length)
    heads = heads_at_once(24, table.length, 128)
    assert library(q, table, routing) == (6 * -(-24 // heads), False)
    assert library(q.expand(2, -1, -1, -1), table, routing)[0] == 2 * library(q, table, routing)[0]
    assert estimate(Work(1e12, 1e11, 0, 0, 0, 0, 0), ONE, processor=3.0) == (1.0, 3.0)
    found = []
    for calls in (1, 10_000):
        monkeypatch.setattr(cost_model, "library", lambda *_, calls=calls: (calls, False))
        found.append(pays(query(24, film(FRAMES, 21).length), film(FRAMES, 21), FRAMES, kernels=True))
    assert found == [True, False]


def test_the_estimate_knows_when_our_kernel_stands_in_for_a_library():
    table, routing = uneven(45)
    assert library(query(24, table.length), table, routing) == (0, True)
    assert pytest.approx(COSTS["small chunks"].own - COSTS["large chunks"].own) == SLOWER
    small = build_chunks(TokenLayout(64 * 8, (8, 8, 8)), (0,), FRAMES)
    assert library(query(24, small.length), small, FRAMES) == (0, False)


def test_nothing_is_known_of_a_cpu():
    assert not cost_model.applies(torch.device("cpu")) and cost_model.applies(torch.device("cuda"))


def test_small_chunks_are_what_the_kernels_take_tile_by_tile():
    tiles = RoutingConfig.of(top_k=3, tile=(1, 4, 4), own="frame")
    assert kind_of(film(tiles, 4), tiles, True) == "small chunks"
    assert kind_of(film(FRAMES, 4), FRAMES, True) == "large chunks"

    medium = RoutingConfig.of(top_k=3, tile=(1, 8, 8), own="frame")
    assert kind_of(film(medium, 4), medium, True) == "medium chunks"
    thirty_two = film(FRAMES, 4, frame=(4, 8))
    assert thirty_two.mean_chunk == SMALL_CHUNK and kind_of(thirty_two, FRAMES, True) == "small chunks"


def test_every_film_of_a_batch_is_work_and_a_gain_within_the_margin_is_none(monkeypatch):
    table, heads = film(FRAMES, 4), []
    monkeypatch.setattr(cost_model, "work_of", lambda _, __, count, dim: heads.append(count))
    for routed, worth in ((0.99 / MARGIN, True), (1.01 / MARGIN, False)):
        monkeypatch.setattr(cost_model, "estimate", lambda *_, routed=routed: (1.0, routed))
        assert pays(torch.empty(3, 2, table.length, 128, device="meta"), table, FRAMES, kernels=True) == worth
    assert heads == [6, 6]


def test_the_benchmark_finds_the_length_between_a_loss_and_a_gain():
    rows = [{"tokens": n, "dense_ms": n * n, "routed_ms": 4000 * n} for n in (8000, 1000, 2000)]
    assert crossing(rows) == "4,000"
    assert crossing(rows[:1]) == "< 8,000" and crossing(rows[1:]) == "> 2,000"


def test_the_benchmark_finds_the_constants_that_made_its_times(capsys):
    rows = []
    for row in plan({(8, 16): (4, 8, 16, 24), (16, 16): (8, 16), (30, 40): (4, 21)}):
        routing, shots = RULES[row["rule"]]
        t = row["grid"][0]
        starts = tuple(t * s // shots for s in range(shots))
        table = build_chunks(TokenLayout(t * row["grid"][1] * row["grid"][2], tuple(row["grid"])), starts, routing)
        work = work_of(table, routing, row["heads"], row["dim"])
        dense, routed = estimate(work, COSTS[kind_of(table, routing, row["backend"] == "triton")])
        rows.append({**row, "tokens": table.length, "dense_ms": dense, "routed_ms": max(routed, 1e-9)})
    fit(rows)
    printed = capsys.readouterr().out
    assert all(f'"{kind}": Costs(' in printed for kind in COSTS)
    assert "wrongly" not in printed and MARGIN > 1
