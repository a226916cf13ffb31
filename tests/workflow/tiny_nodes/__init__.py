"""Nodes for the workflow and browser tests: a tiny random Wan model and all that it needs, and planted attention."""

import functools
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import comfy.sd
import safetensors.torch
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
            inputs=[
                io.String.Input("variant", optional=True, default="t2v"),
                io.Boolean.Input("from_file", optional=True, default=False, tooltip="as training needs it"),
            ],
            outputs=[io.Model.Output(display_name="model"), io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, variant="t2v", from_file=False):
        if not from_file:
            return io.NodeOutput(tiny().load(variant), [[tiny().random(1, tiny().TEXT, 4096, seed=2), {}]])
        with tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False) as file:
            safetensors.torch.save_file(tiny().weights(variant), file.name)
        return io.NodeOutput(comfy.sd.load_diffusion_model(file.name), [])


@functools.cache
def tiny():
    spec = importlib.util.spec_from_file_location("moc_tests_tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Clip:
    """As much of a text encoder as graphs ask for: every text has tokens of its own."""

    def __init__(self, variant):
        self.variant = variant

    def tokenize(self, text, images=()):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        generator = torch.Generator().manual_seed(sum(map(ord, tokens)))
        tall, wide = self.variant.text
        return [[torch.randn(1, tall, wide, generator=generator), self.variant.conds((1, *self.variant.latent))]]


class Vae:
    """As much of a VAE as graphs ask for: shapes, and pictures that move."""

    # pixels in a latent, frames in so many latent frames and the reverse
    SIZES = {
        "Wan": (8, lambda n: 4 * n - 3, lambda n: (n - 1) // 4 + 1),
        "HunyuanVideo": (16, lambda n: 4 * n - 3, lambda n: (n - 1) // 4 + 1),
        "LTX-2": (32, lambda n: 8 * n - 7, lambda n: (n - 1) // 8 + 1),
        "MiniMax H3": (16, lambda n: (n - 2) // 5 * 17 + 5, lambda n: 1),
    }

    def __init__(self, variant):
        self.channels = variant.latent[0]
        self.side, self.frames, self.latents = next(
            size for name, size in self.SIZES.items() if variant.model.startswith(name)
        )

    def encode(self, pixels):
        frames, height, width = pixels.shape[-4:-1]
        return torch.zeros(1, self.channels, self.latents(frames), height // self.side, width // self.side)

    def decode(self, latent):
        frames, height, width = latent.shape[-3:]
        return torch.rand(1, self.frames(frames), self.side * height, self.side * width, 3)


class SoundVae:
    """As much of an audio VAE."""

    latent_channels, audio_sample_rate = 8, 16000

    def __init__(self):
        self.first_stage_model = SimpleNamespace(
            latent_frequency_bins=16, num_of_latents_from_frames=lambda frames, rate: 9, output_sample_rate=16000
        )

    def decode(self, latent):
        return torch.rand(1, 80_000, 2)


class MoCTestClip(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("variant", optional=True, default="t2v")]
        return io.Schema(node_id="MoCTestClip", category="tests", inputs=inputs, outputs=[io.Clip.Output()])

    @classmethod
    def execute(cls, variant="t2v"):
        return io.NodeOutput(Clip(tiny().variant_of(variant)))


class MoCTestVae(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [
            io.String.Input("variant", optional=True, default="t2v"),
            io.Boolean.Input("sound", optional=True, default=False),
        ]
        return io.Schema(node_id="MoCTestVae", category="tests", inputs=inputs, outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls, variant="t2v", sound=False):
        return io.NodeOutput(SoundVae() if sound else Vae(tiny().variant_of(variant)))


class MoCTestClips(io.ComfyNode):
    """A folder of two clips with their texts."""

    @classmethod
    def define_schema(cls):
        outputs = [io.Image.Output(is_output_list=True), io.String.Output(is_output_list=True)]
        return io.Schema(node_id="MoCTestClips", category="tests", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput([torch.rand(9, 64, 64, 3), torch.rand(17, 64, 64, 3)], ["a dog", "a cat"])


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
        return [MoCTestModel, MoCTestClip, MoCTestVae, MoCTestClips, MoCTestPlant]


async def comfy_entrypoint():
    return Tests()
