"""Mixture of Contexts: what this pack began with."""

from __future__ import annotations

from ..config import PRESETS
from .method import Method

METHOD = Method(
    PRESETS["paper multi-shot"],
    "its whole shot, and the large chunks of earlier shots whose mean key fits it best",
    "Mixture of Contexts (arXiv 2508.21058, section 3; settings: section 4)",
    models={"one shot": PRESETS["paper single-shot"]},
)
