"""No garbage is collected while MoC allocates: a recording host's allocations run Python
(`moc/host/malloc_graph.py`)."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import tiny
from mixture_of_contexts.moc.host import apply_moc, malloc_graph, override
from mixture_of_contexts.moc.host.malloc_graph import uncollected
from mixture_of_contexts.moc.host.patch import apply_probe
from mixture_of_contexts.moc.probe.log import ProbeLog
from mixture_of_contexts.moc.trace.trace import Trace
from spies import TWO_SHOTS, little
from test_override import attend, forward

MANY = 20_000  # what compiling a few kernels leaves in cycles, and more than any young generation holds


@pytest.fixture(autouse=True)
def collector():
    gc.collect()
    gc.enable()
    yield
    gc.enable()


class Loop:
    """A cycle, which only the collector finds."""

    def __init__(self) -> None:
        self.me = self


def routing(monkeypatch, work) -> None:
    """Let every routed call do `work` first."""
    real = override.moc_attention

    def attention(*args, **kwargs):
        work()
        return real(*args, **kwargs)

    monkeypatch.setattr(override, "moc_attention", attention)


def test_the_collector_is_off_in_a_routed_call_and_on_behind_it(monkeypatch):
    seen = []
    routing(monkeypatch, lambda: seen.append(gc.isenabled()))
    attend(forward())
    assert seen == [False] and gc.isenabled()


def test_it_is_on_again_after_a_call_that_fails(monkeypatch):
    def fail():
        raise RuntimeError("no kernel")

    routing(monkeypatch, fail)
    with pytest.raises(RuntimeError):  # gradients are on here
        attend(forward())
    assert gc.isenabled()
    with pytest.raises(ValueError), uncollected():
        raise ValueError
    assert gc.isenabled()


def test_inside_one_another_the_outer_one_ends_it():
    with uncollected():
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_had_it_off_finds_it_off():
    gc.disable()
    with uncollected(), uncollected():
        assert not gc.isenabled()
    assert not gc.isenabled()
    attend(forward())
    assert not gc.isenabled()


def test_of_several_threads_the_last_one_out_turns_it_on():
    inside, leave, found = threading.Event(), threading.Event(), []

    def other():
        with uncollected():
            inside.set()
            leave.wait(10)
        found.append(gc.isenabled())

    thread = threading.Thread(target=other)
    with uncollected():
        thread.start()
        assert inside.wait(10)
    assert not gc.isenabled(), "the other thread still allocates"
    leave.set()
    thread.join(10)
    assert found == [True]


def test_what_a_call_leaves_in_cycles_is_gone_before_the_model_allocates_again(monkeypatch):
    """And it is collected where nothing is allocated or paused."""
    left, paused, collected = [], [], []

    class Pause:
        def __enter__(self):
            paused.append(True)

        def __exit__(self, *_):
            paused.clear()

    def compile_kernels():
        loops = [Loop() for _ in range(MANY)]
        left.append(weakref.ref(loops[0]))

    def watch(phase, info):
        if phase == "start":
            collected.append(bool(paused))

    routing(monkeypatch, compile_kernels)
    monkeypatch.setattr(malloc_graph, "model_prefetch", SimpleNamespace(pause_malloc_graph=Pause))
    gc.callbacks.append(watch)
    try:
        attend(forward())
    finally:
        gc.callbacks.remove(watch)
    assert left[0]() is None
    assert collected and not any(collected)


@pytest.mark.parametrize("probed", [False, True])
def test_no_garbage_is_found_anywhere_in_a_film_while_a_host_is_paused(monkeypatch, probed):
    """All that MoC allocates in a forward pass stands in such a pause."""
    seen = []

    class Pause:
        def __enter__(self):
            seen.append(gc.isenabled())

        def __exit__(self, *_):
            seen.append(gc.isenabled())

    monkeypatch.setattr(malloc_graph, "model_prefetch", SimpleNamespace(pause_malloc_graph=Pause))
    model = tiny.load("t2v")
    if probed:
        patched = apply_probe(model, TWO_SHOTS, ProbeLog(little(), steps_asked=1, rows_asked=16), Trace())
    else:
        patched = apply_moc(model, TWO_SHOTS, little(), Trace())
    tiny.sample(patched)
    assert seen and not any(seen) and gc.isenabled()


def test_the_models_own_allocations_in_a_pass_collect_nothing_either(monkeypatch):
    seen = []
    patched = apply_moc(tiny.load("t2v"), TWO_SHOTS, little(), Trace())
    block = patched.model.diffusion_model.blocks[0]
    hook = block.register_forward_pre_hook(lambda *_: seen.append(gc.isenabled()))
    try:
        tiny.sample(patched)
    finally:
        hook.remove()
    assert seen and not any(seen) and gc.isenabled()


def test_a_run_begins_without_the_garbage_of_the_settings_before():
    """Old enough that the collector would come by in the middle of the next run."""
    found = []
    patched = apply_moc(tiny.load("t2v"), TWO_SHOTS, little(), Trace())
    gc.collect()
    left = weakref.ref(Loop())
    block = patched.model.diffusion_model.blocks[0]
    hook = block.register_forward_pre_hook(lambda *_: found.append(left()))
    gc.disable()
    try:
        tiny.sample(patched)
    finally:
        hook.remove()
    assert found and not any(found)
