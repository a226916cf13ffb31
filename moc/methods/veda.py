"""Veda: tiles choose tiles by the mean, the largest and the smallest of their queries and keys."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig
from .method import Method

METHOD = Method(
    MoCSettings(
        RoutingConfig.of(tile=(2, 8, 8), own="none", shared=1, descriptor="both mean+max+min", density=0.1),
    ),
    "with its tile of 2x8x8 tokens the tiles whose mean, largest and smallest keys fit those of its queries best",
    "Veda (arXiv 2605.30325)",
    differs="its authors train a network for every head to weigh the three, and choose a shape of 128 tokens for every "
    "head; here all weigh the same and all heads have one shape",
)
