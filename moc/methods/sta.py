"""Sliding Tile Attention: a window of tiles around a token's own."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from .method import Method

METHOD = Method(
    MoCSettings(
        RoutingConfig.of(tile=(6, 8, 8), own="none", near="box", box=(3, 3, 3), top_k=0),
        Schedule(start_percent=0.24),
    ),
    "a window of 3x3x3 tiles around its own",
    "Sliding Tile Attention (arXiv 2502.04507, section 3)",
    differs="one window for all heads: theirs are searched for per head on prompts, for one model and size; tiles that "
    "do not divide the video are cut short",
)
