"""A model family is one file: put into the adapters' folder it is routed, and taken out again it is unknown."""

from __future__ import annotations

import sys
import textwrap

import comfy.ldm.modules.attention as attention
import comfy.model_base
import comfy.patcher_extension
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host import adapters
from mixture_of_contexts.moc.host.captions import can_split, join_captions, read_by_shot
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.reasons import Reason
from spies import apart, everything, routed
from torch import nn

CPU = torch.device("cpu")
FAMILY = '''
    """Toy: a register token, then video; text by cross-attention."""

    from .base import Adapter, Sequence, each, patches


    def sequence(model, args, kwargs):
        """register video"""
        x, _, context = args[:3]
        grid = patches(x.shape, (1, 2, 2))
        return Sequence(grid, each(model.layers), before=(("reference", 1),), cross=(context.shape[1],))


    ADAPTERS = (
        Adapter(
            "Toy",
            ("ToyVideo",),
            time_rule="LTX-Video",
            text="cross",
            sequence=sequence,
            heads=lambda model: model.layers[0].heads,
        ),
    )
'''


class Layer(nn.Module):
    """Self-attention, then cross-attention."""

    heads = 2

    def __init__(self, dim: int, make: dict) -> None:
        super().__init__()
        self.qkv, self.q = nn.Linear(dim, 3 * dim, **make), nn.Linear(dim, dim, **make)

    def forward(self, x, text, transformer_options):
        options = {"heads": self.heads, "transformer_options": transformer_options}
        x = x + attention.optimized_attention(*self.qkv(x).chunk(3, -1), **options)
        return x + attention.optimized_attention(self.q(x), text, text, **options)


class ToyVideo(nn.Module):
    def __init__(self, dim: int, dtype=None, device=None, operations=None) -> None:
        super().__init__()
        self.dtype, make = torch.float64, {"dtype": torch.float64, "device": device}  # it has no norms to tame rounding
        self.into, self.out = nn.Linear(16 * 4, dim, **make), nn.Linear(dim, 16 * 4, **make)
        self.text, self.register = nn.Linear(64, dim, **make), nn.Parameter(torch.zeros(1, 1, dim, **make))
        self.layers = nn.ModuleList(Layer(dim, make) for _ in range(3))

    def forward(self, x, timestep, context, transformer_options, **kwargs):
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward, self, comfy.patcher_extension.get_all_wrappers("diffusion_model", transformer_options)
        ).execute(x, timestep, context, transformer_options, **kwargs)

    def _forward(self, x, timestep, context, transformer_options, **kwargs):
        b, c, t, h, w = x.shape
        tokens = x.reshape(b, c, t, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 4 * c)
        hidden = torch.cat([self.register.expand(b, -1, -1), self.into(tokens)], 1)
        text = self.text(context)
        for layer in self.layers:
            hidden = layer(hidden, text, transformer_options=transformer_options)
        tokens = self.out(hidden[:, 1:]).reshape(b, t, h // 2, w // 2, c, 2, 2)
        return tokens.permute(0, 4, 1, 2, 5, 3, 6).reshape(x.shape)


class Toy(comfy.model_base.BaseModel):
    def extra_conds(self, **kwargs):
        text = kwargs["cross_attn"]
        return {**super().extra_conds(**kwargs), "c_crossattn": comfy.conds.CONDCrossAttn(text)}


@pytest.fixture(scope="module")
def model():
    config = comfy.supported_models.WAN21_T2V({"image_model": "wan2.1"})
    config.unet_config = {"dim": 64}
    config.set_inference_dtype(torch.float64, None)
    base = Toy(config, comfy.model_base.ModelType.FLOW, device=CPU, unet_model=ToyVideo)
    generator = torch.Generator().manual_seed(50)
    with torch.no_grad():
        for weight in base.diffusion_model.parameters():
            weight.normal_(0, 0.15, generator=generator)
    return ModelPatcher(base, CPU, CPU)


@pytest.fixture
def family(tmp_path, monkeypatch):
    """The file, in a folder that the adapters are collected from."""
    (tmp_path / "toy.py").write_text(textwrap.dedent(FAMILY), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
        patch.setattr(adapters, "ADAPTERS", adapters.collect())
        yield
    sys.modules.pop(f"{adapters.__name__}.toy", None)


T2V = tiny.variant_of("Cosmos 1 t2v")  # a latent and a text of the toy's sizes
SHOTS = Shots(cuts=(9,))  # latent frame 2 by the rule of LTX-Video, 3 by Wan's


def test_without_its_file_the_model_runs_unchanged_and_says_so(model):
    patched, trace = routed(model)
    assert torch.equal(tiny.sample(patched, T2V), tiny.sample(model, T2V))
    assert trace.dense == {Reason.MODEL: 2} and "does not know this model ToyVideo" in trace.report()
    assert adapters.adapter_for(model.model.diffusion_model) is None and not can_split(model)


def test_with_its_file_every_self_attention_is_routed_and_every_chunk_gives_the_dense_result(model, family):
    dense = tiny.sample(model, T2V)
    patched, trace = routed(model, everything(), SHOTS)
    assert apart(tiny.sample(patched, T2V), dense) < 1e-9
    assert tuple(trace.blocks_seen) == (0, 1, 2) * 2 and not trace.dense
    layout = trace.calls[0][2]
    assert (layout.grid, layout.video_start, layout.length) == ((5, 4, 4), 1, 81)
    assert trace.records[0].axes.shots == (0, 0, 1, 1, 1)
    fewer, trace = routed(model, shots=SHOTS)
    assert apart(tiny.sample(fewer, T2V), dense) > 1e-3 and trace.routed == 6


def test_its_shots_read_their_own_captions(model, family):
    assert can_split(model)
    texts = [[[tiny.random(1, 7, 64, seed=100 + i), {}]] for i in range(2)]
    ((text, facts),) = join_captions(texts, SHOTS)
    seen = []

    def spy(func, q, k, v, *args, **kwargs):
        seen.append((q.shape[-2], k.shape[-2]))
        return func(q, k, v, *args, **kwargs)

    spied = model.clone()
    spied.model_options["transformer_options"]["optimized_attention_override"] = spy
    with torch.inference_mode():
        comfy.sample.sample(
            read_by_shot(spied), tiny.random(*tiny.LATENT), 1, 1.0, "euler", "simple", [[text, facts]], texts[0],
            torch.zeros(tiny.LATENT), disable_pbar=True, seed=4,
        )  # fmt: skip
    assert [call for call in seen if call[0] != call[1]] == [(1, 14), (32, 7), (48, 7)] * 3


def test_a_class_that_two_files_declare_is_an_error(family, tmp_path):
    (tmp_path / "toy_again.py").write_text("from .toy import ADAPTERS", encoding="utf-8")
    with pytest.raises(MoCError, match="Toy and Toy both declare the class ToyVideo"):
        adapters.collect()


@pytest.mark.parametrize(
    "wrong, sentence",
    [({"time_rule": "Wam"}, "unknown model family 'Wam'"), ({"text": "crossed"}, "text is 'crossed'")],
)
def test_a_declaration_that_cannot_be_is_an_error(wrong, sentence):
    right = {"time_rule": "Wan", "text": "cross"}
    with pytest.raises(MoCError, match=sentence):
        adapters.Adapter("Toy", ("ToyVideo",), sequence=lambda *_: None, **right | wrong)
