"""Life in the host: changed weights, memory that is short, other devices and threads, several samplers in a graph."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import comfy.hooks
import comfy.model_management
import comfy.ops
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy_extras.nodes_custom_sampler as custom_sampler
import pytest
import safetensors.torch
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_perpneg import PerpNegGuider
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host import apply_moc
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.reasons import Reason
from mixture_of_contexts.moc.trace.trace import Trace
from spies import apart, everything, little, routed
from torch import Tensor

import nodes  # ComfyUI's

BLOCKS, DIM = 3, 256
T2V = tiny.variant_of("t2v")
BATCH = (2, *tiny.LATENT[1:])


def lora(seed: int = 30) -> dict[str, Tensor]:
    """Of queries and values, as trainers save it."""
    weights = {}
    for block in range(BLOCKS):
        for layer in ("q", "v"):
            name, seed = f"diffusion_model.blocks.{block}.self_attn.{layer}", seed + 1
            weights[f"{name}.lora_up.weight"] = tiny.random(DIM, 2, seed=seed)
            weights[f"{name}.lora_down.weight"] = tiny.random(2, DIM, seed=-seed) / DIM**0.5
    return weights


def with_lora(model, weights: dict[str, Tensor] | None = None):
    return comfy.sd.load_lora_for_models(model, None, weights or lora(), 1.0, 0.0)[0]


def load(weights: dict[str, Tensor], **options):
    return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32, **options})


@pytest.fixture(scope="module")
def other():
    """A second model with the same keys."""
    return load({key: x + 0.1 * x.std() if x.ndim > 1 else x for key, x in tiny.weights("t2v").items()})


# Changed weights


def test_a_lora_works_the_same_before_and_after_moc():
    plain = with_lora(tiny.load())
    (before, trace_before), (after, trace_after) = routed(plain), routed(tiny.load())
    after = with_lora(after)
    expected = tiny.sample(before)
    assert torch.equal(tiny.sample(after), expected)
    assert trace_before.routed == trace_after.routed == 2 * BLOCKS
    assert apart(expected, tiny.sample(routed(tiny.load())[0])) > 1e-2, "the LoRA counts"
    assert apart(expected, tiny.sample(plain)) > 1e-3, "and so does the routing"
    assert apart(tiny.sample(with_lora(routed(tiny.load(), everything())[0])), tiny.sample(plain)) < 1e-5


@pytest.mark.skipif(not hasattr(comfy.sd, "load_bypass_lora_for_models"), reason="not in this ComfyUI")
def test_a_lora_that_leaves_the_weights_alone_works_too():
    patched, trace = routed(tiny.load())
    bypass, _ = comfy.sd.load_bypass_lora_for_models(patched, None, lora(), 1.0, 0.0)
    assert apart(tiny.sample(bypass), tiny.sample(with_lora(patched))) < 1e-4 and trace.routed == 2 * BLOCKS


def test_a_lora_hooked_to_the_prompt_works_like_one_on_the_model():
    hooks = comfy.hooks.create_hook_lora(lora(), 1.0, 0.0)
    patched, trace = routed(tiny.load())
    expected, plain = tiny.sample(with_lora(patched), cfg=2.0), tiny.sample(patched, cfg=2.0)
    assert apart(tiny.sample(patched, replace(T2V, conds=lambda shape: {"hooks": hooks}), cfg=2.0), expected) < 1e-5
    assert trace.routed == 2 * BLOCKS and not trace.dense
    conds = iter([{"hooks": hooks}, {}])  # only the positive prompt has it: two passes, other weights in each
    mixed = tiny.sample(patched, replace(T2V, conds=lambda shape: next(conds)), cfg=2.0)
    assert trace.routed == 2 * 2 * BLOCKS and min(apart(mixed, expected), apart(mixed, plain)) > 1e-3
    assert torch.equal(tiny.sample(patched, cfg=2.0), plain)


def test_a_merged_model_keeps_the_moc_of_the_first_one(other):
    def merge(one, two):
        return ModelMergeSimple().merge(one, two, 0.5)[0]

    (before, trace), (after, _) = routed(tiny.load()), routed(merge(tiny.load(), other))
    expected = tiny.sample(after)
    assert torch.equal(tiny.sample(merge(before, other)), expected) and trace.routed == 2 * BLOCKS
    assert min(apart(expected, tiny.sample(before)), apart(expected, tiny.sample(routed(other)[0]))) > 1e-3
    trace.start()
    tiny.sample(merge(other, before))
    assert not trace.routed, "what is merged in gives its weights only"


class Quantised(comfy.ops.manual_cast):
    """Weights in 8 bits that every forward pass unpacks, as loaders of quantised files do it."""

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
            weight = state_dict[f"{prefix}weight"]
            self.scale = weight.abs().amax(1, keepdim=True) / 127
            self.weight = torch.nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)

        def forward(self, x):
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return torch.nn.functional.linear(x, (self.weight * self.scale).to(x.dtype), bias)


def test_quantised_weights_are_routed_as_the_ones_they_stand_for():
    quantised = load(tiny.weights("t2v"), custom_operations=Quantised)
    linear = {name: m for name, m in quantised.model.diffusion_model.named_modules() if isinstance(m, Quantised.Linear)}
    assert {m.weight.dtype for m in linear.values()} == {torch.int8}
    unpacked = {f"{name}.weight": m.weight * m.scale for name, m in linear.items()}
    patched, trace = routed(quantised)
    out = tiny.sample(patched)
    assert apart(out, tiny.sample(routed(load(tiny.weights("t2v") | unpacked))[0])) < 1e-5
    assert trace.routed == 2 * BLOCKS and apart(out, tiny.sample(quantised)) > 1e-3


def test_a_model_that_is_only_partly_loaded_is_routed_the_same(monkeypatch):
    def little_memory(loaded, extra_memory, force_patch_weights=False):
        return loaded.model.partially_load(loaded.device, loaded.model.model_size() / 2, force_patch_weights)

    patched, trace = routed(with_lora(load(tiny.weights("t2v"))))
    expected = tiny.sample(patched)
    comfy.model_management.unload_all_models()
    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_use_more_vram", little_memory)
    partly = tiny.sample(patched)
    assert patched.model.model_lowvram and patched.lowvram_patch_counter()
    assert apart(partly, expected) < 1e-5 and trace.routed == 2 * BLOCKS
    comfy.model_management.unload_all_models()


# Several samplers


CHUNKS = MoCSettings(RoutingConfig.of(top_k=1, own="chunk", tile=(1, 2, 2)))


def advanced(model, latent: Tensor, first: int, last: int, steps: int = 4) -> Tensor:
    """The node for a part of the steps: what follows starts from the noise that it leaves."""
    conds = [[[tiny.random(1, *T2V.text, seed=seed), {}]] for seed in (2, 3)]
    noise, keep = ("enable", "disable")[first > 0], ("disable", "enable")[last < steps]
    with torch.inference_mode():
        node = nodes.KSamplerAdvanced()
        args = (model, noise, 4, steps, 1.0, "euler", "simple", *conds, {"samples": latent}, first, last, keep)
        return node.sample(*args)[0]["samples"]


def test_two_samplers_in_one_graph_keep_their_own_settings_and_traces(other):
    """High and low noise of Wan 2.2; here also with both nodes on one model."""
    empty = torch.zeros(tiny.LATENT)
    for low_model in (tiny.load(), other):
        high, trace_high = routed(tiny.load(), little(), Shots(cuts=(2,), unit="latent"))
        low, trace_low = routed(low_model, CHUNKS, Shots(cuts=(1, 3), unit="latent"))
        between = advanced(high, empty, 0, 2)
        records = list(trace_high.records)
        out = advanced(low, between, 2, 4)
        assert trace_high.records == records and trace_high.routed == trace_low.routed == 2 * BLOCKS
        assert {r.axes.shots for r in trace_high.records} == {(0, 0, 1, 1, 1)}
        assert {r.axes.shots for r in trace_low.records} == {(0, 1, 1, 2, 2)}
        alone, _ = routed(low_model, CHUNKS, Shots(cuts=(1, 3), unit="latent"))
        assert torch.equal(advanced(alone, between, 2, 4), out)
        assert torch.equal(advanced(high, empty, 0, 2), between)


def test_one_node_before_both_samplers_traces_the_last_one():
    patched, trace = routed(tiny.load())
    advanced(patched, advanced(patched, torch.zeros(tiny.LATENT), 0, 1), 1, 4)
    assert trace.routed == 3 * BLOCKS and {step for step, _, _ in trace.calls} == {0, 1, 2}


@pytest.mark.parametrize("first, last", [(0, 3), (3, 6), (2, 5)])
def test_start_and_end_percent_mean_the_whole_schedule_in_a_part_of_it(first, last):
    patched, trace = routed(tiny.load(), little(start_percent=0.2, end_percent=0.7))
    sampling = tiny.load().get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 6)[first:last].tolist()
    on = [i for i, s in enumerate(sigmas) if sampling.percent_to_sigma(0.7) <= s <= sampling.percent_to_sigma(0.2)]
    advanced(patched, torch.zeros(tiny.LATENT), first, last, steps=6)
    assert sorted({step for step, _, _ in trace.calls}) == on
    assert trace.dense.total() == trace.dense[Reason.SCHEDULE] == BLOCKS * (last - first - len(on))


@pytest.mark.parametrize("order", ["before MoC", "after MoC"])
def test_start_and_end_percent_follow_a_node_that_shifts_the_schedule(order):
    settings, shift = little(start_percent=0.2, end_percent=0.7), ModelSamplingSD3().patch
    if order == "before MoC":
        model, trace = routed(shift(tiny.load(), 1.0)[0], settings)
    else:
        patched, trace = routed(tiny.load(), settings)
        model = shift(patched, 1.0)[0]
    tiny.sample(model, steps=10)
    assert sorted({step for step, _, _ in trace.calls}) == [2, 3, 4, 5, 6], "10 % a step"


def guiders(model, second):
    """Every guider of the host that runs the model in a way of its own -> (name, guider, passes in a step)"""
    one, two, three = ([[tiny.random(1, *T2V.text, seed=seed), {}]] for seed in (2, 3, 4))
    yield "two prompts", custom_sampler.DualCFGGuider.execute(model, one, two, three, 2.0, 3.0, "regular"), 1
    yield "nested", custom_sampler.DualCFGGuider.execute(model, one, two, three, 2.0, 3.0, "nested"), 1
    yield "perpendicular", PerpNegGuider.execute(model, one, two, three, 2.0, 1.0), 1
    if hasattr(custom_sampler, "DualModelGuider"):  # not in ComfyUI 0.3.75
        yield "another model for the negative", custom_sampler.DualModelGuider.execute(model, one, 2.0, second, two), 2


def test_guiders_that_run_the_model_in_their_own_way_are_routed_in_every_pass(other):
    def run(guider) -> Tensor:
        sigmas = comfy.samplers.calculate_sigmas(tiny.load().get_model_object("model_sampling"), "simple", 2)
        with torch.inference_mode():
            noise, euler = tiny.random(*tiny.LATENT), comfy.samplers.sampler_object("euler")
            return guider.args[0].sample(noise, torch.zeros(tiny.LATENT), euler, sigmas, disable_pbar=True)

    patched, trace = routed(tiny.load(), everything())
    dense = {name: run(guider) for name, guider, _ in guiders(tiny.load(), other)}
    for name, guider, passes in guiders(patched, other):
        assert apart(run(guider), dense[name]) < 1e-5, name
        assert trace.routed == 2 * passes * BLOCKS and not trace.dense and not trace.notes, name
    assert not any(m._forward_pre_hooks for m in other.model.modules())


def test_a_batch_with_a_negative_prompt_of_another_length():
    options = {"cfg": 3.0, "negative_text": tiny.TEXT + 4}
    patched, trace = routed(tiny.load())
    batch = tiny.sample(patched, shape=BATCH, **options)
    assert trace.routed == 2 * 2 * BLOCKS and not trace.dense
    noise = tiny.random(*BATCH, seed=1)
    alone = [tiny.sample(patched, noise=noise[i : i + 1], **options) for i in range(2)]
    assert apart(batch, torch.cat(alone)) < 1e-4
    everywhere, _ = routed(tiny.load(), everything())
    dense = tiny.sample(tiny.load(), shape=BATCH, **options)
    assert apart(tiny.sample(everywhere, shape=BATCH, **options), dense) < 1e-5


@pytest.mark.parametrize("where", ["between steps", "inside a block"])
def test_after_a_cancelled_run_other_models_are_as_ever(where, monkeypatch):
    def cancel(*_, **__):
        raise comfy.model_management.InterruptProcessingException()

    mochi = tiny.variant_of("Mochi t2v")
    patched, trace = routed(tiny.load())
    neighbour, seen = routed(tiny.load(str(mochi)))
    expected = tiny.sample(tiny.load()), tiny.sample(neighbour, mochi)
    with pytest.raises(comfy.model_management.InterruptProcessingException), monkeypatch.context() as patch:
        if where == "inside a block":
            patch.setattr("comfy.ldm.wan.model.WanT2VCrossAttention.forward", cancel)
        tiny.sample(patched, callback=cancel)
    assert not trace.records and not trace.routed and not trace.dense
    assert torch.equal(tiny.sample(tiny.load()), expected[0])
    assert torch.equal(tiny.sample(neighbour, mochi), expected[1]) and seen.routed == 2 * len(mochi.blocks)


@pytest.mark.parametrize(
    "area, reason", [((1, 1, 0.5, 0, 0, 0.5), None), ((0.6, 1, 1, 0.4, 0, 0), Reason.LENGTH)], ids=["width", "time"]
)
def test_a_prompt_for_a_part_of_the_picture_is_routed_and_one_for_a_part_of_the_time_is_not(area, reason):
    variant = replace(T2V, conds=lambda shape: {"area": ("percentage", *area), "strength": 1.0})
    patched, trace = routed(tiny.load())
    tiny.sample(patched, variant)
    assert trace.dense == ({} if reason is None else {reason: 2 * BLOCKS})
    assert [layout.grid for _, _, layout in trace.calls] == ([] if reason else [(5, 4, 2)] * 2 * BLOCKS)
    everywhere, _ = routed(tiny.load(), everything())
    assert apart(tiny.sample(everywhere, variant), tiny.sample(tiny.load(), variant)) < 1e-5


# Threads


def calls_of(trace) -> list[tuple]:
    return sorted((step, block, layout.grid) for step, block, layout in trace.calls)


def test_threads_with_one_patched_model_do_not_mix_their_passes():
    """Other sizes and noise levels in each; the wide pass is always one block ahead of the other one."""
    wait, outs = threading.Barrier(2, timeout=30).wait, []
    model = load(tiny.weights("t2v"))
    blocks = model.model.diffusion_model.blocks

    def meet(attention, args):
        wide = args[0].shape[1] == 2 * 80
        if together and not (wide and attention is blocks[0].self_attn):
            wait()

    @torch.no_grad()
    def one_pass(apply_model, x, sigma, c):
        out = apply_model(x, sigma, **{**c, "transformer_options": {**c["transformer_options"], "sigmas": sigma}})
        if together and x.shape[-1] == 2 * 8:
            wait()
        return out

    def two_passes(apply_model, given):
        x, sigma, c = given["input"], given["timestep"], given["c"]
        with ThreadPoolExecutor(2 if together else 1) as pool:
            passes = (x, sigma), (x.repeat(1, 1, 1, 1, 2), sigma * 0.7)
            jobs = [pool.submit(one_pass, apply_model, *one, c) for one in passes]
        outs.append([job.result() for job in jobs])
        return outs[-1][0]

    for block in blocks:
        block.self_attn.register_forward_pre_hook(meet)
    patched, trace = routed(model, little(start_percent=0.2, end_percent=0.9))
    patched.set_model_unet_function_wrapper(two_passes)
    together = False
    tiny.sample(patched, steps=4)
    expected, calls, dense = outs.copy(), calls_of(trace), trace.dense.copy()
    assert {(5, 4, 4), (5, 4, 8)} == {grid for _, _, grid in calls} and 0 < dense[Reason.SCHEDULE] < 8 * BLOCKS
    outs.clear()
    together = True
    tiny.sample(patched, steps=4)
    assert calls_of(trace) == calls and trace.dense == dense
    assert all(torch.equal(*pair) for one, two in zip(outs, expected, strict=True) for pair in zip(one, two))


def test_the_hosts_own_node_for_several_devices(tmp_path, monkeypatch):
    """Two names of the CPU stand for two devices: a copy of the weights and a thread for each."""
    node = pytest.importorskip("comfy_extras.nodes_multigpu").MultiGPUCFGSplitNode
    devices = [torch.device("cpu"), torch.device("cpu:0")]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda *_, **__: devices)
    # other tests drop clones of a model that stays cached: the host lists them on, and its node fails at such
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", [])
    safetensors.torch.save_file(tiny.weights("t2v"), tmp_path / "wan.safetensors")
    model = comfy.sd.load_diffusion_model(str(tmp_path / "wan.safetensors"), model_options={"dtype": torch.float32})
    patched, trace = routed(model, little(dense_first=1))
    prompts = {"cfg": 3.0, "negative_text": tiny.TEXT + 4}
    expected, calls = tiny.sample(patched, **prompts), calls_of(trace)
    seen: set = set()

    def see(executor, *args, **kwargs):
        options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x)
        seen.add((options["multigpu_thread_device"], threading.get_ident(), executor.class_obj))
        return executor(*args, **kwargs)

    split = node.execute(patched, 2).args[0]
    split.add_wrapper_with_key("diffusion_model", "test", see)
    assert torch.equal(tiny.sample(split, **prompts), expected)
    seen_devices, threads, models = (set(x) for x in zip(*seen))
    assert seen_devices == set(devices) and len(threads) == len(models) == 2
    assert calls_of(trace) == calls and trace.dense == {Reason.BLOCK: 4}
    assert not any(m._forward_pre_hooks for model in models for m in model.modules())


# Models that MoC is not for


NOT_VIDEO = ["SD15", "SDXL", "SD3", "Flux", "Lumina2", "HiDream", "StableAudio", "ACEStep"]


@pytest.mark.parametrize("name", NOT_VIDEO)
def test_image_and_audio_models_are_refused_by_their_latent(name):
    model = tiny.load().clone()
    model.add_object_patch("latent_format", getattr(comfy.supported_models, name).latent_format())
    with pytest.raises(MoCError, match="This is not a video model .* Connect a video model, for example Wan, or take"):
        apply_moc(model, None, little(), Trace())


def test_an_image_model_with_the_latent_of_a_video_model_runs_unchanged_and_says_so():
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    sizes = {"num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 64}
    config = comfy.supported_models.QwenImage({"image_model": "qwen_image", **sizes})
    config.set_inference_dtype(torch.float32, None)
    model = ModelPatcher(config.get_model({}), torch.device("cpu"), torch.device("cpu"))
    assert isinstance(model.model.diffusion_model, QwenImageTransformer2DModel)
    generator = torch.Generator().manual_seed(40)
    with torch.no_grad():
        for weight in model.model.diffusion_model.parameters():
            weight.normal_(0, 0.05, generator=generator)
    patched, trace = routed(model)
    shape = (1, 16, 1, 8, 8)
    expected = tiny.sample(model, replace(T2V, text=(7, 64)), shape=shape)
    assert torch.equal(tiny.sample(patched, replace(T2V, text=(7, 64)), shape=shape), expected)
    assert expected.isfinite().all() and expected.std() > 0
    assert trace.dense == {Reason.MODEL: 2} and not trace.routed
    assert trace.notes == ["MoC does not know this model QwenImageTransformer2DModel, which ran unchanged"]
