"""Sparse VideoGen: every head reads near frames or the same place in all frames, whichever fits it."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from .method import Method

ROUTING = RoutingConfig.of(order="frames or columns", chunk_tokens=128, own="none", near="band", band=0.3, top_k=0)
METHOD = Method(
    MoCSettings(ROUTING, Schedule(start_percent=0.2, dense_first=1)),
    "tokens near it in reading order or, in heads that this fits better, those near its place in all frames",
    "Sparse VideoGen (arXiv 2502.01776, sections 4.1 and 4.2)",
    models={"HunyuanVideo": MoCSettings(ROUTING.changed(band=0.25), Schedule(start_percent=0.1, dense_first=1))},
    differs="heads are compared on rows of the whole video and with the masks that are used, not on rows of the first "
    "10,000 tokens and with masks two frames wide; blocks of 128 that a mask cuts are read whole",
)
