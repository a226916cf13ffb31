"""VMoBA: chunks that change from block to block, and one budget for all tokens of a head."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from ..config.partition import ALL
from .method import Method

SLABS = RoutingConfig.of(tile=(3, ALL, ALL), own="chunk", descriptor="mean", rule="best of head", top_p=0.25)
COLUMNS, BOXES = SLABS.changed(tile=(ALL, 8, 10)), SLABS.changed(tile=(7, 12, 14))
METHOD = Method(
    MoCSettings(SLABS, Schedule(start_percent=0.25), turns=(COLUMNS, BOXES)),
    "its chunk, and of all (token, chunk) pairs of a head the best; chunks are time slabs, columns and boxes in turn",
    "VMoBA (arXiv 2506.23858, sections 3.2 and 3.3)",
    differs="sizes are such that a video of 81 frames at 720p has 7 slabs, 48 columns and 72 boxes; where they do not "
    "divide it the last ones are smaller",
)
