"""The routing heatmap: who read whom, as a picture and as text."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..moc.heatmap import VIEWS, flow, heatmap
from .picture import as_image, draw, draw_text
from .types import MocTrace, advanced


class MoCRoutingHeatmap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCRoutingHeatmap",
            display_name="MoC Routing Heatmap",
            category="MoC",
            description="Shows which parts of the film read which others while sampling. Connect the sampler's LATENT "
            "to after_sample, so that this node runs after it.",
            is_output_node=True,
            inputs=[
                MocTrace.Input("trace", tooltip="From MoC Apply."),
                io.Latent.Input(
                    "after_sample",
                    optional=True,
                    tooltip="The sampler's result. It is passed through untouched; it makes this node wait for it.",
                ),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="frames",
                    optional=True,
                    tooltip="frames: which latent frame reads which. chunks: which latent frame reads which chunk, "
                    "the finest there is. shots: which shot reads which, with numbers.",
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
            ],
            outputs=[
                io.Image.Output("heatmap", display_name="heatmap", tooltip="The picture, also shown on this node."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was routed, what ran dense and why, and which shot reads which.",
                ),
                io.Latent.Output("latent", display_name="latent", tooltip="What came in as after_sample."),
            ],
        )

    @classmethod
    def execute(cls, trace, after_sample=None, view="frames", **selection) -> io.NodeOutput:
        report = "\n".join([trace.report(), *flow(trace)])
        if trace.records:
            image = as_image(draw(heatmap(trace, view, **selection), trace.report()))
        else:
            image = as_image(draw_text(trace.report()))
        shown = ui.PreviewImage(image, cls=cls).as_dict() | {"text": (report,)}
        return io.NodeOutput(image, report, after_sample, ui=shown)


NODES = [MoCRoutingHeatmap]
