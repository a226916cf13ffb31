"""Where kernels are launched, and on how many multiprocessors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch

from ....autocast import without_autocast

P = ParamSpec("P")
T = TypeVar("T")


def on_its_device(call: Callable[Concatenate[torch.Tensor, P], T]) -> Callable[Concatenate[torch.Tensor, P], T]:
    """Triton launches on the current device, which need not be the one of the first tensor; and without autocast, whose
    products would have few digits."""

    @wraps(call)
    def on_device(x: torch.Tensor, *args: P.args, **kwargs: P.kwargs) -> T:
        there = torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
        with there, without_autocast(x.device):
            return call(x, *args, **kwargs)

    return on_device


@cache
def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def processors(x: torch.Tensor) -> int:
    """Multiprocessors of the device, for programs that take many tiles each."""
    return _processors(x.device.index or 0) if x.device.type == "cuda" else 1
