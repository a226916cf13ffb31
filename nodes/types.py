"""What our nodes share: socket types, checks of what comes in, and what ComfyUI versions spell differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from comfy_api.latest import io

from ..moc.errors import MoCError
from ..moc.shots.typed import shown

MocShots = io.Custom("MOC_SHOTS")
MocRouting = io.Custom("MOC_ROUTING")
MocTrace = io.Custom("MOC_TRACE")
MocProbe = io.Custom("MOC_PROBE")
MocMemory = io.Custom("MOC_MEMORY")

W = TypeVar("W", bound=io.WidgetInput)


def advanced(widget: W) -> W:
    """Fold a widget away until the person asks for more. Older hosts lack the keyword, yet pass the mark on."""
    widget.extra_dict["advanced"] = True
    return widget


def check_ranges(node: type[io.ComfyNode], values: Mapping[str, Any]) -> None:
    """What the host checks of a widget, for those that `validate_inputs` names: it leaves these to the node.

    None is a value that another node will give. Raises MoCError.
    """
    for item in node.define_schema().inputs:
        value = values.get(item.id)
        low, high, options = (getattr(item, name, None) for name in ("min", "max", "options"))
        if value is None:
            continue
        if options is not None and value not in options:
            raise MoCError(f"{item.id} is {shown(repr(value))}; choose one of: {', '.join(map(str, options))}.")
        if low is not None and high is not None and not low <= value <= high:  # no number is beyond any range
            raise MoCError(f"{item.id} is {shown(str(value))}: use {low:g} to {high:g}.")


def with_numbers(execute: Callable) -> Callable:
    """A node's `execute` that refuses what passes every range check of the host: NaN, and links that bring no size."""

    @wraps(execute)
    def checked(cls, *args, **inputs):
        for name, value in inputs.items():
            if isinstance(value, (int, float)) and not abs(value) < 2**63:
                told = value if isinstance(value, float) else "beyond all bounds"
                raise MoCError(f"{name} is {told}: give it an ordinary number.")
        return execute(cls, *args, **inputs)

    return checked
