"""How MoC routes and when: what a node hands on, and named presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .partition import AUTO, Partition
from .parts import Budget, Candidates, Links, Score
from .routing import RoutingConfig
from .schedule import Schedule


@dataclass(frozen=True)
class MoCSettings:
    """What the MOC_ROUTING socket carries.

    blocks   (number of a transformer block, its own routing), for blocks that are routed otherwise than the rest
    turns    routings that the blocks after the first take in turn, after `routing`, and then again
    """

    routing: RoutingConfig = field(default_factory=RoutingConfig)
    schedule: Schedule = field(default_factory=Schedule)
    blocks: tuple[tuple[int, RoutingConfig], ...] = ()
    turns: tuple[RoutingConfig, ...] = ()

    @property
    def routings(self) -> tuple[RoutingConfig, ...]:
        """All that any block has, none twice."""
        return tuple(dict.fromkeys((self.routing, *self.turns, *dict(self.blocks).values())))

    def routing_of(self, block: int) -> RoutingConfig:
        in_turn = (self.routing, *self.turns)
        return dict(self.blocks).get(block, in_turn[block % len(in_turn)])

    def with_routing(self, **changes: Any) -> MoCSettings:
        """With other settings of what all blocks have that are not named in `blocks`."""
        turns = tuple(routing.changed(**changes) for routing in self.turns)
        return replace(self, routing=self.routing.changed(**changes), turns=turns)

    def with_schedule(self, **changes: Any) -> MoCSettings:
        return replace(self, schedule=replace(self.schedule, **changes))


@dataclass(frozen=True)
class Preset:
    """sees: what every token sees; use: what the preset is for. Both without a capital letter and a full stop."""

    settings: MoCSettings
    sees: str
    use: str


OWN_FRAME = Links(own="frame")
TILES = Partition(tile=AUTO)

NAMED: dict[str, Preset] = {
    # The paper's settings, section 4: chunks of 1280 tokens at the end of training, k = 5, own shot dense, causal.
    "paper multi-shot": Preset(
        MoCSettings(
            RoutingConfig(
                Partition(chunk_tokens=1280), Links(own="shot"), Candidates(causal=True), budget=Budget(top_k=5)
            )
        ),
        "its whole shot, and a few large chunks of earlier shots",
        "for models trained with the Mixture of Contexts paper's settings",
    ),
    # Chunks of 256 tokens, k = 3, own chunk, no causality.
    "paper single-shot": Preset(
        MoCSettings(RoutingConfig(Partition(chunk_tokens=256), Links(own="chunk"), budget=Budget(top_k=3))),
        "its own chunk, and a few chunks anywhere",
        "for models trained with the paper's settings for one shot",
    ),
    "recommended": Preset(
        MoCSettings(RoutingConfig(TILES, OWN_FRAME, score=Score("minmax"), budget=Budget(top_k=20), tail="pooled")),
        "its own frame, and the small tiles anywhere in the video that fit it best, larger ones from 480p on; the rest "
        "blurred",
        "closest to full attention",
    ),
    "fast": Preset(
        MoCSettings(RoutingConfig(TILES, OWN_FRAME, score=Score("mean"), budget=Budget(top_k=10), tail="pooled")),
        "as recommended, with fewer tiles and a simpler choice",
        "a little faster than recommended, and less exact",
    ),
    # As many tokens as 32 tiles of 8x8, in pieces that kernels like (docs/kernels.md).
    "large pictures": Preset(
        MoCSettings(
            RoutingConfig(
                Partition(chunk_tokens=250), OWN_FRAME, score=Score("minmax"), budget=Budget(top_k=8), tail="pooled"
            )
        ),
        "its own frame, and a few larger pieces; the rest blurred",
        "fastest on a GPU at 720p and for long videos",
    ),
}
PRESETS: dict[str, MoCSettings] = {name: preset.settings for name, preset in NAMED.items()}


@dataclass(frozen=True)
class Quality:
    """What one attention call was measured to give at 720p (`benchmarks/results/second_look_h200.json`).

    rule    its name there
    gain    how many times as fast as cuDNN's attention it is
    error   distance of its output from dense, relative, on trained-like inputs
    """

    settings: MoCSettings
    rule: str
    gain: float
    error: float

    @property
    def sentence(self) -> str:
        return f"{self.gain:.1f} times as fast as full attention, {self.error:.0%} off it"


LARGE = PRESETS["large pictures"]

# Of all that was measured at 720p nothing else is both faster and nearer to dense than one of these.
QUALITIES: dict[str, Quality] = {
    "best quality": Quality(PRESETS["recommended"], "own frame + 32 of 8x8, min-max, tail", 4.6, 0.011),
    "balanced": Quality(LARGE, "large pictures", 7.1, 0.039),
    "fastest": Quality(LARGE.with_routing(top_k=4), "own frame + 4 of 250, min-max, tail", 8.9, 0.060),
}
