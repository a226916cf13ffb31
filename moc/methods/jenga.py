"""Jenga: blocks along a space-filling curve, by count or by share, and their neighbours."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig
from .method import Method

ROUTING = RoutingConfig.of(
    order="gilbert", chunk_tokens=128, own="none", near="touching", shared=1,
    descriptor="mean", rule="top-k or top-p", density=0.2, top_p=0.8,
)  # fmt: skip
METHOD = Method(
    MoCSettings(ROUTING),
    "with its block of 128 tokens the blocks that fit its mean query best, and those that touch it",
    "Jenga (arXiv 2505.16864, section 3.2)",
    models={"HunyuanVideo": MoCSettings(ROUTING.changed(density=0.15, top_p=0.3))},
    differs="the share kept does not fall from .3 to .2 over the steps; no steps are skipped and no step is smaller",
)
