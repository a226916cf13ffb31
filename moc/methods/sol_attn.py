"""Sol-Attn: blocks that stand out are read, the others are one pooled term each."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from .method import Method

ROUTING = RoutingConfig.of(
    order="raster", chunk_tokens=64, own="chunk", rule="threshold", beta=1.0, descriptor="mean", tail="pooled"
)
METHOD = Method(
    MoCSettings(ROUTING, Schedule(start_percent=0.2, dense_first=1)),
    "its block of 64 tokens and the blocks whose mean key stands out; the rest blurred",
    "Sol-Attn (arXiv 2607.24027)",
    models={"ComfyUI's own node": MoCSettings(ROUTING.changed(beta=1.3), Schedule(start_percent=0.2))},
    differs="a token always reads its own block, and the mean and spread are those of the other blocks; tokens choose "
    "one by one; no INT8",
)
