"""Videos longer than a window: the node that samples them window by window, along the shots."""

from __future__ import annotations

from comfy_api.latest import io

from ..moc.host.windows import apply_windows
from ..moc.windows import FOLLOW, FUSE, WindowSettings
from .types import MocShots, advanced

MOST_FRAMES = 1_000_000


class MoCWindows(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCWindows",
            display_name="MoC Windows",
            category="MoC",
            description="Samples a video that is longer than the model can hold, in windows that follow the shots. "
            "Drawn anew at every step, they keep characters alike in all shots.",
            inputs=[
                io.Model.Input("model", tooltip="A video model, before or after MoC Apply, or without it."),
                MocShots.Input(
                    "shots", optional=True, tooltip="Where the video cuts. Not connected: one shot, cut with overlap."
                ),
                io.Combo.Input(
                    "windows",
                    optional=True,
                    options=list(FOLLOW),
                    default=FOLLOW[0],
                    tooltip="shots, drawn anew: different shots share a window at every step. shots: as many "
                    "neighbouring shots as fit into a window. The others are ComfyUI's own schedules, which ignore "
                    "shots.",
                ),
                io.Int.Input(
                    "length",
                    optional=True,
                    default=81,
                    min=1,
                    max=MOST_FRAMES,
                    tooltip="Frames of the finished video that a window holds at most: what the model was made for, "
                    "or what fits into memory.",
                ),
                io.Int.Input(
                    "overlap",
                    optional=True,
                    default=16,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Frames that two windows share where a shot is longer than a window, and in ComfyUI's own "
                    "schedules. Whole shots never overlap.",
                ),
                io.Int.Input(
                    "draw_seed",
                    optional=True,
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Only for shots, drawn anew: another number groups the shots differently.",
                ),
                advanced(
                    io.Boolean.Input(
                        "keep_first",
                        optional=True,
                        default=False,
                        tooltip="Put the video's first latent frame into every window: the start image of an image-to-"
                        "video model is then seen by all of them. Costs one latent frame a window.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "fuse_method",
                        optional=True,
                        options=list(FUSE),
                        default=FUSE[0],
                        tooltip="How ComfyUI blends frames that several windows share.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="model", tooltip="The model that samples in windows.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        shots=None,
        windows=FOLLOW[0],
        length=81,
        overlap=16,
        draw_seed=0,
        keep_first=False,
        fuse_method=FUSE[0],
    ) -> io.NodeOutput:
        settings = WindowSettings(windows, length, overlap, draw_seed, fuse_method, keep_first)
        return io.NodeOutput(apply_windows(model, shots, settings))


NODES = [MoCWindows]
