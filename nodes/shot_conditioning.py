"""A prompt for every shot: the node that gives each shot's frames their own caption."""

from __future__ import annotations

from comfy_api.latest import io

from ..moc.errors import MoCError
from ..moc.host.adapters import class_of
from ..moc.host.captions import can_split, join_captions, read_by_shot
from .types import MocShots


class MoCShotConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCShotConditioning",
            display_name="MoC Shot Conditioning",
            category="MoC",
            description="Gives every shot its own prompt: each frame reads the text of its shot and what is common to "
            "all, not the text of the others. Where a model cannot do that it reads all texts together.",
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The video model. Use the model that comes out for sampling."),
                MocShots.Input("shots", tooltip="From MoC Shots, with a prompt that has a text for every shot."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder that fits the model."),
                io.Conditioning.Input(
                    "captions",
                    optional=True,
                    tooltip="Instead of clip: one conditioning per shot, as a list. Any text encoder node makes it of "
                    "the shot prompts of MoC Shots.",
                ),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="model", tooltip="The model that reads shot by shot."),
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="All shots' texts, for the sampler's positive."
                ),
                io.String.Output("report", display_name="report", tooltip="Who reads what, in one sentence."),
            ],
        )

    @classmethod
    def execute(cls, model, shots, clip=None, captions=None) -> io.NodeOutput:
        model, shots, clip = model[0], shots[0], clip[0] if clip else None
        if (clip is None) == (not captions):
            raise MoCError(
                "connect either clip or captions to MoC Shot Conditioning, not both: clip makes the captions itself."
                if captions
                else "connect clip to MoC Shot Conditioning: it makes a caption of every shot's prompt."
            )
        if clip is not None and not any(shots.prompts):
            raise MoCError("the shots have no prompts: write one into MoC Shots, with [shot cut] between the shots.")
        if len(captions or ()) > shots.count == 1:
            raise MoCError(f"{len(captions)} captions for 1 shot: add cuts in MoC Shots, or connect a single caption.")
        if shots.count == 1 or not (shots.texts or captions):
            return io.NodeOutput(
                model, captions[0] if captions else encode(clip, shots.prompts[0]), "One text for all."
            )
        name = class_of(model.model.diffusion_model)
        if can_split(model):
            made = {text: encode(clip, text) for text in dict.fromkeys(shots.prompts)} if clip is not None else {}
            joined = join_captions([made[text] for text in shots.prompts] if made else captions, shots)
            return io.NodeOutput(
                read_by_shot(model), joined, f"Each of {shots.count} shots reads its own text ({name})."
            )
        if clip is None:
            raise MoCError(
                f"{name} cannot read a text of its own in every shot: connect clip instead of captions, and all shots "
                "read all texts together."
            )
        report = f"All {shots.count} shots read all texts together: {name} cannot read a text of its own in every shot."
        return io.NodeOutput(model, encode(clip, shots.whole), report)


def encode(clip, text: str) -> list:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


NODES = [MoCShotConditioning]
