"""MoC on raylight's workers: a film on several GPUs."""

from __future__ import annotations

from comfy_api.latest import io

from ..moc.config import PRESETS
from ..moc.trace.trace import KEEP, Trace
from .apply import trace_input
from .types import MocRouting, MocShots, MocTrace, with_numbers

RayActors = io.Custom("RAY_ACTORS")  # raylight's


class MoCApplyRaylight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCApplyRaylight",
            display_name="MoC Apply (raylight)",
            category="MoC",
            description="Turns Mixture of Contexts on inside the workers of raylight, which make one video on several "
            "GPUs. Put it last before raylight's sampler.",
            inputs=[
                RayActors.Input(
                    "ray_actors",
                    tooltip="From raylight's loader, with ulysses_degree at the number of GPUs and ring_degree at 1.",
                ),
                MocShots.Input("shots", optional=True, tooltip="Where the video cuts. Not connected: a single shot."),
                MocRouting.Input(
                    "routing", optional=True, tooltip="How to route. Not connected: the recommended preset."
                ),
                trace_input(),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # two nodes with the same inputs keep two traces
            outputs=[
                RayActors.Output(
                    "routed_actors",
                    display_name="ray_actors",
                    tooltip="raylight's workers, which route as they sample.",
                ),
                MocTrace.Output(
                    "trace", display_name="trace", tooltip="What was routed where, for MoC Routing Heatmap."
                ),
            ],
        )

    @classmethod
    @with_numbers
    def execute(cls, ray_actors, shots=None, routing=None, record=KEEP[0]) -> io.NodeOutput:
        from ..moc.host.raylight.actors import apply_to_actors  # of use only where raylight is

        trace = Trace(keep=record, node=str(cls.hidden.unique_id or ""))
        return io.NodeOutput(apply_to_actors(ray_actors, shots, routing or PRESETS["recommended"], trace), trace)


NODES = [MoCApplyRaylight]
