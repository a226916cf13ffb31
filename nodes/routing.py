"""How MoC routes: the node that makes MOC_ROUTING."""

from __future__ import annotations

from comfy_api.latest import io

from ..moc.config import PRESETS, RULES
from ..moc.errors import MoCError
from .routing_inputs import choice, more_inputs
from .types import MocRouting, advanced, check_ranges, decides, with_numbers
from .widgets.routing import BUDGETS, PRESET, check_routing, read_routing, tell_routing
from .widgets.sentences import tell_presets

OWN_FRAME = tuple(name for name, preset in PRESETS.items() if preset.routing.links.own == "frame")
CUSTOM = {"schedule": "custom"}


def _rules_of(setting: str) -> tuple[str, ...]:
    return tuple(name for name, rule in RULES.items() if setting in rule.parameters)


ONLY_WHEN = {
    "top_k": {"budget": "top-k"},
    "density": {"budget": "density"},
    "chunk_tokens": {"chunking": "tokens"},
    "tile": {"chunking": "tile"},
    "window": [{"own": "frame"}, {"own": PRESET, "preset": OWN_FRAME}],
    "memory_tokens": {"memory": "first tokens"},
    "shots_kept": {"outer_loop": "best shots"},
    **dict.fromkeys(("start_percent", "end_percent", "dense_first", "dense_last", "min_tokens"), CUSTOM),
    "top_p": {"rule": _rules_of("top_p")},
    "beta": {"rule": _rules_of("beta")},
    "curve": {"rule": (PRESET, *_rules_of("top_k"))},
}


class MoCRouting(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoCRouting",
            display_name="MoC Routing",
            category="MoC",
            description="Chooses how much of the video every part of a frame may read, and how it is found.",
            inputs=[
                decides(
                    io.Combo.Input(
                        "preset",
                        options=list(PRESETS),
                        default="recommended",
                        tooltip=tell_presets(),
                    ),
                    ONLY_WHEN,
                ),
                choice(
                    "budget",
                    BUDGETS,
                    "How much may be read in addition to what is always seen. top-k: a number of chunks. density: a "
                    "share of the work of full attention.",
                ),
                io.Int.Input(
                    "top_k",
                    optional=True,
                    default=20,
                    min=0,
                    max=4096,
                    tooltip="Chunks that every token reads, when budget is top-k; 1.6 times as many of the larger "
                    "tiles that recommended and fast have from 480p on. Higher is closer to full attention and "
                    "slower. 0: no memory beyond what is always seen.",
                ),
                io.Float.Input(
                    "density",
                    optional=True,
                    default=0.2,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of the work of full attention to keep, when budget is density. 0.2 is a fifth, "
                    "1 is full attention.",
                ),
                *map(advanced, more_inputs()),
            ],
            outputs=[
                MocRouting.Output("routing", display_name="routing", tooltip="The settings, for MoC Apply."),
                io.String.Output("summary", display_name="summary", tooltip="The settings in one sentence."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        top_k=None,
        density=None,
        tile=None,
        start_percent=None,
        end_percent=None,
        head_density=None,
        dense_blocks=None,
        block_tiles=None,
    ) -> bool | str:
        try:
            check_routing(top_k, density, tile, start_percent, end_percent, head_density, dense_blocks, block_tiles)
            numbers = {"top_k": top_k, "density": density}
            check_ranges(cls, {**numbers, "start_percent": start_percent, "end_percent": end_percent})
        except MoCError as error:
            return str(error)
        return True

    @classmethod
    @with_numbers
    def execute(cls, **widgets) -> io.NodeOutput:
        settings = read_routing(**widgets)
        return io.NodeOutput(settings, tell_routing(settings))


NODES = [MoCRouting]
