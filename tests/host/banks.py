"""Windows with a bank, as the tests of it make them."""

from __future__ import annotations

import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.host.windows import reader as room
from mixture_of_contexts.moc.host.windows.bank import BANK
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.windows import SHOTS
from mixture_of_contexts.moc.windows.store import Store
from mixture_of_contexts.nodes.windows import MoCWindows
from packaging.version import Version
from spies import OVERRIDE

HOST = Version(comfyui_version.__version__)
NEW = pytest.mark.skipif(HOST < Version("0.30.0"), reason="this ComfyUI cuts the latent alone")
FIVE = Shots(cuts=(2, 4, 6, 8), unit="latent")
TEN = (1, 16, 10, 8, 8)
BLOCKS = 3


def windows(model, follow=SHOTS, shots=FIVE, length=13, overlap=0, bank="on", bank_shots="", **more):
    """Windows of 4 latent frames of Wan, without the frame in front of them; all shots are kept."""
    model = MoCWindows.execute(model, shots, follow, length, overlap, bank=bank, bank_shots=bank_shots, **more).args[0]
    model.model_options["context_handler"].causal_window_fix = False
    return model


def watch(monkeypatch) -> list[room.Bank]:
    """Every bank that is made from now on."""
    banks = []
    end = room.Bank.end

    def ended(bank):
        bank.held = {place: bank.store.frames(place) for place in bank.store._frames} if bank.store else {}
        bank.bytes = (bank.store.on_device + bank.store.elsewhere) if bank.store else 0
        banks.append(bank)
        end(bank)

    monkeypatch.setattr(room.Bank, "end", ended)
    return banks


def filled(model, kept: dict, weights: dict | None = None):
    """The bank that a run begins with holds `kept`: {block: (keys, values) [H, tokens of the film, D] at true places};
    nothing else gets in."""
    model = model.clone()

    def see(executor, *args, **kwargs):
        options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x)
        bank, reader = options[BANK], options["moc_windows_reader"]
        bank.weights = weights or bank.weights
        first = options["context_window"].index_list[0]
        bank.store = store = Store(16, 0)
        for block, (k, v) in kept.items():
            for frame in range(10):
                some = slice(frame * 16, (frame + 1) * 16)
                near = room.turn(k[None, :, some], room.rope.rotation(executor.class_obj, list(args), kwargs, first))[0]
                store.put((reader.model, (block, 0), reader.prompts[0]), frame, near, v[:, some])
        reader.keep = lambda *_: None
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", see)
    return model


def keys_of(model, **options) -> tuple[torch.Tensor, dict]:
    """(what it samples, {block: (keys, values)} of its only step, the whole film at once)."""
    model, seen = model.clone(), {}

    def note(func, q, k, v, heads, *args, **kwargs):
        if q.shape == k.shape:
            seen[len(seen)] = tuple(x[0].unflatten(-1, (heads, -1)).transpose(0, 1).clone() for x in (k, v))
        return func(q, k, v, heads, *args, **kwargs)

    model.model_options["transformer_options"][OVERRIDE] = note
    return tiny.sample(model, shape=TEN, steps=1, **options), seen
