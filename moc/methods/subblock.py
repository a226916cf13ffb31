"""SubBlock: blocks choose blocks by what the means of their parts would weigh in the softmax."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from .method import Method

ROUTING = RoutingConfig.of(
    order="raster", chunk_tokens=64, own="none", shared=1, descriptor="sub-means", density=0.25
)  # fmt: skip
METHOD = Method(
    MoCSettings(ROUTING, Schedule(start_percent=0.2)),
    "with its block of 64 tokens the blocks that would weigh most by the means of their four parts",
    "SubBlock (sglang, pull request 34148)",
    models={"nine tenths left out": MoCSettings(ROUTING.changed(density=0.1), Schedule(start_percent=0.2))},
    differs="made for MiniMax H3, whose authors' settings these are",
)
