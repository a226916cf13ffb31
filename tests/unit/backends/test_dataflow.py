"""Which kernels a call takes, on every generation of cards, without a GPU and without Triton."""

from dataclasses import replace
from functools import cache
from time import process_time

import pytest
import torch

from moc.backends import health, library
from moc.backends.triton.dataflow import (
    CHUNK_MAJOR,
    FILTER_CHUNKS,
    HOPPER,
    QUERY_MAJOR,
    SELECTIONS,
    SMALL_CHUNK,
    STREAM_TOP_K,
    STREAMS,
    Arch,
    Dataflow,
    Geometry,
    Wants,
    as_query_major,
    choose_dataflow,
    topk_by,
    usual_kind,
)
from moc.backends.triton.device_table import device_table_of
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import PRESETS, RoutingConfig
from tests.tools.cases import OnGpu

CARDS = {
    "Ampere": Arch((8, 0), library=True),
    "Hopper": Arch((9, 0), frozenset(HOPPER), library=True),
    "B200": Arch((10, 0), library=True),
    "RTX 50": Arch((12, 0), library=True),
}
# 81 frames of 480p in three shots: (preset, card) -> kind, selection, chunks written down, tail, attend, library
PORTABLE, WITH_TMA = ("Ampere", "RTX 50"), ("Hopper",)
TABLE = {
    ("paper multi-shot", PORTABLE): (CHUNK_MAJOR, "topk_registers", False, "none", "gather", True),
    ("paper multi-shot", WITH_TMA): (CHUNK_MAJOR, "topk_registers", False, "none", "gather_sm90", True),
    ("paper multi-shot", ("B200",)): (CHUNK_MAJOR, "topk_stream", True, "none", "gather", True),
    ("paper single-shot", PORTABLE): (CHUNK_MAJOR, "topk_registers", False, "none", "gather", False),
    ("paper single-shot", WITH_TMA): (CHUNK_MAJOR, "topk_registers_sm90", False, "none", "gather_sm90", False),
    ("paper single-shot", ("B200",)): (CHUNK_MAJOR, "topk_stream", True, "none", "gather", False),
    ("recommended", (*PORTABLE, "B200")): (CHUNK_MAJOR, "topk_stream", True, "subtract", "gather", True),
    ("recommended", WITH_TMA): (CHUNK_MAJOR, "topk_filter_sm90", True, "subtract", "gather_sm90", True),
    ("fast", (*PORTABLE, "B200")): (CHUNK_MAJOR, "topk_stream", True, "subtract", "gather", True),
    ("fast", WITH_TMA): (CHUNK_MAJOR, "topk_filter_sm90", True, "subtract", "gather_sm90", True),
    ("large pictures", PORTABLE): (CHUNK_MAJOR, "topk_registers", False, "subtract", "gather", True),
    ("large pictures", WITH_TMA): (CHUNK_MAJOR, "topk_registers_sm90", False, "subtract", "gather_sm90", True),
    ("large pictures", ("B200",)): (CHUNK_MAJOR, "topk_stream", True, "subtract", "gather", True),
}
FOUR_BY_FOUR = {  # the tiles that the same presets have on small pictures
    (*PORTABLE, "B200"): (QUERY_MAJOR, "topk_stream", False, "mask", "block", False),
    WITH_TMA: (QUERY_MAJOR, "topk_filter_sm90", False, "mask", "block", False),
}
HEADS = {"gather_sm90", "hot_chunks_sm90", "union_sm90"}  # copy k and v as they lie
HOPPER_CARD = CARDS["Hopper"]
TOP_K = RoutingConfig()
LARGE = Geometry(chunks=1000, free=1000, top_k=20, longest=64, typical=60.0, group_rows=1500.0)
SMALL = LARGE._replace(longest=16, typical=16.0)


@cache
def geometry(routing: RoutingConfig) -> Geometry:
    table = build_chunks(TokenLayout(21 * 1560, (21, 30, 52)), (0, 7, 14), routing)
    return device_table_of(table, routing, torch.device("cpu")).geometry


def test_every_preset_is_in_the_table_on_every_card():
    assert sorted((name, card) for name, cards in TABLE for card in cards) == sorted(
        (name, card) for name in PRESETS for card in CARDS
    )


@pytest.mark.parametrize(
    ("routing", "cards", "row"),
    [
        *((PRESETS[preset].routing, cards, row) for (preset, cards), row in TABLE.items()),
        *((PRESETS[p].routing.on((1, 1, 1)), *item) for p in ("recommended", "fast") for item in FOUR_BY_FOUR.items()),
    ],
)
def test_a_preset_takes_the_dataflow_of_the_table(routing, cards, row):
    for card in cards:
        flow = choose_dataflow(geometry(routing), routing, CARDS[card])
        assert (flow.kind, flow.selection, flow.direct, flow.tail, flow.attend, flow.library) == row
        assert flow.tail_by == (None if flow.tail == "none" else "tail_sm90" if card == "Hopper" else "tail")
        assert flow.hot == (card == "Hopper" and routing.partition.tile == "auto")


def names(flow: Dataflow) -> set:
    return {flow.selection, flow.attend, flow.tail_by, "hot_chunks_sm90" if flow.hot else None}


WHERE = {  # a call that takes the variant while all are well
    "gather_sm90": (LARGE, TOP_K),
    "hot_chunks_sm90": (LARGE, TOP_K),
    "tail_sm90": (LARGE, RoutingConfig.of(tail="pooled")),
    "union_sm90": (SMALL, RoutingConfig.of(lists="union")),
    "topk_filter_sm90": (LARGE, TOP_K),
    "topk_registers_sm90": (LARGE._replace(chunks=200, free=200), TOP_K),
    "topk_stream_sm90": (LARGE._replace(free=FILTER_CHUNKS - 1), TOP_K),
}


@pytest.mark.parametrize("variant", HOPPER)
def test_a_variant_that_failed_is_replaced_and_nothing_else_with_it(variant):
    where, routing = WHERE[variant]
    well = choose_dataflow(where, routing, HOPPER_CARD)
    ill = choose_dataflow(where, routing, HOPPER_CARD._replace(hopper=HOPPER_CARD.hopper - {variant}))
    assert variant in names(well) and variant not in names(ill)
    changed = {name for name in Dataflow.__dataclass_fields__ if getattr(well, name) != getattr(ill, name)}
    assert len(changed) == 1


def test_without_kernels_for_hopper_nothing_names_one():
    for where, routing in WHERE.values():
        assert not any(str(name).endswith("_sm90") for name in names(choose_dataflow(where, routing, Arch((9, 0)))))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (LARGE._replace(chunks=64), "topk_registers"),
        (LARGE._replace(chunks=65), "topk_registers_sm90"),
        (LARGE._replace(chunks=384), "topk_registers_sm90"),
        (LARGE._replace(chunks=385, free=384), "topk_stream_sm90"),
        (LARGE._replace(chunks=385, free=385), "topk_filter_sm90"),
        (LARGE._replace(top_k=STREAM_TOP_K), "topk_filter_sm90"),
        (LARGE._replace(top_k=STREAM_TOP_K + 1), "topk_stream"),
    ],
)
def test_the_first_selection_that_fits_finds_the_k_best(where, expected):
    assert topk_by(where, HOPPER_CARD) == expected
    for name, refuses in SELECTIONS.items():
        if name == expected:
            break
        assert refuses(where, HOPPER_CARD), "a reason in words"


def test_the_last_selection_takes_everything():
    assert list(SELECTIONS.values())[-1](LARGE._replace(chunks=2**16, top_k=2**15), Arch()) is None


def test_chunks_up_to_the_small_ones_go_query_by_query():
    assert usual_kind("token", SMALL_CHUNK) == QUERY_MAJOR and usual_kind("token", SMALL_CHUNK + 1) == CHUNK_MAJOR
    assert usual_kind("union", 1000) == QUERY_MAJOR
    assert choose_dataflow(LARGE, RoutingConfig.of(lists="union"), Arch(), Wants(kind=CHUNK_MAJOR)).kind == QUERY_MAJOR


@pytest.mark.parametrize(
    "change",
    [
        dict(wants=Wants(noise=True)),
        dict(routing=RoutingConfig.of(rule="top-p")),
        dict(routing=RoutingConfig.of(rule="top-k or top-p")),
        dict(routing=RoutingConfig.of(head_density=(0.1, 0.2))),
        dict(g=LARGE._replace(top_k=0)),
        dict(wants=Wants(kind=QUERY_MAJOR)),
    ],
    ids=str,
)
def test_choices_that_differ_in_number_are_bits(change):
    plain = dict(g=LARGE, routing=TOP_K, arch=HOPPER_CARD)
    well = choose_dataflow(**plain)
    assert well.direct and well.hot and well.selection in STREAMS
    other = choose_dataflow(**plain | change)
    assert not other.direct and not other.hot


@pytest.mark.parametrize("wants", [Wants(gradients=True), Wants(rows=True)])
def test_who_wants_every_choice_gets_it_before_hot_chunks_leave_it(wants):
    flow = choose_dataflow(LARGE, TOP_K, HOPPER_CARD, wants)
    assert flow.direct and not flow.hot


def test_a_call_without_room_for_its_partials_goes_query_by_query():
    flow = choose_dataflow(LARGE, RoutingConfig.of(rule="top-p", tail="pooled"), HOPPER_CARD)
    assert (flow.kind, flow.tail, flow.library) == (CHUNK_MAJOR, "subtract", True)
    back = as_query_major(flow)
    assert (back.kind, back.tail, back.attend, back.library) == (QUERY_MAJOR, "mask", "block", False)
    assert back.selection == flow.selection and back.tail_by == flow.tail_by
    assert as_query_major(replace(flow, tail="none")).tail == "none"


def test_a_rule_without_a_kernel_is_torchs(monkeypatch):
    from moc.routing import rules

    monkeypatch.setitem(rules.RULES, "new", replace(rules.RULES["top-k"]))
    assert choose_dataflow(LARGE, RoutingConfig.of(rule="new"), HOPPER_CARD).selection == "by_torch"


@pytest.mark.parametrize(
    "part", [{"shared": 1}, {"guard": 0.5}, {"near": "touching"}, {"own": "none"}, {"rule": "best of head"}], ids=str
)
def test_what_no_kernel_selects_torch_does(part):
    routing = RoutingConfig.of(**part)
    flow = choose_dataflow(LARGE, routing, HOPPER_CARD)
    assert (flow.selection, flow.direct, flow.hot) == ("by_torch", False, False) and not routing.same_k


def test_the_second_call_of_a_kind_is_a_look_up():
    choose_dataflow(LARGE, TOP_K, HOPPER_CARD)
    start = process_time()
    for _ in range(1000):
        choose_dataflow(LARGE, TOP_K, HOPPER_CARD)
    assert process_time() - start < 0.05  # 50 microseconds each, tenfold what it takes


@pytest.fixture
def hopper(monkeypatch):
    """arch_of, as on a Hopper whose Triton knows the kernels."""
    pytest.importorskip("triton.experimental.gluon", reason="this Triton has no Gluon")
    from moc.backends.triton import arch, block_sizes
    from moc.backends.triton.lib import gluon_compat

    for module in (arch, block_sizes):
        monkeypatch.setattr(module, "capability", lambda device: (9, 0))
    monkeypatch.setattr(library, "by_cudnn", lambda q: True)
    monkeypatch.setattr(gluon_compat, "tested", True)
    monkeypatch.setattr(health, "_reasons", {})
    return arch.arch_of


def on_gpu(*shape: int, dtype=torch.float16) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype).as_subclass(OnGpu)


@pytest.mark.parametrize("variant", HOPPER)
def test_what_failed_on_a_device_is_not_asked_there_again(hopper, variant):
    x = on_gpu(1, 2, 64, 64)
    assert hopper(x, x, x) == Arch((9, 0), frozenset(HOPPER), hopper(x, x, x).library)
    health.leave_out(x.device, variant, "ptxas failed")
    assert hopper(x, x, x).hopper == frozenset(HOPPER) - {variant}


def test_kernels_for_hopper_take_what_they_are_made_for(hopper):
    x = on_gpu(1, 2, 64, 64)
    for other in (on_gpu(1, 2, 64, 64, dtype=torch.float32), on_gpu(1, 2, 64, 80)):
        assert hopper(other, other, other).hopper == frozenset()
    odd = on_gpu(1, 2, 64, 65)[..., :64]  # rows of 130 bytes, which the copy engine does not take
    assert hopper(x, odd, x).hopper == hopper(x, x, odd).hopper == frozenset(HOPPER) - HEADS
    assert hopper(torch.zeros(1, 2, 64, 64), x, x).hopper == frozenset()
