"""What was made before or comes from outside: the node that names it, and the node that lets a model remember it."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..moc.errors import MoCError
from ..moc.host.windows import Recall, apply_recall
from ..moc.windows import AS_MODEL, CHARACTER, CLIP, KINDS, READ, BankSettings, Memory, WindowSettings
from .types import MOST_FRAMES, MocMemory, MocShots, advanced, bank_inputs, decides, level_input, with_numbers
from .widgets.routing import read_blocks


class MoCMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCMemory",
            display_name="MoC Memory",
            category="MoC",
            description="Names an earlier clip, a picture or a character, so that MoC Recall can let a model remember "
            "it. Several are connected one behind the other.",
            inputs=[
                io.String.Input("name", default="anna", tooltip="What prompts call it: [use: anna] in a shot's text."),
                decides(
                    io.Combo.Input(
                        "kind",
                        options=list(KINDS),
                        default=CLIP,
                        tooltip="clip: frames in order. picture: every frame stands alone. character: the same, and "
                        "only what the mask shows is remembered.",
                    ),
                    {"frames": {"kind": CLIP}},
                ),
                io.Latent.Input(
                    "latent", optional=True, tooltip="What a sampler made, from the VAE of the model that remembers it."
                ),
                io.Image.Input("image", optional=True, tooltip="Instead of latent: pictures, or the frames of a clip."),
                io.Vae.Input("vae", optional=True, tooltip="For image: the VAE of the model that remembers it."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is to be remembered: one for all frames, or several in the order of the frames. "
                    "Without it backgrounds leak.",
                ),
                io.Conditioning.Input(
                    "made_with",
                    optional=True,
                    tooltip="The prompt that a clip was made with, if it had a control video or start image. Not "
                    "connected: the prompt of the sampler that remembers it, without these.",
                ),
                MocMemory.Input("memories", optional=True, tooltip="Memories that come before this one."),
                io.Int.Input(
                    "frames",
                    optional=True,
                    default=4,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Latent frames of a clip that are kept, evenly; they stand for all of it. 0: all.",
                ),
                io.Float.Input(
                    "strength",
                    optional=True,
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="How much it counts. More makes shots agree more with it, and leaks more.",
                ),
            ],
            outputs=[
                MocMemory.Output("memory", display_name="memories", tooltip="For MoC Recall or a next MoC Memory.")
            ],
        )

    @classmethod
    @with_numbers
    def execute(
        cls,
        name,
        kind=CLIP,
        latent=None,
        image=None,
        vae=None,
        mask=None,
        made_with=None,
        memories=(),
        frames=4,
        strength=1.0,
    ) -> io.NodeOutput:
        if not name.strip():
            raise MoCError("give the memory a name.")
        if kind not in KINDS:
            raise MoCError(f"kind is {kind!r}; choose one of: {', '.join(KINDS)}.")
        if (latent is None) == (image is None) or (image is None) != (vae is None):
            raise MoCError("connect either latent, or image and vae, to MoC Memory.")
        if kind == CHARACTER and mask is None:
            raise MoCError("a character needs a mask, which shows where it is: connect one, or choose picture.")
        if made_with is not None and len(made_with) != 1:
            raise MoCError("made_with must be one conditioning, not several combined.")
        latents = _latents(kind, latent, image, vae)
        if mask is not None:
            mask = mask.reshape(-1, *mask.shape[-2:])
            if not mask.flatten(1).any(1).all():
                raise MoCError(f"the mask of {name.strip()!r} is empty: paint what is to be remembered.")
        memory = Memory(name.strip(), latents, mask, frames, strength, made_with)
        return io.NodeOutput((*(memories or ()), memory))


def _latents(kind: str, latent: dict | None, image, vae) -> tuple[torch.Tensor, ...]:
    """[1, C, T, H, W] each."""
    if latent is None:
        batches = [image] if kind == CLIP else image.split(1)
        found = [vae.encode(batch[..., :3]) for batch in batches]
    else:
        found = [latent["samples"]]
    if any(getattr(x, "is_nested", False) or x.ndim not in (4, 5) for x in found):
        raise MoCError("MoC Memory takes pictures and videos without sound.")
    alone = [one for x in found for one in (x.unsqueeze(2) if x.ndim == 4 else x).split(1)]
    return tuple(alone) if kind == CLIP else tuple(frame for one in alone for frame in one.split(1, 2))


class MoCRecall(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCRecall",
            display_name="MoC Recall",
            category="MoC",
            description="Lets a model remember what MoC Memory names: the next clip shows the same character as the "
            "first. Costs one look at every memory, and memory for what is kept.",
            inputs=[
                io.Model.Input("model", tooltip="The video model, before or after MoC Windows and MoC Apply."),
                MocMemory.Input("memories", tooltip="From MoC Memory."),
                MocShots.Input(
                    "shots", optional=True, tooltip="From MoC Shots, whose prompts may say [use: anna] shot by shot."
                ),
                io.Combo.Input(
                    "read",
                    optional=True,
                    options=list(READ),
                    default=READ[0],
                    tooltip="as the prompts say: every shot reads the memories it names; where no shot names any, all "
                    "read all. Of several with one name the first counts, since copies of copies drift. all: every "
                    "shot reads everything.",
                ),
                advanced(
                    io.Int.Input(
                        "length",
                        optional=True,
                        default=81,
                        min=1,
                        max=MOST_FRAMES,
                        tooltip="Frames by which what is remembered stands before the video: the length that the model "
                        "was made for.",
                    )
                ),
                level_input("memories"),
                *bank_inputs("Only these of the model's transformer blocks remember"),
            ],
            outputs=[io.Model.Output("patched_model", display_name="model", tooltip="The model that remembers.")],
        )

    @classmethod
    @with_numbers
    def execute(
        cls,
        model,
        memories,
        shots=None,
        read=READ[0],
        length=81,
        level=0.36,
        storage=AS_MODEL,
        blocks="",
        budget=0.0,
    ) -> io.NodeOutput:
        bank = BankSettings(0, storage, read_blocks(blocks), 0.0, budget)
        window = WindowSettings(length=length, overlap=0)
        return io.NodeOutput(apply_recall(model, Recall(memories, shots, read, bank, window, level)))


NODES = [MoCMemory, MoCRecall]
