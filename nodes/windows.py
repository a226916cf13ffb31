"""Videos longer than a window: the node that samples them window by window, along the shots."""

from __future__ import annotations

from comfy_api.latest import io

from ..moc.errors import MoCError
from ..moc.host.windows import apply_windows
from ..moc.windows import AS_MODEL, BANK, FOLLOW, FUSE, OF_SHOT, OFF, WEIGHT, BankSettings, WindowSettings
from .types import MOST_FRAMES, MocShots, advanced, bank_inputs, decides
from .widgets.routing import read_blocks, read_numbers

FIRST_SHOTS = "1-4"  # over 24 shots the likeness of all, at twice the contrast and a tenth of the error in place
OF_BANK = ("bank_frames", "bank_storage", "bank_blocks", "bank_from", "bank_budget", "bank_shots", "bank_weight")
ONLY_WHEN = {"draw_seed": {"windows": FOLLOW[0]}, **dict.fromkeys(OF_BANK, {"bank": "on"})}


class MoCWindows(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        storage, blocks, budget = bank_inputs(
            "Only these of the model's transformer blocks look at the other windows",
            prefix="bank_",
            storage="8 bit takes half of the memory, 4 bit a quarter. No difference was seen in either.",
            fewer=" Fewer blocks take less memory and time.",
            kept="the bank",
            rest="The rest of it goes",
        )
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
                decides(
                    io.Combo.Input(
                        "windows",
                        optional=True,
                        options=list(FOLLOW),
                        default=FOLLOW[0],
                        tooltip="shots, drawn anew: different shots share a window at every step. shots: as many "
                        "neighbouring shots as fit into a window. The others are ComfyUI's own schedules, which ignore "
                        "shots.",
                    ),
                    ONLY_WHEN,
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
                io.Combo.Input(
                    "bank",
                    optional=True,
                    options=list(BANK),
                    default=OFF,
                    tooltip="on: every window also looks at a few frames of the first shots (bank_shots), so that a "
                    "character stays the same from window to window. For windows that hold one to three shots; where "
                    "they hold six or more, drawing them anew does as much. Costs memory and a little time.",
                ),
                advanced(
                    io.Int.Input(
                        "bank_frames",
                        optional=True,
                        default=1,
                        min=0,
                        max=MOST_FRAMES,
                        tooltip="Latent frames of every shot that other windows look at. 1: the shot's first, which "
                        "stands for the whole shot. 0: all. More frames cost memory, time and contrast.",
                    )
                ),
                storage,
                blocks,
                advanced(
                    io.Float.Input(
                        "bank_from",
                        optional=True,
                        default=0.0,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        tooltip="Part of the sampling after which windows begin to look at each other. Looks are "
                        "settled late, so that a third of it can go without.",
                    )
                ),
                budget,
                io.String.Input(
                    "bank_shots",
                    optional=True,
                    default=FIRST_SHOTS,
                    tooltip="The shots that all windows look at, when bank is on, like 1-4 or 1, 3. Choose a few that "
                    "show everybody well: more of them cost contrast and let backgrounds leak. Empty: all.",
                ),
                advanced(
                    io.Combo.Input(
                        "bank_weight",
                        optional=True,
                        options=list(WEIGHT),
                        default=OF_SHOT,
                        tooltip="What kept frames count for. its shot: each as much as the shot it stands for. the "
                        "window: all of them together at least twice as much as a window holds, so that windows of "
                        "many shots do not out-vote them.",
                    )
                ),
                io.Mask.Input(
                    "bank_mask",
                    optional=True,
                    tooltip="What of the kept frames other windows look at: one mask for the whole video, or one for "
                    "every frame of it. Without it backgrounds leak.",
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
        bank=OFF,
        bank_frames=1,
        bank_storage=AS_MODEL,
        bank_blocks="",
        bank_from=0.0,
        bank_budget=0.0,
        bank_shots=FIRST_SHOTS,
        bank_weight=OF_SHOT,
        bank_mask=None,
    ) -> io.NodeOutput:
        settings = WindowSettings(windows, length, overlap, draw_seed, fuse_method, keep_first)
        if bank not in BANK:
            raise MoCError(f"bank is {bank!r}; choose one of: {', '.join(BANK)}.")
        kept = None
        if bank != OFF:
            shots_kept = tuple(number - 1 for number in read_numbers(bank_shots, 1, "shots"))
            blocks = read_blocks(bank_blocks)
            kept = BankSettings(bank_frames, bank_storage, blocks, bank_from, bank_budget, shots_kept, bank_weight)
        mask = None if bank_mask is None else bank_mask.reshape(-1, *bank_mask.shape[-2:])
        return io.NodeOutput(apply_windows(model, shots, settings, kept, mask))


NODES = [MoCWindows]
