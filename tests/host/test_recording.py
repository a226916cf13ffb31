"""ComfyUI 0.34 and newer record what a forward pass allocates; MoC has to stay out of it (`moc/host/malloc_graph.py`).

Neither tested version records, and there is no GPU here: `Recording` keeps the rules of comfy-aimdo's malloc graph for
tensors on the CPU, and is put around the model as ComfyUI puts the real one around MiniMax H3.
`tests/gpu/check_recording.py` does the same with the real one.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.host import apply_moc, malloc_graph, session, text_padding
from mixture_of_contexts.moc.host.patch import apply_probe
from mixture_of_contexts.moc.probe.log import ProbeLog
from mixture_of_contexts.moc.trace.trace import Trace
from packaging.version import Version
from spies import TWO_SHOTS, everything, little
from test_override import TOKENS, attend, forward
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

STEPS = 4


def storages(tree: object) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


class Recording(TorchDispatchMode):
    """faults: what would break a recording or the process. made: per scope, the operations that allocated in it."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.made: list[list[str]] = []
        self.scopes: list[dict[int, tuple[StorageWeakRef, str]]] = []
        self.paused: list[tuple[StorageWeakRef, str]] | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {s._cdata for s in storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        if self.paused is None:
            for storage in storages(out):
                if storage._cdata not in before:
                    self.scopes[-1][storage._cdata] = StorageWeakRef(storage), str(func)
                    self.made[-1].append(f"{func} {storage.nbytes()}")
        return out

    def begin(self) -> None:
        self.scopes.append({})
        self.made.append([])

    def end(self) -> None:
        assert self.paused is None
        left = [operation for storage, operation in self.scopes.pop().values() if not storage.expired()]
        self.faults += [f"outlives its scope: {operation}" for operation in left]

    def next_block(self) -> None:
        if len(self.scopes) > 1:
            self.end()
        self.begin()

    @contextmanager
    def pause(self) -> Iterator[None]:
        if not self.scopes:  # not within a forward pass
            yield
            return
        assert self.paused is None, "nested: the end of the inner pause would end the outer one too"
        self.paused = [held for scope in self.scopes for held in scope.values() if not held[0].expired()]
        yield
        self.faults += [f"recorded, freed in a pause: {operation}" for s, operation in self.paused if s.expired()]
        self.paused = None

    @contextmanager
    def around(self, diffusion_model) -> Iterator[None]:
        """Its forward pass and its blocks are recorded. As with MiniMax H3 a block adds to its input in place."""
        run, blocks = diffusion_model.forward, list(diffusion_model.blocks)
        head = diffusion_model.head if hasattr(diffusion_model, "head") else diffusion_model.final_layer

        def forward(x, *args, **kwargs):
            out = tree_map(torch.empty_like, x)
            with self:
                self.begin()
                tree_map(torch.Tensor.copy_, out, run(x, *args, **kwargs))
                self.end()
            return out

        def recorded(block):
            def forward(x, *args, **kwargs):
                self.next_block()
                out = block(x, *args, **kwargs)
                return x if out is x else x.copy_(out)

            return forward

        def after_blocks(*_):
            self.end()

        for block in blocks:
            block.forward = recorded(block.forward)
        hook = head.register_forward_pre_hook(after_blocks)
        diffusion_model.forward = forward
        try:
            yield
        finally:
            hook.remove()
            for module in (diffusion_model, *blocks):
                del module.forward


@pytest.fixture(params=["t2v", "MiniMax H3 keyframe"])
def variant(request):
    found = tiny.variant_of(request.param)
    if Version(comfyui_version.__version__) < Version(found.since):
        pytest.skip("this ComfyUI does not have the model")
    return found


@pytest.fixture
def model(variant):
    gc.collect()
    gc.disable()  # a cycle that is found in a pause would look like our doing
    yield tiny.load(str(variant))
    gc.enable()


def film(patched, variant, monkeypatch, guarded: bool = True) -> tuple[torch.Tensor, list[str], list[list[str]]]:
    """(the film, what broke, what every scope of every pass allocated)"""
    host = Recording()
    stand_in = SimpleNamespace(pause_malloc_graph=host.pause) if guarded else SimpleNamespace()
    with monkeypatch.context() as patch, host.around(patched.model.diffusion_model):
        patch.setattr(malloc_graph, "model_prefetch", stand_in)
        out = tiny.sample(patched, variant, steps=STEPS)
    return out, host.faults, host.made


SETTINGS = {
    "frames": little(),
    "tiles, tail": MoCSettings(
        RoutingConfig.of(top_k=2, tile=(1, 2, 2), own="frame", descriptor="minmax", tail="pooled"), Schedule()
    ),
    "late": little(start_percent=0.5),
}


def test_the_model_by_itself_keeps_the_rules(model, variant, monkeypatch):
    _, faults, blocks = film(model, variant, monkeypatch)
    assert faults == [] and len(blocks) >= STEPS


@pytest.mark.parametrize("keep", ["routing", "routing and attention", "off"])
@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_of_moc_is_recorded(model, variant, monkeypatch, name, keep):
    patched = apply_moc(model, TWO_SHOTS, SETTINGS[name], trace := Trace(keep=keep))
    alone = tiny.sample(patched, variant, steps=STEPS)
    for _ in range(2):
        out, faults, _ = film(patched, variant, monkeypatch)
        assert faults == []
        assert torch.equal(out, alone)
    assert trace.routed > 0


def test_routed_steps_allocate_alike_where_the_models_own_do(model, variant, monkeypatch):
    def alike(patched) -> list[bool]:
        _, _, scopes = film(patched, variant, monkeypatch)
        each = len(scopes) // STEPS
        passes = [scopes[i : i + each] for i in range(0, len(scopes), each)]
        return [a == b for a, b in zip(passes, passes[1:], strict=False)]

    by_itself = alike(model)
    assert any(by_itself)
    assert alike(apply_moc(model, TWO_SHOTS, little(), Trace())) == by_itself


def test_a_probed_run_keeps_the_rules(model, variant, monkeypatch):
    log = ProbeLog(little(), steps_asked=2, rows_asked=16)
    _, faults, _ = film(apply_probe(model, TWO_SHOTS, log, Trace()), variant, monkeypatch)
    assert faults == [] and log.calls


def test_what_a_mask_leaves_of_the_sequence_is_not_recorded(monkeypatch):
    """Kept from the first block on. On the CPU numpy makes it, which is not recorded: so when it is made is asked."""
    hidden, text = 4, 6
    mask = torch.zeros(1, 1, TOKENS + text)
    mask[..., TOKENS + hidden :] = torch.finfo(torch.float32).min
    state, host, paused = forward(settings=everything(), after=(("text", text),)), Recording(), []

    def unpad(*args):
        paused.append(host.paused is not None)
        return text_padding.unpad(*args)

    monkeypatch.setattr(malloc_graph, "model_prefetch", SimpleNamespace(pause_malloc_graph=host.pause))
    monkeypatch.setattr(session, "unpad", unpad)
    with host:
        host.begin()
        for _ in range(2):
            host.next_block()
            attend(state, tokens=TOKENS + text, mask=mask)
        host.end()
        host.end()
    assert paused == [True], "once, for every block passes the same mask"
    assert state.run.patch.trace.routed == 2 and host.faults == []


def test_without_the_pauses_it_would_break(model, variant, monkeypatch):
    """So that the tests above can fail."""
    _, faults, _ = film(apply_moc(model, TWO_SHOTS, little(), Trace()), variant, monkeypatch, guarded=False)
    assert any("outlives" in fault for fault in faults)
