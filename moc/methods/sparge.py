"""SpargeAttn: rows of 128 choose blocks of 64 by their means."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig
from .method import Method

ROUTING = RoutingConfig.of(order="raster", chunk_tokens=64, own="none", shared=2, descriptor="mean", density=0.5)
METHOD = Method(
    MoCSettings(ROUTING),
    "with 127 neighbours the blocks of 64 tokens that fit their mean query best",
    "SpargeAttn (arXiv 2502.18137, section 3.3)",
    models={"first release": MoCSettings(ROUTING.changed(density=None, rule="top-p", top_p=0.98, guard=0.6))},
    differs="no INT8, and no product of probabilities and values is skipped",
)
