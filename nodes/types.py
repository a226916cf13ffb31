"""What our nodes share: socket types, checks of what comes in, and what ComfyUI versions spell differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from comfy_api.latest import io

from ..moc.errors import MoCError
from ..moc.shots.typed import shown
from ..moc.windows import AS_MODEL, STORAGE

MocShots = io.Custom("MOC_SHOTS")
MocRouting = io.Custom("MOC_ROUTING")
MocTrace = io.Custom("MOC_TRACE")
MocProbe = io.Custom("MOC_PROBE")
MocMemory = io.Custom("MOC_MEMORY")

NOTHING = None  # of `decides`: nothing is connected to that input
MOST_FRAMES = 1_000_000  # that an input takes

W = TypeVar("W", bound=io.WidgetInput)


def advanced(widget: W) -> W:
    """Fold a widget away until the person asks for more. Older hosts lack the keyword, yet pass the mark on."""
    widget.extra_dict["advanced"] = True
    return widget


def decides(widget: W, only_when: Mapping[str, Any]) -> W:
    """Says which inputs of the node count only sometimes; the browser hides them else (`js/advanced.js`).

    (name: case) or (name: cases), any of which is enough; a case is what other inputs hold: a value, one of a
    tuple, or NOTHING.
    """
    cases = {name: case if isinstance(case, list) else [case] for name, case in only_when.items()}
    told = {
        name: [{other: held if isinstance(held, tuple) else (held,) for other, held in case.items()} for case in some]
        for name, some in cases.items()
    }
    widget.extra_dict["only_when"] = told
    return widget


def level_input(what: str) -> io.WidgetInput:
    """Of a look at finished frames: what has so much noise, for the tooltip."""
    return advanced(
        io.Float.Input(
            "level",
            optional=True,
            default=0.36,
            min=0.01,
            max=0.99,
            step=0.01,
            tooltip=f"How much noise {what} have when the model looks at them, 0 to 1.",
        )
    )


def bank_inputs(
    blocks: str,
    *,
    prefix: str = "",
    storage: str = "8 bit takes half of the memory for what is kept, 4 bit a quarter.",
    fewer: str = "",
    kept: str = "what is kept",
    rest: str = "The rest goes",
) -> list[io.WidgetInput]:
    """How keys and values are kept, in which blocks and where. blocks: a sentence without its end; the others: words
    of the tooltips, where a node has its own."""
    return [
        advanced(
            io.Combo.Input(
                f"{prefix}storage",
                optional=True,
                options=list(STORAGE),
                default=AS_MODEL,
                tooltip=storage,
            )
        ),
        advanced(
            io.String.Input(
                f"{prefix}blocks",
                optional=True,
                default="",
                tooltip=f"{blocks}, like 0-9, 20. Empty: all.{fewer}",
            )
        ),
        advanced(
            io.Float.Input(
                f"{prefix}budget",
                optional=True,
                default=0.0,
                min=0.0,
                max=10_000.0,
                step=0.1,
                tooltip=f"GB of the graphics card's memory for {kept}. {rest} into main memory, which is slower. 0: "
                "half of what is free.",
            )
        ),
    ]


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
