"""MoC on a model."""

from __future__ import annotations

from comfy_api.latest import io

from ..moc.config import QUALITIES
from ..moc.errors import MoCError
from ..moc.host.patch import apply_moc
from ..moc.trace.trace import KEEP, Trace
from .types import NOTHING, MocRouting, MocShots, MocTrace, advanced, decides, with_numbers
from .widgets.sentences import tell_qualities

QUALITY = next(iter(QUALITIES))


def trace_input() -> io.WidgetInput:
    return advanced(
        io.Combo.Input(
            "record",  # older hosts want no input and output of the same id
            display_name="trace",
            options=list(KEEP),
            default=KEEP[0],
            optional=True,
            tooltip="What to record for MoC Routing Heatmap. routing: what was chosen. routing and "
            "attention: also where full attention would look, measured on 8 tokens of every frame; slower. "
            "off: nothing. Takes at most half a gigabyte of RAM: a very long run shows the mean of all "
            "heads after that, and in the end only its first steps.",
        )
    )


class MoCApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCApply",
            display_name="MoC Apply",
            category="MoC",
            description="Turns Mixture of Contexts on: the video model reads only the parts of the video that matter "
            "to what it draws. Put it last before the sampler.",
            inputs=[
                io.Model.Input("model", tooltip="A video model. What MoC cannot route runs dense, as before."),
                MocShots.Input("shots", optional=True, tooltip="Where the video cuts. Not connected: a single shot."),
                MocRouting.Input("routing", optional=True, tooltip="How to route. Not connected: as quality says."),
                trace_input(),
                decides(
                    io.Combo.Input(
                        "quality", options=list(QUALITIES), default=QUALITY, optional=True, tooltip=tell_qualities()
                    ),
                    {"quality": {"routing": NOTHING}},
                ),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # two nodes with the same inputs keep two traces
            outputs=[
                io.Model.Output("patched_model", display_name="model", tooltip="The model with MoC on."),
                MocTrace.Output(
                    "trace", display_name="trace", tooltip="What was routed where, for MoC Routing Heatmap."
                ),
            ],
        )

    @classmethod
    @with_numbers
    def execute(cls, model, shots=None, routing=None, record=KEEP[0], quality=QUALITY) -> io.NodeOutput:
        if quality not in QUALITIES:
            raise MoCError(f"quality is {quality!r}; choose one of: {', '.join(QUALITIES)}.")
        trace = Trace(keep=record, node=str(cls.hidden.unique_id or ""))
        return io.NodeOutput(apply_moc(model, shots, routing or QUALITIES[quality].settings, trace), trace)


NODES = [MoCApply]
