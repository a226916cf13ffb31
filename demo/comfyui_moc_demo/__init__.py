"""Nodes of the Mixture of Contexts demo: what its small model is told, and how alike its characters come out.

They belong to the demo model alone and are no part of the node pack.
"""

import json

import torch
from comfy_api.latest import ComfyExtension, io, ui

from . import storyboard as sb

PROMPT = "\n[shot cut] ".join(
    (
        "yellow over green gradient, close, right",
        "blue over white moon, close, up",
        "orange over red sea, wide, hop right",
        "teal over navy hills, close, left",
        "pink over purple gradient, close, turn right",
        "white over grey hills, close, down",
    )
)


def control_video(box):
    """The boxes as a film: red and green are the place in the box, blue says that there is one."""
    at = torch.arange(sb.SIZE) + 0.5
    left, top, cell = box[..., None].unbind(1)
    u, v = (at - left) / (sb.CELLS * cell), (at - top) / (sb.CELLS * cell)
    inside = (((u > 0) & (u < 1))[:, None, :] & ((v > 0) & (v < 1))[:, :, None]).float()
    return torch.stack((u[:, None, :] * inside, v[:, :, None] * inside, inside), -1).clamp(0, 1)


class Storyboard(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MoCDemoStoryboard",
            display_name="MoC Demo Storyboard",
            category="MoC/demo",
            description="Six shots for the demo model: where the character is and what the background looks like, "
            "never what the character looks like.",
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default=PROMPT,
                    tooltip=(
                        "Up to six shots, separated by [shot cut]. A shot may name two colours (above, below), a "
                        "scene, a view, a heading and a path; the rest is drawn from the seed. Known words: "
                        + ", ".join(sb.VOCABULARY)
                        + "."
                    ),
                ),
                io.Int.Input("seed", default=0, min=0, max=2**32 - 1, tooltip="Draws what the prompt leaves open."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning"),
                io.Latent.Output(display_name="latent"),
                io.Image.Output(display_name="control"),
                io.String.Output(
                    display_name="storyboard", tooltip="Boxes and shots as JSON, for MoC Demo Similarity."
                ),
                io.String.Output(display_name="cuts", tooltip="First frame of shots two to six, for MoC Shots."),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt=None):
        if prompt is not None and len(sb.SHOT_CUT.split(prompt)) > sb.SHOTS:
            return f"the demo model knows {sb.SHOTS} shots: use at most {sb.SHOTS - 1} [shot cut] marks."
        return True

    @classmethod
    def execute(cls, prompt, seed):
        shots, unknown = sb.parse(prompt, seed)
        box, control = sb.joined([sb.boxes(shots)])
        side = sb.SIZE // 8
        conditioning = [[sb.context(shots), {"concat_latent_image": control}]]
        latent = {"samples": torch.zeros(1, 16, sb.LATENT_FRAMES, side, side)}
        tokens = sb.LATENT_FRAMES * (side // 2) ** 2
        board = {
            "boxes": box.tolist(),
            "shot_of_frame": sb.SHOT_OF_FRAME,
            "tokens": tokens,
            "shots": [{k: shot[k] for k in ("upper", "lower", "scene", "cell")} for shot in shots],
        }
        lines = [
            f"{i}: {s['upper']} over {s['lower']}, {s['scene']}, {s['cell']} pixels a cell"
            for i, s in enumerate(shots, 1)
        ]
        if unknown:
            lines.append("not understood: " + ", ".join(dict.fromkeys(unknown)))
        return io.NodeOutput(
            conditioning,
            latent,
            control_video(box),
            json.dumps(board),
            ", ".join(map(str, sb.CUTS)),
            ui=ui.PreviewText("\n".join(lines)),
        )


class Film(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MoCDemoFilm",
            display_name="MoC Demo Film",
            category="MoC/demo",
            description="A film of any multiple of six shots for the demo model, which tells six apart: their numbers "
            "begin again after every six, and every six need their own words (MoC Shot Conditioning).",
            inputs=[
                io.String.Input("prompt", multiline=True, tooltip="As in MoC Demo Storyboard, with more shots."),
                io.Int.Input("seed", default=0, min=0, max=2**32 - 1, tooltip="Draws what the prompt leaves open."),
                io.Int.Input("shots", default=24, min=sb.SHOTS, max=96, step=sb.SHOTS),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="One of every six shots, with the whole control.",
                ),
                io.Latent.Output(display_name="latent"),
                io.String.Output(display_name="storyboard"),
                io.String.Output(
                    display_name="cuts", tooltip="First frame of every shot but the first, for MoC Shots."
                ),
                io.String.Output(display_name="cuts_of_sixes", tooltip="The same of every six shots."),
            ],
        )

    @classmethod
    def execute(cls, prompt, seed, shots):
        texts, sixes = sb.SHOT_CUT.split(prompt), range(0, shots, sb.SHOTS)
        if shots % sb.SHOTS or len(texts) > shots:
            raise ValueError(
                f"shots is {shots}: use a multiple of {sb.SHOTS}, not less than the {len(texts)} of the prompt."
            )
        boards = [sb.parse("[shot cut]".join(texts[i : i + sb.SHOTS]), seed + i)[0] for i in sixes]
        box, control = sb.joined([sb.boxes(board) for board in boards])
        side, cuts = sb.SIZE // 8, sb.first_frames(shots)
        board = {
            "boxes": box.tolist(),
            "shot_of_frame": [sum(frame >= cut for cut in cuts) for frame in range(len(box))],
            "tokens": control.shape[2] * (side // 2) ** 2,
        }
        return io.NodeOutput(
            [[[sb.context(board), {"concat_latent_image": control}]] for board in boards],
            {"samples": torch.zeros(1, 16, control.shape[2], side, side)},
            json.dumps(board),
            ", ".join(map(str, cuts)),
            ", ".join(map(str, sb.first_frames(shots, sb.SHOTS))),
        )


class Similarity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MoCDemoSimilarity",
            display_name="MoC Demo Similarity",
            category="MoC/demo",
            is_output_node=True,
            description="How alike the character is between shots and within them: 1 is the same, 0 an unrelated one.",
            inputs=[
                io.Image.Input("frames", tooltip="The decoded video."),
                io.String.Input("storyboard", force_input=True, tooltip="From MoC Demo Storyboard."),
            ],
            outputs=[
                io.Image.Output(display_name="video"),
                io.Float.Output(display_name="between"),
                io.Float.Output(display_name="within"),
                io.Image.Output(display_name="sheet", tooltip="The middle frame of every shot, twelve in a row."),
            ],
        )

    @classmethod
    def execute(cls, frames, storyboard):
        board = json.loads(storyboard)
        found = sb.similarity(frames, board["boxes"], board["shot_of_frame"])
        found["tokens"] = board["tokens"]
        sheet = sb.sheet(frames, board["shot_of_frame"])
        return io.NodeOutput(frames, found["between"], found["within"], sheet, ui=ui.PreviewText(json.dumps(found)))


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Storyboard, Film, Similarity]


async def comfy_entrypoint():
    return Extension()
