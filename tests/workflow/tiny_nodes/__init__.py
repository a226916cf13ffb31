"""Nodes for the workflow and browser tests: a tiny random Wan model and all that it needs, and planted attention."""

import importlib.util
import sys
import time
from pathlib import Path

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io

TINY = Path(__file__).resolve().parent.parent.parent / "host" / "tiny.py"
OVERRIDE = "optimized_attention_override"


class MoCTestModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MoCTestModel",
            category="tests",
            inputs=[],
            outputs=[io.Model.Output(display_name="model"), io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls):
        spec = importlib.util.spec_from_file_location("moc_tests_tiny", TINY)
        tiny = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = tiny
        spec.loader.exec_module(tiny)
        return io.NodeOutput(tiny.load(), [[tiny.random(1, tiny.TEXT, 4096, seed=2), {}]])


class Clip:
    """As much of a text encoder as graphs ask for: every text has tokens of its own."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        generator = torch.Generator().manual_seed(sum(map(ord, tokens)))
        return [[torch.randn(1, 7, 4096, generator=generator), {}]]


class Vae:
    """As much of Wan's VAE as graphs ask for: shapes, and pictures that move."""

    def encode(self, pixels):
        frames, height, width = pixels.shape[-4:-1]
        return torch.zeros(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)

    def decode(self, latent):
        frames, height, width = latent.shape[-3:]
        return torch.rand(1, 4 * frames - 3, 8 * height, 8 * width, 3)


class MoCTestClip(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="MoCTestClip", category="tests", inputs=[], outputs=[io.Clip.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(Clip())


class MoCTestVae(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="MoCTestVae", category="tests", inputs=[], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(Vae())


class MoCTestPlant(io.ComfyNode):
    """After MoC Apply: every query of latent frame a fits the keys of latent frame b and no others, for all "a>b"."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MoCTestPlant",
            category="tests",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("reads", default="4>0"),
                io.Float.Input("seconds", default=0.0, tooltip="how long a step takes at least"),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model, reads, seconds):
        pairs = [tuple(map(int, pair.split(">"))) for pair in reads.split(",") if pair]

        def forward(executor, *args, **kwargs):
            time.sleep(seconds)
            options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x)
            ours = options[OVERRIDE]
            options[OVERRIDE] = lambda func, q, k, v, *a, **kw: ours(func, *planted(q, k, pairs), v, *a, **kw)
            return executor(*args, **kwargs)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "moc_test_plant", forward)
        return io.NodeOutput(model)


FRAMES, HEAD = 5, 128  # of the tiny model's video and heads


def planted(q, k, pairs):
    """q, k [B, N, H*D] of self-attention over FRAMES frames; others come back as they are, and all without pairs."""
    if not pairs or q.shape != k.shape or q.shape[1] % FRAMES:
        return q, k
    new_q, new_k = (torch.zeros(*x.shape[:2], x.shape[2] // HEAD, HEAD) for x in (q, k))
    tokens = q.shape[1] // FRAMES
    for reader, read in pairs:
        new_q[:, reader * tokens : (reader + 1) * tokens, :, reader] = 1.0
        new_k[:, read * tokens : (read + 1) * tokens, :, reader] = 1.0
    return new_q.flatten(2).to(q), new_k.flatten(2).to(k)


class Tests(ComfyExtension):
    async def get_node_list(self):
        return [MoCTestModel, MoCTestClip, MoCTestVae, MoCTestPlant]


async def comfy_entrypoint():
    return Tests()
