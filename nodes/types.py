"""Socket types that our nodes share, and the one thing that ComfyUI versions spell differently."""

from __future__ import annotations

from typing import TypeVar

from comfy_api.latest import io

MocShots = io.Custom("MOC_SHOTS")
MocRouting = io.Custom("MOC_ROUTING")
MocTrace = io.Custom("MOC_TRACE")
MocProbe = io.Custom("MOC_PROBE")

W = TypeVar("W", bound=io.WidgetInput)


def advanced(widget: W) -> W:
    """Fold a widget away until the person asks for more. Older hosts lack the keyword, yet pass the mark on."""
    widget.extra_dict["advanced"] = True
    return widget
