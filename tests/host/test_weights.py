"""Weights that are no 16 bit numbers: MoC never meets them, since q, k and v come out of the host's own layers."""

from __future__ import annotations

import comfy.ops
import pytest
import tiny
import torch
from spies import apart, everything, little, routed

MODELS = ("t2v", "HunyuanVideo 1.0 t2v")
FP8 = torch.float8_e4m3fn


class Packed(comfy.ops.manual_cast):
    """Operations as a loader of packed files (GGUF) brings them along: numbers are unpacked where they are used."""

    class Linear(comfy.ops.manual_cast.Linear):
        unpacked = 0

        def _load_from_state_dict(self, state, prefix, *args):
            super()._load_from_state_dict(state, prefix, *args)
            weight = self.weight.data.float()
            self.step = weight.abs().amax(1, keepdim=True) / 127
            self.packed = (weight / self.step).round().to(torch.int8)
            self.weight = None

        def forward(self, x):
            Packed.Linear.unpacked += 1
            bias = None if self.bias is None else self.bias.to(x)
            return torch.nn.functional.linear(x, (self.packed * self.step).to(x), bias)


def scaled(state):
    """A file of fp8 numbers with a scale per layer, as the host's own templates use them."""
    out = {"scaled_fp8": torch.zeros(2, dtype=FP8)}  # two numbers: products in full precision
    for key, weight in state.items():
        if weight.ndim == 2 and key.endswith(".weight") and "blocks" in key and "mod" not in key:
            scale = weight.abs().max() / torch.finfo(FP8).max
            out[key] = (weight / scale).to(FP8)
            out[key.replace(".weight", ".scale_weight")] = scale.float()
        else:
            out[key] = weight
    return out


LOADED = {
    "fp8": lambda name, state: tiny.loaded(name, state, dtype=FP8),
    "fp8, fast": lambda name, state: tiny.loaded(name, state, dtype=FP8, fp8_optimizations=True),
    "fp8 with scales": lambda name, state: tiny.loaded(name, scaled(state)),
    "packed": lambda name, state: tiny.loaded(name, state, dtype=torch.float32, custom_operations=Packed),
}


@pytest.mark.parametrize("kind", LOADED)
@pytest.mark.parametrize("name", MODELS)
def test_of_a_model_with_packed_weights_every_call_is_routed_and_all_chunks_are_dense(name, kind):
    variant, before = tiny.variant_of(name), Packed.Linear.unpacked
    with torch.inference_mode():  # as the host runs its loaders
        model = LOADED[kind](name, tiny.weights(name))
    dense = tiny.sample(model, variant)
    rounding = apart(dense, tiny.sample(tiny.load(name), variant))
    assert 1e-4 < rounding < 0.5, "the weights are other numbers than the 32 bit ones"
    assert (Packed.Linear.unpacked > before) == (kind == "packed")

    patched, trace = routed(model, everything())
    assert apart(tiny.sample(patched, variant), dense) < 1e-5
    assert trace.routed == len(trace.records) > 0 and not trace.dense

    patched, trace = routed(model, little())
    assert apart(tiny.sample(patched, variant), dense) > 1e-3, "it is MoC that attends"
    assert trace.routed and not trace.dense
