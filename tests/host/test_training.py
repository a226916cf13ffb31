"""LoRA training with ComfyUI's own node: gradients flow through routed attention, and autograd may run it again."""

from __future__ import annotations

import inspect

import comfy.sd
import pytest
import safetensors.torch
import tiny
import torch
from comfy.weight_adapter import adapter_maps
from comfy_extras.nodes_train import TrainLoraNode
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.host import override
from spies import everything, little, routed

CHOICES = {
    "batch_size": 1,
    "grad_accumulation_steps": 1,
    "steps": 2,
    "learning_rate": 0.05,
    "rank": 2,
    "optimizer": "SGD",
}
CHOICES |= {
    "loss_function": "MSE",
    "seed": 0,
    "training_dtype": "fp32",
    "lora_dtype": "fp32",
    "algorithm": next(iter(adapter_maps)),
}
CHOICES |= {"gradient_checkpointing": False, "checkpoint_depth": 1, "existing_lora": "[None]"}
SWITCHES = ("quantized_backward", "offloading", "bucket_mode", "bypass_mode")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """From a file: the training node loads its own copy of the weights."""
    path = tmp_path_factory.mktemp("models") / "wan.safetensors"
    safetensors.torch.save_file(tiny.weights("t2v"), path)
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})


def train(model, **choices) -> list[float]:
    """Loss of every step; from the second on it depends on the gradients of the one before."""
    torch.manual_seed(0)
    values = {**CHOICES, **dict.fromkeys(SWITCHES, False), **choices}
    known = inspect.signature(TrainLoraNode.execute).parameters
    out = TrainLoraNode.execute(
        model=[model],
        latents=[{"samples": tiny.random(*tiny.LATENT, seed=20 + i)} for i in range(2)],
        positive=[[[tiny.random(1, tiny.TEXT, 4096, seed=21), {}]]],
        **{name: [value] for name, value in values.items() if name in known},
    )
    return next(x for x in out.args if isinstance(x, dict) and "loss" in x)["loss"]


def test_choosing_every_chunk_trains_like_the_unpatched_model(model):
    dense, moc = train(model), train(routed(model, everything())[0])
    assert moc == pytest.approx(dense, rel=1e-4) and dense[0] != dense[1]
    assert train(routed(model, little())[0]) != pytest.approx(dense, rel=1e-4)


NOISY = MoCSettings(RoutingConfig.of(top_k=1, own="frame", drop_off=0.5, drop_in=1.0), Schedule(dense_first=1))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradient_checkpointing_routes_the_same_a_second_time(model, depth):
    if depth > 1 and "checkpoint_depth" not in inspect.signature(TrainLoraNode.execute).parameters:
        pytest.skip("this ComfyUI checkpoints the whole model only")
    patched, _ = routed(model, NOISY)
    expected = train(patched)
    assert train(patched, gradient_checkpointing=True, checkpoint_depth=depth) == pytest.approx(expected, rel=1e-5)


def test_the_trace_keeps_the_first_pass_and_nothing_that_autograd_repeats(model):
    patched, trace = routed(model)
    train(patched, gradient_checkpointing=True)
    assert trace.blocks_seen == [0, 1, 2]


def test_dropped_chunks_differ_from_step_to_step_and_only_in_training(model, monkeypatch):
    seeds: list = []
    attention = override.moc_attention

    def spy(*args, training, **kwargs):
        seeds.append((training, args[4].noise.seed))
        return attention(*args, training=training, **kwargs)

    monkeypatch.setattr(override, "moc_attention", spy)
    patched, _ = routed(model, NOISY)
    train(patched)
    assert len(set(seeds)) == len(seeds) == 4 and all(training for training, _ in seeds)
    seeds.clear()
    tiny.sample(patched)
    assert set(seeds) == {(False, 0)}
