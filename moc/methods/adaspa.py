"""AdaSpa: blocks by their true share of attention, looked for twice and used in all steps between."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig, Schedule
from .method import Method

ROUTING = RoutingConfig.of(
    order="raster", chunk_tokens=64, own="none", shared=1, exact=True, density=0.2, ladder=0.8
)  # fmt: skip
METHOD = Method(
    MoCSettings(ROUTING, Schedule(start_percent=0.2, choosing="twice")),
    "with its block of 64 tokens the blocks that hold most of their attention, looked for at two steps only",
    "AdaSpa (arXiv 2502.21079, section 4; settings: section 4.3)",
    differs="the steps that look for blocks read only these already, and each looks exactly: no log-sum-exp is kept "
    "from the search before; of 50 steps these are the 11th and the 31st; where more than half of the heads hold 80 %, half "
    "of them give up chunks",
)
