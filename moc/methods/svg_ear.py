"""SVG-EAR: of SVG 2's clusters those are read that one pooled term would stand for worst."""

from __future__ import annotations

from ..config import MoCSettings, Schedule
from . import svg2
from .method import Method

METHOD = Method(
    MoCSettings(svg2.ROUTING.changed(rule="error per cost", tail="pooled"), Schedule(start_percent=0.2, dense_first=1)),
    "with alike queries the clusters of alike keys that their means would get most wrong; the rest as their means",
    "SVG-EAR (arXiv 2603.08982)",
    differs="clusters as in SVG 2 here; the share of dense steps is SVG 2's",
)
