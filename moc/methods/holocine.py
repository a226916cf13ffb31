"""HoloCine: nothing is chosen; every shot is remembered by its first frame."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig
from .method import Method

METHOD = Method(
    MoCSettings(RoutingConfig.of(own="shot", static="first frame", top_k=0)),
    "its whole shot, and the first frame of every shot",
    "HoloCine (arXiv 2510.20822, sparse inter-shot self-attention)",
    models={
        "released code": MoCSettings(RoutingConfig.of(own="shot", static="first tokens", static_tokens=64, top_k=0))
    },
    differs="captions per shot come from MoC Shot Conditioning",
)
