"""What failed once on a device and is left out there from then on: one kernel variant, a library, or all kernels.

Each is known by its variant: the name of its file in `triton/`, or one of those below.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch

from .head_split import out_of_memory

KERNELS = "kernels"  # all of them: torch computes the call
LIBRARY = "library"  # an attention library
LIBRARY_GRADIENTS = "library gradients"

P = ParamSpec("P")
T = TypeVar("T")
_reasons: dict[tuple[str, str], str] = {}
_log = logging.getLogger("mixture_of_contexts")


class VariantError(RuntimeError):
    """A variant failed and is left out from now on: the call can be made again without it."""


def _place(device: torch.device) -> str:
    return f"{device.type}:{device.index or 0}"


def reason(device: torch.device, variant: str) -> str | None:
    """Why a variant is left out on a device, or None."""
    return _reasons.get((_place(device), variant))


def left_out(device: torch.device) -> frozenset[str]:
    """Variants that are left out on a device."""
    place = _place(device)
    return frozenset(variant for there, variant in _reasons if there == place)


def leave_out(device: torch.device, variant: str, failure: Exception | str) -> str:
    """From now on, for as long as the process lives -> why, in one line."""
    said = f"{type(failure).__name__}: {failure}" if isinstance(failure, Exception) else failure
    _reasons[_place(device), variant] = said = said.splitlines()[0][:200]
    return said


Of = Callable[Concatenate[torch.Tensor, P], T]  # of a tensor, and more


def watched(variant: str) -> Callable[[Of[P, T]], Of[P, T]]:
    """A function of a tensor that, should it fail, is left out from now on and raises VariantError. Want of memory
    passes: it is raised as it is, and so is what fails although it was left out."""

    def watch(call: Of[P, T]) -> Of[P, T]:
        @wraps(call)
        def tried(x: torch.Tensor, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return call(x, *args, **kwargs)
            except Exception as failure:
                if out_of_memory(failure) or reason(x.device, variant) is not None:
                    raise
                why = leave_out(x.device, variant, failure)
                _log.warning("MoC: %s does not run on %s, other kernels take over: %s", variant, x.device, why)
                raise VariantError(f"{variant}: {why}") from failure

        return tried

    return watch
