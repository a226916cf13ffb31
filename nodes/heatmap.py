"""The routing heatmap: who read whom, as an image and as text."""

from __future__ import annotations

import json

from comfy_api.latest import io, ui
from PIL import Image

from ..moc.host.web import push
from ..moc.trace.heatmap import BANK, VIEWS, Heatmap, bank_links, flow, heatmap, links
from ..moc.trace.trace import Trace
from .render.flow import draw_flow
from .render.heatmap import as_image, draw, draw_text
from .render.thumbnails import contact_sheet
from .types import MocTrace, advanced, with_numbers

FLOW = "flow"
NO_TRACE = "MoC: nothing was routed. MoC Apply is bypassed, or its trace is not connected."


class MoCRoutingHeatmap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCRoutingHeatmap",
            display_name="MoC Routing Heatmap",
            category="MoC",
            description="Shows which parts of the video read which others while sampling. Connect the sampler's LATENT "
            "to after_sample, so that this node runs after it.",
            is_output_node=True,
            inputs=[
                MocTrace.Input("trace", optional=True, tooltip="From MoC Apply."),
                io.Latent.Input(
                    "after_sample",
                    optional=True,
                    tooltip="The sampler's result. It is passed through untouched; it makes this node wait for it.",
                ),
                io.Combo.Input(
                    "view",
                    options=[*VIEWS, FLOW, BANK],
                    default="frames",
                    optional=True,
                    tooltip="frames: which latent frame reads which. chunks: which latent frame reads which chunk, "
                    "the finest view. shots: which shot reads which, with numbers. flow: the same as arcs. bank: how "
                    "much of its attention a shot gives to shots and memories that windows keep.",
                ),
                io.Int.Input(
                    "block",
                    default=-1,
                    min=-1,
                    max=1000,
                    optional=True,
                    tooltip="One block of the model, counted from 0. -1: the mean of all.",
                ),
                io.Int.Input(
                    "head",
                    default=-1,
                    min=-1,
                    max=1000,
                    optional=True,
                    tooltip="One attention head, counted from 0. -1: the mean of all.",
                ),
                advanced(
                    io.Int.Input(
                        "first_step",
                        default=0,
                        min=0,
                        max=10_000,
                        optional=True,
                        tooltip="First sampling step that counts, from 0.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "last_step",
                        default=-1,
                        min=-1,
                        max=10_000,
                        optional=True,
                        tooltip="Last sampling step that counts. -1: to the end.",
                    )
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The decoded frames, to be shown with the map: click a row to see which frames it reads. "
                    "Decode the sampler's LATENT for this, not the latent output of this node.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # each remembers for itself what it showed
            outputs=[
                io.Image.Output("heatmap", display_name="heatmap", tooltip="The picture, also shown on this node."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was routed, what ran dense and why, and which shot reads which.",
                ),
                io.Latent.Output("latent", display_name="latent", tooltip="The latent from after_sample, unchanged."),
                io.String.Output(
                    "report_json", display_name="report_json", tooltip="The report as JSON, for scripts and files."
                ),
            ],
        )

    @classmethod
    @with_numbers
    def execute(cls, trace=None, after_sample=None, view="frames", images=None, **selection) -> io.NodeOutput:
        if trace is None:  # MoC Apply is bypassed: what stands behind this node goes on
            picture = as_image(draw_text(NO_TRACE))
            shown = ui.PreviewImage(picture, cls=cls).as_dict() | {"text": (NO_TRACE,)}
            return io.NodeOutput(picture, NO_TRACE, after_sample, json.dumps({"report": NO_TRACE}, indent=2), ui=shown)
        if trace.fetch is not None:
            trace.fetch()
        report = "\n".join([trace.report(), *flow(trace)])
        image = as_image(_picture(trace, view, selection))
        told = {**push.describe(trace), "running": False}
        if images is not None and trace.records:
            films = 1 if after_sample is None else _films(after_sample["samples"])
            sheet, places = contact_sheet(images, told["maps"]["frames"]["rows"], films, trace.first)
            told["thumbnails"] = {**places, **ui.PreviewImage(sheet, cls=cls).as_dict()["images"][0]}
        push.shown(str(cls.hidden.unique_id), told)
        shown = ui.PreviewImage(image, cls=cls).as_dict() | {"text": (report,), "moc": (told,)}
        read = {"who_reads_whom": _who_reads_whom(trace), "who_reads_the_bank": _who_reads_the_bank(trace)}
        data = json.dumps({**trace.summary(), **read}, indent=2)
        return io.NodeOutput(image, report, after_sample, data, ui=shown)


def _picture(trace: Trace, view: str, selection: dict[str, int]) -> Image.Image:
    """Where only one of routing and bank was recorded, that one."""
    if not trace.records and not trace.reads:
        return draw_text(trace.report())
    if view == FLOW:
        heat: Heatmap | None = heatmap(trace, "shots", **selection) if trace.records else None
        return draw_flow(heat, trace.report(), heatmap(trace, BANK, **selection) if trace.reads else None)
    if not trace.records:
        view = BANK
    elif view == BANK and not trace.reads:
        return draw_text("No bank was read: MoC Windows, MoC Recall and MoC Remake have one.")
    return draw(heatmap(trace, view, **selection), trace.report())


def _films(samples) -> int:
    """How many were sampled together. Video and sound in one LATENT are nested, the video first."""
    return len(samples.unbind()[0] if getattr(samples, "is_nested", False) else samples)


def _who_reads_whom(trace: Trace) -> list[dict]:
    found = links(heatmap(trace, "shots")) if trace.records else []
    return [{"shot": reader + 1, "reads": read + 1, "share": share} for reader, read, share in found]


def _who_reads_the_bank(trace: Trace) -> list[dict]:
    found = bank_links(heatmap(trace, BANK)) if trace.reads else []
    return [
        {"shot": reader + 1, "reads": read + 1 if isinstance(read, int) else read, "attention": share}
        for reader, read, share in found
    ]


NODES = [MoCRoutingHeatmap]
