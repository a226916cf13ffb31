"""The inputs of MoC Routing that are folded away, in the order in which workflows keep their values."""

from __future__ import annotations

from collections.abc import Iterable

from comfy_api.latest import io

from ..moc.config import BREAK_EVEN, CURVES, PRECISIONS
from ..moc.methods import METHODS
from .widgets.routing import CHUNKING, OUTER_LOOP, PRESET, SCHEDULE
from .widgets.sentences import choices_of, tell_choices, tell_methods


def choice(name: str, options: Iterable[str], tooltip: str) -> io.Combo.Input:
    options = tuple(options)
    options = options if options[0] == PRESET else (PRESET, *options)
    tooltip += " preset: as the preset says."
    return io.Combo.Input(name, options=list(options), default=PRESET, optional=True, tooltip=tooltip)


def named(name: str) -> io.Combo.Input:
    """What can be chosen says by itself what it is."""
    return choice(name, choices_of(name), tell_choices(name))


def more_inputs() -> list[io.WidgetInput]:
    return [
        choice(
            "chunking",
            CHUNKING,
            "Unit of selection. frame: one latent frame. tokens: pieces of about chunk_tokens. tile: blocks of frames "
            "x rows x columns; choose about the size of the details that must stay consistent.",
        ),
        io.Int.Input(
            "chunk_tokens",
            optional=True,
            default=1280,
            min=1,
            max=1_000_000,
            tooltip="Size of a chunk in tokens, when chunking is tokens.",
        ),
        io.String.Input(
            "tile",
            optional=True,
            default="1x4x4",
            tooltip="Size of a tile as latent frames x rows x columns of tokens, when chunking is tile. Small is "
            "more exact, large is faster to choose from. auto: as in recommended and fast, 1x4x4, and from 480p on "
            "1x8x8 with 1.6 times as many chosen.",
        ),
        named("own"),
        io.Int.Input(
            "window",
            optional=True,
            default=0,
            min=0,
            max=1000,
            tooltip="When own is frame: this many neighbouring latent frames of the same shot on either side are "
            "always seen as well. Helps against flicker.",
        ),
        choice(
            "causal",
            ("on", "off"),
            "on: a shot only reads earlier shots; for models trained that way. Others stay more consistent with off.",
        ),
        named("descriptor"),
        named("tail"),
        named("memory"),
        io.Int.Input(
            "memory_tokens",
            optional=True,
            default=64,
            min=1,
            max=1_000_000,
            tooltip="How many tokens of every shot, when memory is first tokens.",
        ),
        named("references"),
        choice(
            "outer_loop",
            OUTER_LOOP,
            "For very long videos. best shots: first choose the shots_kept best other shots, then chunks inside them.",
        ),
        io.Int.Input(
            "shots_kept",
            optional=True,
            default=2,
            min=1,
            max=1000,
            tooltip="How many other shots may be read, when outer_loop is best shots.",
        ),
        choice("schedule", SCHEDULE, "When and where MoC is on. custom: as the five inputs below say."),
        io.Float.Input(
            "start_percent",
            optional=True,
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of the sampling that stays dense at the start; 0.2 keeps the first fifth dense. "
            "Needs schedule custom.",
        ),
        io.Float.Input(
            "end_percent",
            optional=True,
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the sampling MoC stops; 1 is the end. Needs schedule custom.",
        ),
        io.Int.Input(
            "dense_first",
            optional=True,
            default=0,
            min=0,
            max=1000,
            tooltip="This many of the model's first blocks stay dense. Needs schedule custom.",
        ),
        io.Int.Input(
            "dense_last",
            optional=True,
            default=0,
            min=0,
            max=1000,
            tooltip="This many of the model's last blocks stay dense. Needs schedule custom.",
        ),
        io.Int.Input(
            "min_tokens",
            optional=True,
            default=0,
            min=0,
            max=10_000_000,
            tooltip="Shorter sequences stay dense. 0: on a GPU, where that is faster; 1: none. Needs schedule custom.",
        ),
        io.Float.Input(
            "drop_off",
            optional=True,
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Only for training: at most this share of the chosen chunks is dropped at random.",
        ),
        io.Float.Input(
            "drop_in",
            optional=True,
            default=0.0,
            min=0.0,
            max=32.0,
            step=0.1,
            tooltip="Only for training: the mean number of random chunks that are added.",
        ),
        io.Int.Input(
            "drop_seed",
            optional=True,
            default=0,
            min=0,
            max=2**31 - 1,
            tooltip="Only for training: seed of drop_off and drop_in.",
        ),
        named("rule"),
        io.Float.Input(
            "top_p",
            optional=True,
            default=0.9,
            min=0.01,
            max=1.0,
            step=0.01,
            round=0.001,
            tooltip="Share of a token's interest that the chosen chunks hold, when rule is top-p. Higher is slower.",
        ),
        io.Float.Input(
            "beta",
            optional=True,
            default=1.0,
            min=-5.0,
            max=10.0,
            step=0.1,
            tooltip="Standard deviations above the mean that a chunk must score, when rule is threshold. Lower chooses "
            "more.",
        ),
        io.String.Input(
            "head_density",
            optional=True,
            default="",
            tooltip="A density for every attention head, like 0.1, 0.3, 0.1, instead of one budget for all. MoC Probe "
            "Report can find them; routing then takes longer. Empty: the same for all.",
        ),
        named("lists"),
        io.String.Input(
            "dense_blocks",
            optional=True,
            default="",
            tooltip="Blocks of the model that keep full attention, counted from 0, like 0, 3-5.",
        ),
        io.String.Input(
            "block_tiles",
            optional=True,
            default="",
            tooltip="Blocks of the model with chunks of another size, like 0-1: 1x2x2; 7: frame.",
        ),
        io.Combo.Input(
            "break_even",
            options=list(BREAK_EVEN),
            default="estimated",
            optional=True,
            tooltip=tell_choices("break_even"),
        ),
        io.Combo.Input("curve", options=list(CURVES), default="constant", optional=True, tooltip=tell_choices("curve")),
        io.Float.Input(
            "dense_above",
            optional=True,
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            round=0.001,
            tooltip="Noisier steps stay dense: 0.95 keeps those dense in which more than 95% is noise, whichever steps "
            "these are. 1: none.",
        ),
        choice("method", METHODS, tell_methods()),
        io.Combo.Input(
            "precision", options=list(PRECISIONS), default="auto", optional=True, tooltip=tell_choices("precision")
        ),
        named("choosing"),
    ]
