"""How MoC routes (`RoutingConfig`, in parts), when it is on (`Schedule`), and named presets."""

from __future__ import annotations

from ..routing.descriptors import DESCRIPTORS
from ..routing.rules import RULES
from .partition import AUTO, Partition
from .parts import OWN, REFERENCES, STATIC, Budget, Candidates, Links, Noise, Score
from .routing import EIGHT_BITS, LISTS, PART_OF, PRECISIONS, TAILS, RoutingConfig
from .schedule import BREAK_EVEN, CHOOSING, CURVES, Schedule
from .settings import NAMED, PRESETS, QUALITIES, MoCSettings, Preset

__all__ = [
    "AUTO",
    "BREAK_EVEN",
    "CHOOSING",
    "CURVES",
    "DESCRIPTORS",
    "EIGHT_BITS",
    "LISTS",
    "NAMED",
    "OWN",
    "PART_OF",
    "PRECISIONS",
    "PRESETS",
    "QUALITIES",
    "REFERENCES",
    "RULES",
    "STATIC",
    "TAILS",
    "Budget",
    "Candidates",
    "Links",
    "MoCSettings",
    "Noise",
    "Partition",
    "Preset",
    "RoutingConfig",
    "Schedule",
    "Score",
]
