"""Radial Attention: fixed bands that thin out with distance in time."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from .method import Method

ROUTING = RoutingConfig.of(order="raster", chunk_tokens=128, own="none", near="radial", decay=0.2, top_k=0)
METHOD = Method(
    MoCSettings(ROUTING, Schedule(start_percent=0.24, dense_first=1)),
    "the first frame, and ever narrower bands of ever fewer frames around its own",
    "Radial Attention (arXiv 2506.19852, section 4.2)",
    models={
        "Wan 2.2": MoCSettings(ROUTING.changed(decay=0.8), Schedule(start_percent=0.28, dense_first=1)),
        "HunyuanVideo": MoCSettings(ROUTING.changed(decay=0.95), Schedule(start_percent=0.24)),
    },
)
