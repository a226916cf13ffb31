"""Where the video cuts: the node that makes MOC_SHOTS by hand."""

from __future__ import annotations

from dataclasses import asdict

from comfy_api.latest import io

from ..moc.errors import MoCError
from ..moc.shots.detect.scenes_json import read_scenes
from ..moc.shots.time_rules import FAMILIES
from .types import MocShots, advanced, check_ranges, decides, with_numbers
from .widgets.shots import (
    ANY_MODEL,
    FAMILY_NAMES,
    HOW,
    UNITS,
    at_borders,
    for_timeline,
    in_film_frames,
    read_shots,
    tell_shots,
)

FPS = 16.0  # of Wan 2.1
TIMED = {"how": ("cuts", "durations", "prompt")}
ONLY_WHEN = {"times": TIMED, "unit": TIMED, "shot_count": {"how": "equal shots"}}


def with_time_rules(widget: io.Combo.Input) -> io.Combo.Input:
    """The timeline in the browser snaps by the same rules: they travel in the input's description."""
    widget.extra_dict["time_rules"] = {name: asdict(rule) for name, rule in FAMILIES.items()}
    return widget


class MoCShots(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCShots",
            display_name="MoC Shots",
            category="MoC",
            description="Says where the video cuts, so that MoC can remember from shot to shot.",
            inputs=[
                decides(
                    io.Combo.Input(
                        "how",
                        options=list(HOW),
                        default="cuts",
                        tooltip="cuts: times holds the first frame of every new shot. durations: times holds the "
                        "length of every shot. equal shots: shot_count shots of the same length. prompt: one shot per "
                        "text between [shot cut] marks, of the same length unless times or the marks hold their "
                        "durations. detected: the shots connected to detected.",
                    ),
                    ONLY_WHEN,
                ),
                io.String.Input(
                    "times",
                    optional=True,
                    default="",
                    multiline=True,
                    placeholder="29, 57   or   1.8s, 3.5s",
                    tooltip="Cuts or durations, separated by commas, spaces or lines. A number can bring its own unit: "
                    "2.5s is seconds, 40f is frames. Empty: a single shot.",
                ),
                io.Combo.Input(
                    "unit",
                    optional=True,
                    options=list(UNITS),
                    default="frames",
                    tooltip="What a number in times means when it has no s or f: frames of the finished video "
                    "(not latent frames), or seconds.",
                ),
                io.Float.Input(
                    "fps",
                    optional=True,
                    default=FPS,
                    min=0.01,
                    max=1000.0,
                    step=0.01,
                    tooltip="Frames per second of the finished video; turns seconds into frames. Wan 2.1 makes 16.",
                ),
                io.Int.Input(
                    "shot_count",
                    optional=True,
                    default=3,
                    min=1,
                    max=1000,
                    tooltip="How many shots; only read when how is equal shots.",
                ),
                io.String.Input(
                    "prompt",
                    optional=True,
                    default="",
                    multiline=True,
                    placeholder="[global] what all shots share [shot 1] first shot [shot cut] second shot",
                    tooltip="What happens, shot by shot: texts with [shot cut] between them. Text after [global] and "
                    "before [shot 1] belongs to every shot, and so does a prompt without any mark. A mark may name its "
                    'shot and say how long it lasts: [shot 2 "the door": 3s].',
                ),
                advanced(
                    io.Int.Input(
                        "length",
                        optional=True,
                        default=0,
                        min=0,
                        max=1_000_000,
                        tooltip="Frames of the finished video, so that cuts are checked before sampling. 0: as many as "
                        "the latent holds.",
                    )
                ),
                with_time_rules(
                    io.Combo.Input(
                        "family",
                        optional=True,
                        options=list(FAMILY_NAMES),
                        default=ANY_MODEL,
                        tooltip="The model that makes the video. It can cut only between the groups of frames that its "
                        "VAE joins (4 or 8, say): cuts snap to those places and the summary says what was moved. any "
                        "model: cuts stay where they are and are moved when sampling starts.",
                    )
                ),
                io.MultiType.Input(
                    "detected",
                    [MocShots, io.String],
                    optional=True,
                    tooltip="Shots found in footage, those of another MoC Shots, or scenes_json of a scene detection "
                    "node. After a run the timeline can take them over; with how = detected they are used as they are.",
                ),
            ],
            outputs=[
                MocShots.Output("shots", display_name="shots", tooltip="The shots, for MoC Apply."),
                io.String.Output(
                    "whole_prompt",
                    display_name="prompt",
                    tooltip="The whole prompt without its marks, for one text encoder that serves all shots.",
                ),
                io.String.Output(
                    "shot_prompts",
                    display_name="shot prompts",
                    is_output_list=True,
                    tooltip="One prompt per shot (the global text, then its own), as a list: what follows runs once "
                    "per shot, for example to make a key frame of each.",
                ),
                io.String.Output("summary", display_name="summary", tooltip="The shots in one sentence."),
            ],
        )

    @classmethod
    def validate_inputs(cls, how, times="", unit="frames", fps=FPS) -> bool | str:
        # Only what says where the cuts are: the host marks every input named here as wrong, so the fewer the better.
        linked = None in (how, times, unit, fps)  # known only later
        try:
            check_ranges(cls, {"how": how, "unit": unit, "fps": fps})
            if not linked and how in ("cuts", "durations"):
                read_shots(how, times, unit, fps)
        except MoCError as error:
            return str(error)
        return True

    @classmethod
    @with_numbers
    def execute(cls, family=ANY_MODEL, detected=None, **widgets) -> io.NodeOutput:
        if isinstance(detected, str):
            detected = read_scenes(detected, widgets.get("fps", FPS))
        shots, whole, each = read_shots(**widgets, family=family, detected=detected)
        shots, notes = at_borders(shots, family)
        ui = {"moc_shots": [for_timeline(shots)]}
        if detected is not None and (detected.unit == "video" or family != ANY_MODEL):
            ui["moc_detected"] = [for_timeline(in_film_frames(detected, family))]
        return io.NodeOutput(shots, whole, each, " ".join((tell_shots(shots), *notes)), ui=ui)


NODES = [MoCShots]
