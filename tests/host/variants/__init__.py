"""The table of the host tests: every way to use a video model that MoC knows. A new one is one more row."""

from __future__ import annotations

from . import others, wan
from .row import Variant, random

VARIANTS: tuple[Variant, ...] = (*wan.ROWS, *others.ROWS)

__all__ = ["VARIANTS", "Variant", "random"]
