"""The probe: what routing would cost in error and save in work, measured before it is used."""

from __future__ import annotations

import json

from comfy_api.latest import io, ui

from ..moc.config import PRESETS
from ..moc.errors import MoCError
from ..moc.host import apply_probe
from ..moc.probe.advice import SCOPES, advise
from ..moc.probe.log import ProbeLog, read_steps
from ..moc.trace.trace import Trace
from .render.heatmap import as_image, draw_text
from .render.probe import draw_probe
from .render.probe_text import data, read_tiles, tell, tell_nothing
from .types import MocProbe, MocRouting, MocShots, advanced, with_numbers
from .widgets.sentences import tell_probed

TILES = "1x2x2, 1x4x4, 1x8x8, frame"
RULES = ("top-k", "all")
NO_PROBE = (
    "MoC Probe: nothing was probed. MoC Probe is bypassed, or its probe output is not connected. routing is the "
    "recommended preset."
)


class MoCProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCProbe",
            display_name="MoC Probe",
            category="MoC",
            description="Samples with full attention, so the video is what it would be without MoC, and on a few "
            "steps measures what routing would have done. MoC Probe Report then says which settings to use.",
            not_idempotent=True,  # two nodes with the same inputs keep what each saw
            inputs=[
                io.Model.Input("model", tooltip="A video model, without MoC Apply."),
                MocShots.Input("shots", optional=True, tooltip="Where the video cuts. Not connected: a single shot."),
                MocRouting.Input(
                    "routing",
                    optional=True,
                    tooltip="The routing to measure. The advice keeps what is always seen (own, memory, causal, tail) "
                    "and changes the rest. Not connected: the recommended preset.",
                ),
                io.Int.Input(
                    "steps_probed",
                    default=3,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="How many sampling steps to probe, evenly spread. Each takes several times as long as "
                    "usual; 2 to 4 are enough for advice.",
                ),
                advanced(
                    io.String.Input(
                        "steps",
                        default="",
                        optional=True,
                        tooltip="Exactly these steps, counted from 0, like 0, 4, 9. Empty: steps_probed of them.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "tiles",
                        default=TILES,
                        optional=True,
                        tooltip="Chunk sizes the advice may choose from, besides the one in routing: latent "
                        "frames x rows x columns of tokens, or frame. Fewer are probed faster.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "tokens",
                        default=128,
                        min=8,
                        max=100_000,
                        optional=True,
                        tooltip="How many query tokens per attention call all settings are compared on. More is more "
                        "exact and slower.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "rules",
                        options=list(RULES),
                        default=RULES[0],
                        optional=True,
                        tooltip="What the advice may choose by. top-k: what is chosen fastest. all: "
                        f"{tell_probed()} as well; probing takes twice as long.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output(
                    "probed_model", display_name="model", tooltip="For the sampler. It samples with full attention."
                ),
                MocProbe.Output("probe", display_name="probe", tooltip="What was measured, for MoC Probe Report."),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps=None, tiles=None) -> bool | str:
        try:
            read_steps(1, steps or "")
            read_tiles(tiles or "")
        except MoCError as error:
            return str(error)
        return True

    @classmethod
    @with_numbers
    def execute(
        cls, model, shots=None, routing=None, steps_probed=3, steps="", tiles=TILES, tokens=128, rules=RULES[0]
    ) -> io.NodeOutput:
        asked = read_steps(steps_probed, steps), read_tiles(tiles), tokens, rules == RULES[1]
        log = ProbeLog(routing or PRESETS["recommended"], *asked)
        trace = Trace()
        return io.NodeOutput(apply_probe(model, shots, log, trace), (log, trace))


class MoCProbeReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCProbeReport",
            display_name="MoC Probe Report",
            category="MoC",
            description="Says what routing would have done to the run that MoC Probe measured, and which settings "
            "stay within an error you choose at the least work. Connect routing to MoC Apply for the next run.",
            is_output_node=True,
            inputs=[
                MocProbe.Input("probe", optional=True, tooltip="From MoC Probe."),
                io.Latent.Input(
                    "after_sample",
                    optional=True,
                    tooltip="The sampler's result. It is passed through untouched; it makes this node wait for it.",
                ),
                io.Float.Input(
                    "error",
                    default=0.05,
                    min=0.001,
                    max=0.9,
                    step=0.005,
                    round=0.001,
                    optional=True,
                    tooltip="How far the output of a routed block may be from that of full attention. 0.05 is 5 %: "
                    "hard to see. 0.2 visibly changes the video. Changing this needs no new sampling.",
                ),
                io.Combo.Input(
                    "scope",
                    options=list(SCOPES),
                    default=SCOPES[0],
                    optional=True,
                    tooltip="one setting for all blocks: simple. a setting for every block: as little work as each "
                    "block of the model allows. and head: for each attention head too; routing then takes longer.",
                ),
                advanced(
                    io.Float.Input(
                        "across",
                        default=0.0,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        round=0.01,
                        optional=True,
                        tooltip="The least share to keep of what full attention reads from other shots. 0: no "
                        "requirement. Raise it if a character changes from shot to shot.",
                    )
                ),
            ],
            outputs=[
                MocRouting.Output("routing", display_name="routing", tooltip="The advice as settings, for MoC Apply."),
                io.Image.Output("picture", display_name="picture", tooltip="Error, recall and choices at a glance."),
                io.String.Output("report", display_name="report", tooltip="What was measured, the advice, and why."),
                io.String.Output(
                    "report_json", display_name="report_json", tooltip="All numbers as JSON, for scripts and files."
                ),
                io.Latent.Output("latent", display_name="latent", tooltip="The latent from after_sample, unchanged."),
            ],
        )

    @classmethod
    @with_numbers
    def execute(cls, probe=None, after_sample=None, error=0.05, scope=SCOPES[0], across=0.0) -> io.NodeOutput:
        log, trace = probe or (ProbeLog(PRESETS["recommended"]), Trace())
        settings, numbers = log.settings, {}
        if probe is None:  # bypassed: what stands behind this node goes on
            report = NO_PROBE
            picture = draw_text(report)
        elif log.calls:
            advice = advise(log, error, scope, across)
            settings, numbers = advice.settings, data(log, trace, advice.table, advice, scope)
            report, picture = tell(log, trace, advice.table, advice), draw_probe(log, advice.table, advice)
        else:
            report = tell_nothing(log, trace)
            picture = draw_text(report)
        image, told = as_image(picture), json.dumps(numbers or {"report": report}, indent=2)
        shown = ui.PreviewImage(image, cls=cls).as_dict() | {"text": (report,)}
        return io.NodeOutput(settings, image, report, told, after_sample, ui=shown)


NODES = [MoCProbe, MoCProbeReport]
