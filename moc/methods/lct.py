"""Long Context Tuning: full attention over all shots."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig
from .method import Method

METHOD = Method(
    MoCSettings(RoutingConfig.of(own="video", top_k=0)),
    "everything: full attention over all shots",
    "Long Context Tuning (arXiv 2503.10589, section 3)",
    differs="positions interleaved with the captions and a noise level for every shot are trained into its weights, "
    "which are not public",
)
