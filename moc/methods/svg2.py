"""Sparse VideoGen 2: clusters of alike queries choose clusters of alike keys."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from .method import Method

# 1,000 clusters of 75,600 keys
ROUTING = RoutingConfig.of(
    order="alike", chunk_tokens=76, own="none", shared=3, rule="top-p from top-k on", top_k=100, top_p=0.9
)  # fmt: skip
METHOD = Method(
    MoCSettings(ROUTING, Schedule(start_percent=0.2, dense_first=1)),
    "with alike queries the clusters of alike keys that hold nine tenths of what their means promise",
    "Sparse VideoGen 2 (arXiv 2505.18875, section 4)",
    models={
        "HunyuanVideo": MoCSettings(ROUTING, Schedule(start_percent=0.1, dense_first=1)),
        "queries by themselves": MoCSettings(ROUTING.changed(shared=0), Schedule(start_percent=0.2, dense_first=1)),
    },
    differs="clusters have a mean size and not a fixed number, at 720p 1,000 and 333 instead of 1,000 and 300; they "
    "end at cuts; ten rounds of k-means from tokens spread evenly in every call, not fifty in the first and two later",
)
