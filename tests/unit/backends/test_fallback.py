"""On a GPU whose kernels do not run, the call goes on in torch and says so."""

import contextlib
import gc
import weakref

import pytest
import torch

import moc.attention as attention
from moc.attention import moc_attention
from moc.backends import triton
from moc.chunks.build import build_table
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from moc.trace.pair_counts import Counts
from tests.tools.cases import OnGpu, qkv


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
    monkeypatch.setattr(attention.triton, "supports", supports)
    monkeypatch.setattr(attention.triton, "attend", broken)
    monkeypatch.setattr(attention.triton, "_failed", {})
    monkeypatch.setattr(attention.eager, "attend", lambda q, *args, **kwargs: calls.append(1) or q)
    layout = TokenLayout(32, (2, 4, 4))
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    moc_attention(q, k, v, build_table(layout, (0,), RoutingConfig()), RoutingConfig(), note=notes.append)
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

    layout, routing, notes = TokenLayout(32, (2, 4, 4)), RoutingConfig(top_k=1, own="frame"), []
    monkeypatch.setattr(custom_op, "plain", broken)
    monkeypatch.setattr(triton, "supports", lambda *_: None)
    monkeypatch.setattr(triton, "_failed", {})
    monkeypatch.setattr(attention.eager, "attend", lambda q, *args, **kwargs: q)
    monkeypatch.setattr(attention.sparing, "_at_once", {})
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    moc_attention(q, k, v, build_table(layout, (0,), routing), routing, note=notes.append)
    assert triton._failed == {} and len(notes) == 1 and words[:30] in notes[0]


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
    monkeypatch.setattr(triton, "supports", lambda *_: None)
    layout, routing = TokenLayout(32, (2, 4, 4)), RoutingConfig(top_k=1, own="frame")
    q, k, v = qkv(layout, dtype=torch.float32)
    table = build_table(layout, (0,), routing)
    gc.disable()
    try:
        with contextlib.suppress(RuntimeError, ValueError):
            triton.attend(q, k, v, table, routing, scale=1.0, training=False, record=None)
        assert made[0]() is None
    finally:
        gc.enable()


def test_a_mistake_of_the_users_is_no_failure_of_the_kernels(monkeypatch):
    def broken(*args, **kwargs):
        raise MoCError("give one each")

    monkeypatch.setattr(attention.triton, "supports", lambda *_: None)
    monkeypatch.setattr(attention.triton, "attend", broken)
    monkeypatch.setattr(attention.triton, "_failed", {})
    layout = TokenLayout(32, (2, 4, 4))
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    with pytest.raises(MoCError, match="give one each"):
        moc_attention(q, k, v, build_table(layout, (0,), RoutingConfig()), RoutingConfig())
    assert attention.triton._failed == {}


def test_a_cpu_has_no_kernels_to_miss():
    layout, notes = TokenLayout(32, (2, 4, 4)), []
    routing = RoutingConfig(top_k=1, own="frame")
    moc_attention(*qkv(layout), build_table(layout, (0,), routing), routing, note=notes.append)
    assert notes == []


def test_kernels_for_hopper_that_fail_give_way_to_the_others(monkeypatch):
    """Nothing of the first try is left in what was counted, and the call is not tried twice again."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from moc.backends.triton import block_sizes, custom_op

    layout, routing = TokenLayout(32, (2, 4, 4)), RoutingConfig(top_k=1, own="frame")
    table = build_table(layout, (0,), routing)
    q, k, v = qkv(layout, dtype=torch.float32)
    counts, tries, on = Counts(table, 2, q.device, 2), [], [True]

    def engine(q, k, v, table, routing, scale, record, training):
        tries.append(1)
        record.frame_pairs(2)[0].add_(1)
        if on[0]:
            raise RuntimeError("ptxas failed")
        return q

    def without(x, reason):
        was, on[0] = on[0], False
        return was

    monkeypatch.setattr(triton, "supports", lambda *_: None)
    monkeypatch.setattr(block_sizes, "without_gluon", without)
    monkeypatch.setattr(custom_op, "plain", engine)
    out = triton.attend(q, k, v, table, routing, scale=1.0, training=False, record=counts)
    assert out is q and len(tries) == 2
    assert counts.frame_pairs(2)[0].unique().tolist() == [1]
    on[0], tries[:] = True, []
    monkeypatch.setattr(block_sizes, "without_gluon", lambda *_: False)
    with pytest.raises(RuntimeError, match="ptxas"):
        triton.attend(q, k, v, table, routing, scale=1.0, training=False, record=counts)
    assert len(tries) == 1


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


def test_two_remedies_in_one_call(monkeypatch):
    """Hopper's kernels do not build, and then the library for own parts refuses as well."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from moc.backends.triton import block_sizes, custom_op
    from moc.backends.triton.attend import own

    layout, routing, tries = TokenLayout(32, (2, 4, 4)), RoutingConfig(top_k=1, own="frame"), []
    q, k, v = qkv(layout, dtype=torch.float32)

    def engine(*args):
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("ptxas failed") if len(tries) == 1 else own.RefusedError("no plan")
        return q

    monkeypatch.setattr(custom_op, "plain", engine)
    monkeypatch.setattr(block_sizes, "without_gluon", lambda *_: len(tries) == 1)
    monkeypatch.setattr(triton, "supports", lambda *_: None)
    rest = dict(scale=1.0, training=False, record=None)
    assert triton.attend(q, k, v, build_table(layout, (0,), routing), routing, **rest) is q and len(tries) == 3


def test_a_scale_that_the_kernels_do_not_take_is_for_torch(monkeypatch):
    monkeypatch.setattr(attention.triton, "_machine", lambda device: None)
    monkeypatch.setattr(attention.triton, "attend", lambda *_, **__: pytest.fail("not positive"))
    monkeypatch.setattr(attention.eager, "attend", lambda q, *args, **kwargs: q)
    layout, notes = TokenLayout(32, (2, 4, 4)), []
    q, k, v = (x.as_subclass(OnGpu) for x in qkv(layout, dtype=torch.float32))
    table = build_table(layout, (0,), RoutingConfig())
    moc_attention(q, k, v, table, RoutingConfig(), scale=-1.0, note=notes.append)
    assert "scale -1.0 is not positive" in notes[0]
