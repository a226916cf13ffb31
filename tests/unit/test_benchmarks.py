"""What the benchmarks report is what they say: measures of routing on planted choices, and shares of kept pairs."""

import json
import os
import shlex
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from benchmarks import attention, mine, peers, scale, timing
from benchmarks.capture import Call
from benchmarks.cases import Case
from benchmarks.coherence import RULES as RULES_OF_CAPTURES
from benchmarks.coherence import choose, entropy, gini, measure, top_share
from benchmarks.end_to_end import chosen, step_of, table_of
from benchmarks.end_to_end_cases import DENSE, FILMS, RULES
from benchmarks.host import watched
from benchmarks.quality import decide, settle, sol_share
from benchmarks.trace_gpu import spread
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import PRESETS, RoutingConfig

GRID = (4, 8, 8)
TOKENS = 4 * 8 * 8
TILES = RoutingConfig.of(top_k=1, own="frame", tile=(1, 4, 4))


@pytest.fixture
def table():
    return build_chunks(TokenLayout(TOKENS, GRID), (0, 2), TILES)


def chosen_by(table, choice) -> torch.Tensor:
    """[1, 1, N, C] in sorted order; choice: token in the model's order -> chunk."""
    chosen = torch.zeros(TOKENS, len(table.chunks), dtype=torch.bool)
    for place, token in enumerate(table.order.tolist()):
        chosen[place, choice(token)] = True
    return chosen[None, None]


def everything(table) -> torch.Tensor:
    return torch.ones(TOKENS, len(table.chunks), dtype=torch.bool)


def test_where_all_queries_choose_one_chunk_neighbours_agree_and_the_choice_is_as_skewed_as_can_be(table):
    found = measure(chosen_by(table, lambda token: 5), everything(table), table)
    count = len(table.chunks)
    assert (found.beside, found.below, found.later, found.union_16, found.union_64, found.union_tile) == (1,) * 6
    assert found.gini == pytest.approx((count - 1) / count)
    assert found.never == pytest.approx((count - 1) / count)
    assert found.entropy == pytest.approx(0, abs=1e-5)
    assert found.top_tenth == 1


def test_where_every_query_chooses_another_chunk_than_its_neighbours_they_share_nothing(table):
    found = measure(chosen_by(table, lambda token: token % 8 % 2 + 2 * (token // 8 % 2)), everything(table), table)
    assert (found.beside, found.below) == (0, 0)
    assert (found.union_16, found.union_64) == (4, 4)
    assert found.later == 1, "64 tokens a frame: the same place in the next frame has the same number modulo the tiles"


def test_frames_of_different_shots_are_not_neighbours(table):
    found = measure(chosen_by(table, lambda token: int(token >= TOKENS // 2)), everything(table), table)
    assert found.later == 1, "the choice changes only at the cut"


def test_spread_measures_know_their_extremes():
    equal, one = torch.ones(10), torch.eye(10)[3]
    assert (gini(equal), gini(one)) == (0, pytest.approx(0.9))
    assert (entropy(equal), entropy(one)) == (pytest.approx(1), pytest.approx(0, abs=1e-5))
    assert (top_share(equal, 0.2), top_share(one, 0.2)) == (pytest.approx(0.2), 1)


def random_call() -> Call:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, TOKENS, 16) for _ in "qkv")
    return Call({"grid": GRID, "starts": (0, 2)}, 0, q, k, v)


def test_the_kept_share_is_own_frame_plus_chosen_tiles():
    _, kept = decide(random_call(), TILES)
    assert kept == pytest.approx(1 / 4 + 16 / TOKENS)


def test_lists_that_a_tile_shares_keep_more_and_never_drop_a_choice():
    call = random_call()
    alone, kept = decide(call, TILES)
    shared, more = decide(call, TILES.changed(lists="union"))
    assert more > kept
    assert bool((shared | ~alone).all())


def test_sol_attn_keeps_its_block_the_two_beside_it_and_the_best():
    call = random_call()  # four blocks of 64: the ends keep 2 of 4, the middle 3 of 4, plus at most one more each
    assert 10 / 16 <= sol_share(call, None, 0.25) <= 14 / 16
    assert sol_share(call, None, 0.75) >= sol_share(call, None, 0.25)


def test_settings_are_settled_on_the_nearest_share():
    assert settle(lambda k: k / 100, 0.124, 1, 50, True) == 12
    assert settle(lambda x: x**2, 0.25, 0.0, 1.0, False) == pytest.approx(0.5, abs=1e-3)
    assert settle(lambda k: 0.3, 0.1, 1, 50, True) is None, "even the least keeps far more"


def test_gains_are_relative_to_cudnn_on_the_same_film_whatever_was_measured_whole():
    rows = [
        {"film": "a", "rule": DENSE, "kept": 1.0, "attention_ms_a_block": 9.0, "step_from_few_s": 8.0},
        {"film": "a", "rule": "x", "kept": 0.1, "attention_ms_a_block": 1.0, "step_from_few_s": 3.0, "steps_s": [2.0]},
        {"film": "b", "rule": "x", "failed": "OutOfMemoryError"},
    ]
    assert step_of(rows[1]) == 2.0
    dense, fast, failed = table_of(rows).splitlines()[2:]
    assert "4.00x" in fast and "1.00x" in dense and "from few" in dense and "OutOfMemory" in failed


def test_every_film_has_a_dense_rule_to_be_compared_with_and_the_sizes_that_the_docs_name():
    assert FILMS["720p"].tokens == 75_600
    assert FILMS["8shots"].tokens >= 150_000
    assert all(DENSE in [rule.name for rule in rules] for rules in RULES.values())


@pytest.mark.parametrize("name", ["recommended", "fast"])
def test_presets_are_timed_inside_the_model_on_both_films(name):
    for rules in RULES.values():
        assert [r.routing for r in rules if r.name == f"preset: {name}"] == [PRESETS[name].routing]


def test_steps_are_run_in_the_order_that_was_asked_for_and_each_once():
    found = chosen("8shots:450,720p:paper:,8shots:450")
    assert [(film, rule.name.split(" ")[0]) for film, rule in found] == [("8shots", "fine:"), ("720p", "paper:")]
    assert [rule for _, rule in chosen("")] == [rule for rules in RULES.values() for rule in rules]


def test_of_nine_pairs_the_second_and_the_eighth_hold_the_median():
    assert spread([3, 1, 2, 9, 8, 7, 4, 6, 5]) == {"median": 5, "between": [2, 8], "of": 9}
    assert spread([1.0, 0.0, 3.0])["between"] == [0, 3], "too few to leave any out"


@pytest.mark.parametrize(("coherent", "low", "high"), [("trained", 2.0, 2.8), ("hard", 3.0, 4.2), ("", 5.0, 8.0)])
def test_made_up_inputs_are_as_coherent_as_they_say(coherent: str, low: float, high: float):
    """At the demo's size, where captures give 2.5: chunks that 64 rows choose together, over what one chooses."""
    routing = RULES_OF_CAPTURES["8x8, top-8, min-max"]
    case = Case("", (18, 16, 16), 2, routing, 1, 1, shots=6, coherent=coherent)
    table = case.table()
    q, k, _ = (x.index_select(-2, table.tensors("cpu").order) for x in case.inputs("cpu", torch.float32))
    chosen, candidate, _ = choose(q, k, table, routing)
    assert low < measure(chosen, candidate, table).union_tile < high


@pytest.mark.parametrize(
    "watchdog, code, says",
    [("", None, ""), ("import faulthandler; faulthandler.dump_traceback_later(1, exit=True); ", 1, "Timeout (")],
)
def test_a_process_that_hangs_is_ended_whether_or_not_its_own_watchdog_does_it(watchdog, code, says):
    command = [sys.executable, "-c", f"{watchdog}import time; time.sleep(600)"]
    ended, errors = watched(command, 20 if watchdog else 2, dict(os.environ))
    assert ended == code and says in errors


PAPER = Case("a", (4, 8, 8), 2, RoutingConfig.of(top_k=1, own="chunk"), 1, 1)


def time_a_few_calls(monkeypatch):
    """What is timed here is not read."""
    monkeypatch.setattr(timing, "for_seconds", lambda seconds, ms: 2)
    monkeypatch.setattr(attention, "cost", partial(timing.cost, seconds=0.0))


def pretended_fa3(q, k, v, q_descale=None, k_descale=None, v_descale=None):
    """[B, N, H, D] in and out, as FlashAttention 3 takes it, with a factor for every head."""
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    if q_descale is not None:
        q, k, v = (x * d[..., None, None] for x, d in ((q, q_descale), (k, k_descale), (v, v_descale)))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def pretended_sol(q, k, v, topk_ratio, sink_blocks, sink_q):
    """Every block of 64 tokens in a row sees itself alone: what it gives depends on the order of its tokens."""
    q, k, v = (x.transpose(1, 2).unflatten(2, (-1, 64)) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).flatten(2, 3).transpose(1, 2)


def test_a_case_is_measured_against_all_peers_waited_for_and_in_a_row_and_its_stages_are_warm(monkeypatch):
    kitchen = SimpleNamespace(sol_attn_is_available=lambda: True, sol_attn=pretended_sol)
    monkeypatch.setitem(sys.modules, "comfy_kitchen", kitchen)
    monkeypatch.setitem(sys.modules, peers.FA3_MODULES[0], SimpleNamespace(flash_attn_func=pretended_fa3))
    time_a_few_calls(monkeypatch)
    found = attention.run(replace(PAPER, grid=(2, 16, 16), dim=128), device="cpu")
    measured = ("moc", "dense", "fa3", "fa3_e4m3", "sol_attn", "sol_attn_tiled")
    assert all(found[f"{name}_{what}"] > 0 for name in measured for what in ("ms", "row_ms"))
    assert found["ratio_to_fa3"] == pytest.approx(found["fa3_ms"] / found["moc_ms"], abs=0.01)
    assert found["ratio_in_a_row"] == pytest.approx(found["dense_row_ms"] / found["moc_row_ms"], abs=0.01)
    error = found["error"]
    assert error["dense"] < 1e-5 and error["fa3"] < 1e-5 < error["fa3_e4m3"] < 0.1
    assert error["sol_attn_tiled"] != error["sol_attn"], "tiles are other tokens than rows of the picture"
    said = "\n".join(attention.lines(found))
    assert all(word in said for word in (*measured, "MoC over fa3", "stages, in a row"))


def test_8_bits_stand_beside_16_and_peers_that_have_them(monkeypatch):
    sage = SimpleNamespace(sageattn=torch.nn.functional.scaled_dot_product_attention)
    monkeypatch.setitem(sys.modules, "sageattention", sage)
    monkeypatch.setitem(sys.modules, "comfy_kitchen", SimpleNamespace())
    time_a_few_calls(monkeypatch)
    found = attention.run(PAPER, device="cpu", eight_bits=True)
    assert found["moc_8_ratio"] == pytest.approx(found["dense_ms"] / found["moc_8_ms"], abs=0.01)
    assert found["moc_8_ratio_to_16_bits"] == pytest.approx(found["moc_ms"] / found["moc_8_ms"], abs=0.01)
    assert 1e-4 < found["error_to_16_bits"] < 0.03 and found["moc_8_stages_ms"] and found["sage_ratio"] > 0
    said = "\n".join(attention.lines(found))
    assert "of 16 bits" in said and "kitchen: this comfy_kitchen has no int8_attention" in said


def test_a_case_says_which_peers_are_not_installed_or_cannot_run(monkeypatch):
    for name in ("comfy_kitchen", *peers.FA3_MODULES):
        monkeypatch.setitem(sys.modules, name, None)
    time_a_few_calls(monkeypatch)
    said = "\n".join(attention.lines(attention.run(PAPER, device="cpu")))
    assert "fa3: FlashAttention 3 is not installed" in said and "sol_attn: comfy-kitchen is not installed" in said

    def fails(*_, **__):
        raise RuntimeError("made for another card")

    monkeypatch.setitem(sys.modules, peers.FA3_MODULES[1], SimpleNamespace(flash_attn_func=fails))
    said = "\n".join(attention.lines(attention.run(PAPER, device="cpu")))
    assert "fa3: RuntimeError: made for another card" in said and "MoC over" not in said


def test_sol_attn_in_another_order_gives_every_token_its_own_result():
    wide = replace(PAPER, grid=(2, 16, 16), routing=peers.BLOCKS)
    table = wide.table()
    q, k, v = wide.inputs("cpu", torch.float32)
    assert torch.allclose(peers.in_order(peers.dense, table)(q, k, v), peers.dense(q, k, v), atol=1e-5)
    assert not table.identity


def test_eight_bits_are_scaled_by_head():
    x = torch.randn(1, 2, 50, 16) * torch.tensor([1e-3, 1e3])[:, None, None]
    eight, scale = peers.quantized(x)
    off = ((eight.float() * scale[..., None, None] - x).norm(dim=(2, 3)) / x.norm(dim=(2, 3))).flatten()
    assert scale.shape == (1, 2) and bool((off < 0.04).all())


def test_stages_are_the_mean_of_calls_in_a_row_after_as_many_that_warm_the_device(monkeypatch):
    made = SimpleNamespace(before=0, profiled=0)

    class Profile:
        def __init__(self, activities):
            made.before, made.profiled = made.profiled, 0

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

        def key_averages(self):
            spent = 3000 * made.profiled  # microseconds
            event = SimpleNamespace(key="moc_attend_gather_my", self_device_time_total=spent, self_cpu_time_total=spent)
            return [event]

    def call():
        made.profiled += 1

    monkeypatch.setattr(timing, "for_seconds", lambda seconds, ms: 5)
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    assert timing.stages(call) == {"routed": 3.0}
    assert made.before >= made.profiled == 5


def test_what_this_machine_gains_is_a_table_that_can_be_posted(capsys):
    asked = "--model=tiny --size=512x256 --frames=17 --shots=2 --presets=recommended,fast --seconds=0.05"
    mine.main(shlex.split(asked))
    said = capsys.readouterr().out
    assert "tiny, 512x256, 17 frames, 2 shots: 160 tokens" in said
    rows = [line.split("|") for line in said.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows] == ["attention", "dense, torch", "recommended", "fast"]
    assert rows[1][4].strip() == rows[1][5].strip() == "1.00x"


def test_gains_are_over_the_fastest_dense_call():
    rows = [mine.Row("dense, torch", 1.0, 40.0), mine.Row("dense, other", 1.0, 20.0), mine.Row("fast", 0.05, 5.0)]
    told = mine.written(rows, rest=10.0).splitlines()
    assert told[2].split("|")[4].strip() == "0.50x"
    assert [part.strip() for part in told[4].split("|")[2:6]] == ["5.0%", "5.0 ms", "4.00x", "2.00x"]


def test_what_does_not_fit_into_memory_is_measured_on_fewer_heads():
    def call(heads):
        if heads > 5:
            raise torch.OutOfMemoryError
        return 2.0 * heads

    assert mine.in_memory(call, 40) == (80.0, "5 of 40 heads at a time")


def test_the_gain_of_several_gpus_is_over_the_same_film_and_rule_on_one():
    rows = [
        {"film": film, "rule": rule, "ranks": ranks, "step_s": seconds}
        for film, rule, ranks, seconds in [
            ("a", "x", 4, 2.0),
            ("a", "x", 1, 7.0),
            ("a", "y", 4, 1.0),
            ("b", "x", 1, 9.0),
        ]
    ]
    assert scale.gains(rows) == [{"film": "a", "rule": "x", "ranks": 4, "gain": 3.5}]


def test_the_one_call_for_several_gpus_writes_every_row(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    asked = ["scale", "--dry", "--films", "720p,8shots", "--rules", "dense,paper", "--runs", "1", "--blocks", "1"]
    monkeypatch.setattr(sys, "argv", [*asked, "--out", str(tmp_path / "out.json")])
    scale.main()
    told = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert [(row["film"], row["rule"]) for row in told["results"]] == list(
        product(("720p", "8shots"), ("dense", "paper"))
    )
    assert all(row["step_s"] > 0 and row["attention_ms"].keys() == {"1"} for row in told["results"])
