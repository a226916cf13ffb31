"""Shots that are found: in frames or a video, and in a latent."""

from __future__ import annotations

from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..moc.errors import MoCError
from ..moc.host.video import footage_of
from ..moc.shots.detect import BUILT_IN, DETECTORS
from ..moc.shots.detect.footage import Footage, ImageFootage, pick
from .render.contact_sheet import draw_sheet, frames_of, thumbnail_size
from .render.heatmap import as_image, draw_text
from .types import MocShots, advanced, with_numbers
from .widgets.detect import Found, find_in_latent, find_shots, take_scenes
from .widgets.shots import ANY_MODEL, FAMILY_NAMES


class MoCDetectShots(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCDetectShots",
            display_name="MoC Detect Shots",
            category="MoC",
            description="Finds where footage cuts, and makes shots of it for MoC. Connect images or video.",
            is_output_node=True,  # it has a picture to show even with nothing behind it
            inputs=[
                io.Image.Input("images", optional=True, tooltip="The frames of the footage, in order."),
                io.Video.Input("video", optional=True, tooltip="A video instead of images; it needs far less memory."),
                io.Combo.Input(
                    "detector",
                    options=list(DETECTORS),
                    default=BUILT_IN,
                    tooltip="built-in needs nothing else; it also finds fades and dissolves, and passes over flashes, "
                    "whip pans and changes of light. content, adaptive, histogram and hash are PySceneDetect's, "
                    "transnetv2 is a neural network; both only where their package is installed.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=255.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip="How clear a cut has to be; every detector has a scale of its own. 0: its usual value. "
                    "Raise it when too many cuts are found, lower it when some are missed.",
                ),
                io.Int.Input(
                    "min_length",
                    default=0,
                    min=0,
                    max=100_000,
                    optional=True,
                    tooltip="Frames of the shortest shot. 0: the detector's own (8; PySceneDetect 15).",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=0.01,
                    max=1000.0,
                    step=0.01,
                    optional=True,
                    tooltip="Frames per second of images. A video brings its own.",
                ),
                io.Combo.Input(
                    "family",
                    options=list(FAMILY_NAMES),
                    default=ANY_MODEL,
                    optional=True,
                    tooltip="The model that will use these shots: cuts move to the nearest place where it can cut, and "
                    "the report says so. any model: they stay, and move when sampling starts.",
                ),
                io.String.Input(
                    "scenes_json",
                    force_input=True,
                    optional=True,
                    tooltip="Scenes that another scene detection node has found. Nothing is detected then.",
                ),
            ],
            outputs=[
                MocShots.Output("shots", display_name="shots", tooltip="The shots, for MoC Apply or MoC Shots."),
                io.String.Output(
                    "cuts",
                    display_name="cuts",
                    tooltip="First frame of every new shot, as MoC Shots reads them in times.",
                ),
                io.String.Output(
                    "scenes", display_name="scenes_json", tooltip="The shots as scene detection nodes hand them on."
                ),
                io.Image.Output(
                    "contact_sheet",
                    display_name="contact sheet",
                    tooltip="First, middle and last frame of every shot, also shown on this node.",
                ),
                io.String.Output("report", display_name="report", tooltip="What was found, and what was moved."),
            ],
        )

    @classmethod
    @with_numbers
    def execute(
        cls,
        detector,
        images=None,
        video=None,
        threshold=0.0,
        min_length=0,
        fps=16.0,
        family=ANY_MODEL,
        scenes_json=None,
    ) -> io.NodeOutput:
        if images is not None and video is not None:
            raise MoCError("images and video are both connected to MoC Detect Shots: disconnect one.")
        footage = ImageFootage(images, fps) if images is not None else footage_of(video) if video is not None else None
        bar = Bar(footage)
        if scenes_json:
            fps, length = (footage.fps, footage.count) if footage else (fps, None)
            found = take_scenes(scenes_json, fps, length, family)
        elif footage is None:
            raise MoCError("nothing to look at: connect images, video or scenes_json to MoC Detect Shots.")
        else:
            found = find_shots(footage, detector, threshold, min_length, family, bar.look)
        sheet = as_image(draw(footage, found, bar))
        shown = ui.PreviewImage(sheet, cls=cls).as_dict() | {"text": (found.report,)}
        return io.NodeOutput(found.shots, found.times, found.scenes, sheet, found.report, ui=shown)


class Bar:
    """The node's progress: a look at all frames, then another one for the contact sheet. It also stops the run."""

    def __init__(self, footage: Footage | None) -> None:
        self.frames = (footage.count if footage else None) or 1
        self.bar = ProgressBar(2 * self.frames)

    def look(self, seen: int) -> None:
        self.bar.update_absolute(min(seen, self.frames))

    def pick(self, seen: int) -> None:
        self.bar.update_absolute(self.frames + min(seen, self.frames))


def draw(footage: Footage | None, found: Found, bar: Bar):
    if footage is None or found.length is None:
        return draw_text("Connect images or video to see a picture of every shot.")
    first = next(iter(footage.read()))
    size = thumbnail_size(*first.shape[1:3])
    pictures = pick(footage, frames_of(found.cuts, found.length), size, bar.pick)
    return draw_sheet(pictures, found.cuts, found.length, footage.fps)


class MoCDetectShotsLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCDetectShotsLatent",
            display_name="MoC Detect Shots (latent)",
            category="MoC",
            description="Finds where the video in a LATENT cuts, without decoding it: for video-to-video and for going "
            "on with a video.",
            inputs=[
                io.Latent.Input("latent", tooltip="An encoded or sampled video, or a row of images."),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=255.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip="How many times the usual change between frames a cut has to be. 0: the usual value. Raise "
                    "it when too many cuts are found, lower it when some are missed.",
                ),
                advanced(
                    io.Int.Input(
                        "min_length",
                        default=0,
                        min=0,
                        max=10_000,
                        optional=True,
                        tooltip="Latent frames of the shortest shot. 0: 2.",
                    )
                ),
            ],
            outputs=[
                MocShots.Output(
                    "shots", display_name="shots", tooltip="The shots in latent frames, for MoC Apply or MoC Shots."
                ),
                io.String.Output("report", display_name="report", tooltip="The shots in one sentence."),
            ],
        )

    @classmethod
    @with_numbers
    def execute(cls, latent, threshold=0.0, min_length=0) -> io.NodeOutput:
        samples = latent["samples"]
        if getattr(samples, "is_nested", False):  # video and sound in one LATENT; the video comes first
            samples = samples.unbind()[0]
        shots, report = find_in_latent(samples, threshold, min_length)
        return io.NodeOutput(shots, report, ui={"text": (report,)})


NODES = [MoCDetectShots, MoCDetectShotsLatent]
