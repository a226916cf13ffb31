"""Where a model's tokens stand; kept here for scripts that import `moc.layout`."""

from .chunks.layout import Span, TokenLayout

__all__ = ["Span", "TokenLayout"]
