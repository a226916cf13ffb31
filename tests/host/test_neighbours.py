"""Beside other packs and core nodes: their overrides, skipped blocks, caches, context windows, torch.compile."""

from __future__ import annotations

import inspect

import comfy_extras.nodes_context_windows as context_windows
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_slg as skip_layers
import pytest
import tiny
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig
from mixture_of_contexts.moc.host.captions import can_split
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.reasons import Reason
from spies import apart, everything, little, routed, watched

BLOCKS = 3
WINDOWS = context_windows.WanContextWindowsManualNode
NO_NOISE = {"freenoise": False} if "freenoise" in inspect.signature(WINDOWS.execute).parameters else {}


def result(node_output):
    return node_output.args[0]


@pytest.mark.parametrize("order", ["before MoC", "after MoC"])
def test_another_packs_override_gets_what_moc_leaves(order):
    calls: list = []
    if order == "before MoC":
        model, trace = routed(watched(tiny.load(), calls), little(dense_first=1))
    else:
        patched, trace = routed(tiny.load(), little(dense_first=1))
        model = watched(patched, calls)
    tiny.sample(model, steps=1)
    assert trace.routed == BLOCKS - 1
    assert len(calls) == BLOCKS + 1, "cross-attention of every block, and the self-attention of the dense one"


def test_another_pack_may_call_the_host_again_from_its_override():
    """Our override hands on everything it got: without the host's own marks this would never end."""
    from comfy.ldm.modules.attention import optimized_attention

    model = tiny.load().clone()

    def other_pack(func, *args, **kwargs):
        return optimized_attention(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = other_pack
    patched, trace = routed(model, everything(dense_last=1))
    assert apart(tiny.sample(patched), tiny.sample(tiny.load())) < 1e-5
    assert trace.dense == {Reason.BLOCK: 2}


@pytest.mark.parametrize("name", ["t2v", "HunyuanVideo 1.0 t2v", "LTX-Video t2v", "Mochi t2v"])
def test_blocks_that_another_node_skips_do_not_shift_the_numbers_of_the_rest(name):
    variant, model = tiny.variant_of(name), tiny.load(name)
    model = result(skip_layers.SkipLayerGuidanceDiT.execute(model, 1.0, 0.0, 1.0, double_layers="0", single_layers=""))
    patched, trace = routed(model)
    tiny.sample(patched, variant, steps=1, cfg=2.0)
    assert tuple(trace.blocks_seen) == variant.blocks + variant.blocks[1:]
    patched, _ = routed(model, everything())
    assert apart(tiny.sample(patched, variant, cfg=2.0), tiny.sample(model, variant, cfg=2.0)) < 1e-5


def test_steps_that_a_cache_skips_are_not_counted():
    cached = result(easycache.EasyCacheNode.execute(tiny.load(), 10.0, 0.0, 1.0, False))
    patched, trace = routed(cached)
    tiny.sample(patched, steps=6)
    assert 0 < trace.routed < 6 * BLOCKS and not trace.dense


def windows(model, schedule: str, closed_loop: bool = False):
    """Windows of 5 latent frames."""
    return result(WINDOWS.execute(model, 17, 4, schedule, 1, closed_loop, "pyramid", **NO_NOISE))


@pytest.mark.parametrize("schedule", ["standard_static", "looped_uniform"])
def test_shots_are_mapped_into_every_context_window(schedule):
    """A frame keeps its shot in whichever window it is seen, in the frame before the window and across the loop too."""
    shots, frames, shape = Shots(cuts=(4, 9), unit="latent"), 13, (1, 16, 13, 8, 8)
    seen: list = []
    model = windows(tiny.load(), schedule, closed_loop=True)
    noise = torch.arange(frames, dtype=torch.float32)[None, None, :, None, None].expand(shape).contiguous()
    patched, trace = routed(model, shots=shots)

    def see(executor, x, *args, **kwargs):
        seen.append(tuple(x[0, 0, :, 0, 0].round().int().tolist()))
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key("diffusion_model", "test", see)
    tiny.sample(patched, steps=1, shape=shape, noise=noise)

    assert not trace.dense and len(seen) > 1
    assert [layout.frames for _, block, layout in trace.calls if block == 0] == seen
    for record in trace.records:
        assert record.axes.shots == tuple((f >= 4) + (f >= 9) for f in record.axes.frames)
    if schedule == "looped_uniform":
        assert any(list(window) != sorted(window) for window in seen)


@pytest.mark.parametrize("frames", [8, 9])  # with the row before it, a window is 8 or 9 rows long
@pytest.mark.parametrize("dim", [3, 4])
def test_windows_of_rows_or_columns_hold_every_frame_of_the_film(frames, dim):
    """A window's numbers are frames only where it is one of time."""
    size = [1, 16, frames, 8, 8]
    size[dim] = 20
    options = {"shape": tuple(size), "steps": 1}
    node = context_windows.ContextWindowsManualNode
    model = result(node.execute(tiny.load(), 8, 2, "standard_static", 1, False, "pyramid", dim=dim, **NO_NOISE))
    patched, trace = routed(model, everything(), Shots(cuts=(4,), unit="latent"))
    assert apart(tiny.sample(patched, **options), tiny.sample(model, **options)) < 1e-5
    assert trace.routed > 2 * BLOCKS and not trace.dense, "several windows"
    for record in trace.records:
        assert record.axes.frames == tuple(range(frames))
        assert record.axes.shots == (0,) * 4 + (1,) * (frames - 4)


@pytest.mark.skipif(not hasattr(context_windows, "LTXVContextWindowsNode"), reason="not in this ComfyUI")
def test_guides_in_a_context_window_do_not_shift_its_frames():
    variant, shape = tiny.variant_of("LTX-2 guides"), (1, 128, 13, 4, 4)  # 11 frames of the film, 2 guides
    node = context_windows.LTXVContextWindowsNode
    model = result(node.execute(tiny.load(str(variant)), 33, 8, "standard_static", "pyramid", False))
    noise = torch.arange(13, dtype=torch.float32)[None, None, :, None, None].expand(shape).contiguous()
    patched, trace = routed(model, shots=Shots(cuts=(4, 9), unit="latent"))
    seen: list = []

    def see(executor, x, *args, **kwargs):
        seen.append(tuple(x[0][0, 0, :, 0, 0].round().int().tolist()))
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key("diffusion_model", "test", see)
    tiny.sample(patched, variant, steps=1, shape=shape, noise=noise)
    found = [(layout.frames, len(layout.spans)) for _, block, layout in trace.calls if block == 0]
    assert not trace.dense and {guides for _, guides in found} > {0}
    assert [frames for frames, _ in found] == [s[: len(s) - guides] for s, (_, guides) in zip(seen, found)]


def test_choosing_every_chunk_in_context_windows_gives_the_unpatched_result():
    model, shape = windows(tiny.load(), "looped_uniform", closed_loop=True), (1, 16, 13, 8, 8)
    patched, trace = routed(model, everything(), Shots(cuts=(4, 9), unit="latent"))
    assert apart(tiny.sample(patched, shape=shape), tiny.sample(model, shape=shape)) < 1e-5
    assert trace.routed and not trace.dense


@pytest.mark.parametrize("name", ["t2v", "Mochi t2v"])
def test_a_compiled_model_does_not_keep_the_settings_of_the_first_branch(name):
    variant, model, graphs = tiny.variant_of(name), tiny.load(name), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = model.clone()
    set_torch_compile_wrapper(
        compiled,
        backend=backend,
        options={"guard_filter_fn": lambda guards: ["transformer_options" not in g.name for g in guards]},
    )
    plain = {}
    for kind, settings in {"all": everything(), "k=1": little()}.items():
        plain[kind] = tiny.sample(routed(model, settings)[0], variant)
    patched, trace = routed(compiled, little(end_percent=0.5))
    tiny.sample(patched, variant, steps=4)
    assert trace.routed and trace.dense[Reason.SCHEDULE], "the step is read anew in every pass"
    assert apart(tiny.sample(routed(compiled, everything())[0], variant), plain["all"]) < 1e-5
    assert apart(tiny.sample(routed(compiled, little())[0], variant), plain["k=1"]) < 1e-5
    assert len(graphs) > BLOCKS, "the rest of the model is compiled"


def test_a_model_compiled_as_a_whole_keeps_its_shots_in_every_run():
    """The patch stands in the model's place from the first run on."""
    settings = MoCSettings(RoutingConfig.of(top_k=1, own="shot", causal=True))
    plain, trace = routed(tiny.load(), settings)
    wanted, shots = tiny.sample(plain), {r.axes.shots for r in trace.records}
    model = tiny.load().clone()
    net = model.model.diffusion_model
    model.add_object_patch("diffusion_model", torch.compile(net, backend="eager"))
    compiled, trace = routed(model, settings)
    with torch.compiler.set_stance("force_eager"):
        for _ in range(2):
            assert torch.equal(tiny.sample(compiled), wanted)
            assert {r.axes.shots for r in trace.records} == shots and trace.routed == 6 and not trace.dense
            assert can_split(compiled)
    compiled.unpatch_model()
    assert model.model.diffusion_model is net
