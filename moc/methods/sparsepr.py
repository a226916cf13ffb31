"""SparsePR: what is not read is made up for by what it was worth on a few rows."""

from __future__ import annotations

from ..config import MoCSettings, Schedule
from . import svg2
from .method import Method

METHOD = Method(
    MoCSettings(
        svg2.ROUTING.changed(rule="error per cost", density=0.11, top_p=0.001, repair_rows=64, repair_rank=16),
        Schedule(start_percent=0.1),
    ),
    "with alike queries a fifth of the clusters of alike keys; the result is corrected as on 64 rows that see all",
    "SparsePR (arXiv 2608.18484)",
    differs="clusters as in SVG 2 here, not of projected keys; half of the 22 % is read by weight and half by error, "
    "not all by error; the 64 rows are spread evenly and weigh the same, not one of a cluster and by its size",
)
