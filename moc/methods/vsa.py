"""Video Sparse Attention: cubes choose cubes."""

from __future__ import annotations

from ..config import MoCSettings, RoutingConfig
from .method import Method

ROUTING = RoutingConfig.of(tile=(4, 4, 4), own="none", shared=1, descriptor="mean", density=0.125)
METHOD = Method(
    MoCSettings(ROUTING),
    "with its cube of 4x4x4 tokens the cubes that fit the cube's mean query best",
    "Video Sparse Attention (arXiv 2505.13389, section 2; 87.5 % left out in its pretraining)",
    models={"Wan 2.1 at 90 %": MoCSettings(ROUTING.changed(density=0.1))},
    differs="its coarse branch needs gates that are trained: without, they are zero, and it adds nothing",
)
