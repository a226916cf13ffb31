"""One shot of a finished film: the node that makes it again, or a new one, and leaves all others as they are."""

from __future__ import annotations

from comfy_api.latest import io

from ..moc.errors import MoCError
from ..moc.host.windows import remake_shot
from ..moc.windows import AS_MODEL, DO, KEPT, SEES, BankSettings, WindowSettings
from .types import MOST_FRAMES, MocShots, advanced, bank_inputs, decides, level_input, with_numbers
from .widgets.routing import read_blocks

OF_KEPT = ("frames", "level", "storage", "blocks", "budget")
ONLY_WHEN = {"shot": {"do": DO[:2]}, "length": {"do": DO[1:]}, **dict.fromkeys(OF_KEPT, {"sees": KEPT})}


class MoCRemake(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCRemake",
            display_name="MoC Remake",
            category="MoC",
            description="Makes one shot of a finished film again, or a new one in it. The shot sees all others and "
            "looks like them; the others come back bit for bit. Costs little more than the shot alone.",
            inputs=[
                io.Model.Input("model", tooltip="The video model. Sample with the model that comes out."),
                io.Latent.Input("film", tooltip="The finished film, as a sampler or VAE Encode gave it."),
                MocShots.Input("shots", tooltip="Where the finished film cuts."),
                decides(
                    io.Combo.Input(
                        "do",
                        optional=True,
                        options=list(DO),
                        default=DO[0],
                        tooltip="remake the shot: sample it anew. insert a shot behind it: the film gets longer, and "
                        "what follows moves back. continue the film by a shot: a new one at the end.",
                    ),
                    ONLY_WHEN,
                ),
                io.Int.Input(
                    "shot",
                    optional=True,
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Number of the shot, from 1. Not read when the film is continued.",
                ),
                io.Int.Input(
                    "length",
                    optional=True,
                    default=81,
                    min=1,
                    max=MOST_FRAMES,
                    tooltip="Frames of a new shot. A remade one keeps its length.",
                ),
                io.String.Input(
                    "prompt",
                    optional=True,
                    default="",
                    multiline=True,
                    placeholder="what happens in the shot",
                    tooltip="The shot's own text, in the shots that come out, for MoC Shot Conditioning. Empty: the "
                    "text that it has.",
                ),
                io.Combo.Input(
                    "sees",
                    optional=True,
                    options=list(SEES),
                    default=KEPT,
                    tooltip="kept frames: a few frames of every other shot, looked at once. whole film: all of it in "
                    "every step, which costs as much as sampling the film.",
                ),
                advanced(
                    io.Int.Input(
                        "frames",
                        optional=True,
                        default=1,
                        min=0,
                        max=MOST_FRAMES,
                        tooltip="Latent frames of every other shot that are kept. 1: the shot's first, which stands "
                        "for the whole shot. 0: all.",
                    )
                ),
                level_input("the kept frames"),
                advanced(
                    io.Int.Input(
                        "window",
                        optional=True,
                        default=81,
                        min=1,
                        max=MOST_FRAMES,
                        tooltip="Frames that the model can hold at once. A longer shot is sampled in several windows.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "overlap",
                        optional=True,
                        default=16,
                        min=0,
                        max=MOST_FRAMES,
                        tooltip="Frames that two windows share where the shot is longer than a window.",
                    )
                ),
                *bank_inputs("Only these of the model's transformer blocks look at the kept frames"),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model", display_name="model", tooltip="The model that samples this one shot of this film."
                ),
                io.Latent.Output("latent", display_name="latent", tooltip="What to sample, for the sampler."),
                MocShots.Output("new_shots", display_name="shots", tooltip="The shots of the film that is to come."),
            ],
        )

    @classmethod
    @with_numbers
    def execute(
        cls,
        model,
        film,
        shots,
        do=DO[0],
        shot=1,
        length=81,
        prompt="",
        sees=KEPT,
        frames=1,
        level=0.36,
        window=81,
        overlap=16,
        storage=AS_MODEL,
        blocks="",
        budget=0.0,
    ) -> io.NodeOutput:
        if sees not in SEES:
            raise MoCError(f"sees is {sees!r}; choose one of: {', '.join(SEES)}.")
        bank = None
        if sees == KEPT:
            bank = BankSettings(frames, storage, read_blocks(blocks), 0.0, budget)
        settings = WindowSettings(length=window, overlap=overlap)
        return io.NodeOutput(*remake_shot(model, film, shots, do, shot, length, prompt.strip(), settings, bank, level))


NODES = [MoCRemake]
