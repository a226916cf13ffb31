"""On a GPU whose kernels do not run, the call goes on in torch and says so."""

import contextlib
import gc
import weakref
from dataclasses import replace

import pytest
import torch

from moc.attention import moc_attention
from moc.backends import BACKENDS, head_split, health, registry, triton
from moc.backends.registry import ANY, Backend, Call, select
from moc.backends.triton.dataflow import HOPPER
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from moc.trace.pair_counts import Counts
from tests.tools.cases import OnGpu, qkv


@pytest.fixture(autouse=True)
def healthy(monkeypatch):
    monkeypatch.setattr(health, "_reasons", {})


def put(monkeypatch, name, **parts):
    """Another backend under a name."""
    monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], **parts))


def as_it_is(q, *_, **__):
    return q


@pytest.mark.parametrize(
    ("supports", "attend", "expected"),
    [
        (lambda *_: "Triton is not installed", None, "Triton is not installed"),
        (lambda *_: None, RuntimeError("no such architecture"), "RuntimeError: no such architecture"),
        (lambda *_: None, torch.OutOfMemoryError("2 GiB"), "OutOfMemoryError: 2 GiB"),
    ],
)
def test_torch_takes_over_and_the_reason_is_noted(monkeypatch, supports, attend, expected):
    def broken(*args, **kwargs):
        raise attend

    notes, calls = [], []
    put(monkeypatch, "triton", supports=supports, attend=broken)
    put(monkeypatch, "eager", attend=lambda q, *args, **kwargs: calls.append(1) or q)
    layout = TokenLayout(32, (2, 4, 4))
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    moc_attention(q, k, v, build_chunks(layout, (0,), RoutingConfig()), RoutingConfig(), note=notes.append)
    assert calls == [1]
    assert len(notes) == 1 and expected in notes[0] and "slower" in notes[0]


@pytest.mark.parametrize(
    "words", ["Triton Error [CUDA]: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"]
)
def test_want_of_memory_passes_whoever_ran_out_of_it(monkeypatch, words):
    pytest.importorskip("triton", reason="Triton is not installed")
    from moc.backends.triton import custom_op

    def broken(*args, **kwargs):
        raise RuntimeError(words)

    layout, routing, notes = TokenLayout(32, (2, 4, 4)), RoutingConfig.of(top_k=1, own="frame"), []
    monkeypatch.setattr(custom_op, "plain", broken)
    put(monkeypatch, "triton", supports=lambda *_: None)
    put(monkeypatch, "eager", attend=as_it_is)
    monkeypatch.setattr(head_split, "_at_once", {})
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    moc_attention(q, k, v, build_chunks(layout, (0,), routing), routing, note=notes.append)
    assert health._reasons == {} and len(notes) == 1 and words[:30] in notes[0]


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError, ValueError])
def test_what_a_call_had_made_goes_with_its_failure(monkeypatch, kind):
    """Or the next try, with fewer heads, finds the memory of this one still taken."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from moc.backends.triton import custom_op

    made = []

    def broken(*args, **kwargs):
        partials = torch.zeros(8)
        made.append(weakref.ref(partials))
        raise kind("out of memory")

    monkeypatch.setattr(custom_op, "plain", broken)
    layout, routing = TokenLayout(32, (2, 4, 4)), RoutingConfig.of(top_k=1, own="frame")
    q, k, v = qkv(layout, dtype=torch.float32)
    table = build_chunks(layout, (0,), routing)
    gc.disable()
    try:
        with contextlib.suppress(RuntimeError, ValueError):
            triton.BACKEND.attend(q, k, v, table, routing, scale=1.0, training=False, record=None)
        assert made[0]() is None
    finally:
        gc.enable()


def test_a_mistake_of_the_users_is_no_failure_of_the_kernels(monkeypatch):
    def broken(*args, **kwargs):
        raise MoCError("give one each")

    put(monkeypatch, "triton", supports=lambda *_: None, attend=broken)
    layout = TokenLayout(32, (2, 4, 4))
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    with pytest.raises(MoCError, match="give one each"):
        moc_attention(q, k, v, build_chunks(layout, (0,), RoutingConfig()), RoutingConfig())
    assert health._reasons == {}


def test_a_cpu_has_no_kernels_to_miss():
    layout, notes = TokenLayout(32, (2, 4, 4)), []
    routing = RoutingConfig.of(top_k=1, own="frame")
    moc_attention(*qkv(layout), build_chunks(layout, (0,), routing), routing, note=notes.append)
    assert notes == []


@pytest.mark.parametrize("variant", [*HOPPER, health.LIBRARY])
def test_a_variant_that_fails_gives_way_to_the_others(monkeypatch, variant, caplog):
    """Nothing of the first try is left in what was counted, and only that variant is left out."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from moc.backends.triton import custom_op

    layout, routing = TokenLayout(32, (2, 4, 4)), RoutingConfig.of(top_k=1, own="frame")
    table = build_chunks(layout, (0,), routing)
    q, k, v = qkv(layout, dtype=torch.float32)
    counts, tries = Counts(table, 2, q.device, 2), []

    @health.watched(variant)
    def kernel(q):
        raise RuntimeError("ptxas failed\non line 3")

    def engine(q, k, v, table, routing, scale, record, training, lse, kept=None):
        tries.append(1)
        record.frame_pairs(2)[0].add_(1)
        return q if health.reason(q.device, variant) else kernel(q)

    monkeypatch.setattr(custom_op, "plain", engine)
    rest = dict(scale=1.0, training=False, record=counts)
    out = triton.BACKEND.attend(q, k, v, table, routing, **rest)
    assert out is q and len(tries) == 2
    assert counts.frame_pairs(2)[0].unique().tolist() == [1]
    assert health.left_out(q.device) == {variant}
    assert health.left_out(torch.device("cuda", 1)) == frozenset()
    assert health.reason(q.device, variant) == "RuntimeError: ptxas failed"
    assert f"{variant} does not run" in caplog.text
    monkeypatch.setattr(custom_op, "plain", lambda q, *_, kept=None: kernel(q))
    with pytest.raises(RuntimeError, match="ptxas"):  # leaving it out is no remedy: not for ever
        triton.BACKEND.attend(q, k, v, table, routing, **rest)


def test_want_of_memory_leaves_no_variant_out():
    @health.watched("gather_sm90")
    def kernel(x):
        raise torch.OutOfMemoryError("2 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        kernel(torch.zeros(1))
    assert not health.left_out(torch.device("cpu"))


def test_every_kernel_for_hopper_is_left_out_by_its_own_name():
    """A launch that no name is kept of would fail again and again; one of another's name would take that one along."""
    pytest.importorskip("triton.experimental.gluon", reason="this Triton has no Gluon")
    from moc.backends.triton.attend import gather_sm90, hot_chunks_sm90, tail_sm90, union_sm90
    from moc.backends.triton.select import topk_filter_sm90, topk_registers_sm90, topk_stream_sm90

    launches = {
        "gather_sm90": gather_sm90.gather_chunks, "hot_chunks_sm90": hot_chunks_sm90.attend,
        "tail_sm90": tail_sm90.tail_of,
        "union_sm90": union_sm90.attend, "topk_filter_sm90": topk_filter_sm90.filter_topk,
        "topk_registers_sm90": topk_registers_sm90.choose, "topk_stream_sm90": topk_stream_sm90.select,
    }  # fmt: skip
    assert set(launches) == set(HOPPER)
    x = torch.zeros(1)
    for i, (variant, launch) in enumerate(launches.items()):
        with pytest.raises(health.VariantError, match=variant):
            launch(x)  # nothing of what it needs
        assert len(health.left_out(x.device)) == i + 1 and health.reason(x.device, variant)


@pytest.mark.parametrize(
    ("version", "fine"), [("3.2.0", False), ("3.3.1", False), ("3.4.0", True), ("3.10.0+git1", True), ("4.0.0", True)]
)
def test_a_triton_that_does_not_build_the_kernels_is_not_asked_to(version, fine):
    """3.2 would end the whole process."""
    reason = triton.too_old(version)
    assert reason is None if fine else version in reason and "3.4" in reason and "PyTorch 2.8" in reason


def test_a_triton_that_does_not_start_is_no_triton(monkeypatch):
    def broken(name):
        raise ImportError("DLL load failed")

    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(triton.importlib, "import_module", broken)
    assert "DLL load failed" in triton._triton_missing.__wrapped__()


def test_several_variants_may_fail_in_one_call(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    from moc.backends.triton import custom_op

    layout, routing, tries = TokenLayout(32, (2, 4, 4)), RoutingConfig.of(top_k=1, own="frame"), []
    q, k, v = qkv(layout, dtype=torch.float32)
    order = [*HOPPER, health.LIBRARY]

    def engine(q, *args, kept=None):
        tries.append(1)
        for variant in order:
            if health.reason(q.device, variant) is None:
                health.watched(variant)(lambda _: 1 / 0)(q)
        return q

    monkeypatch.setattr(custom_op, "plain", engine)
    rest = dict(scale=1.0, training=False, record=None)
    assert triton.BACKEND.attend(q, k, v, build_chunks(layout, (0,), routing), routing, **rest) is q
    assert len(tries) == len(order) + 1


def test_a_scale_that_the_kernels_do_not_take_is_for_torch(monkeypatch):
    monkeypatch.setattr(triton, "machine", lambda device: None)
    put(monkeypatch, "triton", attend=lambda *_, **__: pytest.fail("not positive"))
    put(monkeypatch, "eager", attend=as_it_is)
    layout, notes = TokenLayout(32, (2, 4, 4)), []
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    table = build_chunks(layout, (0,), RoutingConfig())
    moc_attention(q, k, v, table, RoutingConfig(), scale=-1.0, note=notes.append)
    assert "scale -1.0 is not positive" in notes[0]


def asked_of(monkeypatch, name):
    asked, real = [], BACKENDS[name].supports
    put(monkeypatch, name, supports=lambda call: asked.append(name) or real(call))
    return asked


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_backend_is_asked_once_a_call(monkeypatch, backend):
    layout, routing = TokenLayout(32, (2, 4, 4)), RoutingConfig.of(top_k=1, own="frame")
    table = build_chunks(layout, (0,), routing)
    asked = {name: asked_of(monkeypatch, name) for name in BACKENDS}
    for name in BACKENDS:
        put(monkeypatch, name, attend=as_it_is)
    q, k, v = qkv(layout, dtype=torch.float32)
    put(monkeypatch, "triton", supports=lambda call: asked["triton"].append(1))
    moc_attention(q, k, v, table, routing, backend=backend)
    wanted = "eager" if backend == "auto" else backend
    assert {name: len(calls) for name, calls in asked.items()} == {name: int(name == wanted) for name in BACKENDS}
    selected = select(backend, Call(q, table, routing))
    for calls in asked.values():
        calls.clear()
    moc_attention(q, k, v, table, routing, backend=selected)
    assert not any(asked.values()), "the caller has asked"


def test_a_new_backend_is_found_by_its_name_and_by_auto(monkeypatch):
    layout, routing, notes = TokenLayout(32, (2, 4, 4)), RoutingConfig.of(top_k=1, own="frame"), []
    table = build_chunks(layout, (0,), routing)
    q, k, v = qkv(layout, dtype=torch.float32)
    new = Backend("new", lambda q, *_, **__: q + 1, BACKENDS["eager"].allowed, devices=(ANY,))
    monkeypatch.setattr(registry, "BACKENDS", {"new": new, **BACKENDS})  # the first in the order
    for backend in ("new", "auto"):
        assert torch.equal(moc_attention(q, k, v, table, routing, backend=backend, note=notes.append), q + 1)
    monkeypatch.setitem(registry.BACKENDS, "new", replace(new, supports=lambda call: "it is Monday"))
    with pytest.raises(MoCError, match="the new backend cannot run this: it is Monday"):
        moc_attention(q, k, v, table, routing, backend="new")
    found = [moc_attention(q, k, v, table, routing, backend=name, note=notes.append) for name in ("auto", "eager")]
    assert torch.equal(*found)
    assert notes == ["MoC ran on plain torch, which is slower: it is Monday"]
