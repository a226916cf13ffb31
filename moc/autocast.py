"""torch.autocast, where products choose their precision themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Sums and scores keep the digits that they ask for. Some devices know no autocast at all (DirectML)."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def as_one(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of different precision in that of autocast, as torch's own attention takes them: under it normalised
    queries and keys are float32 and values half of that."""
    kind = tensors[0].device.type
    if len({x.dtype for x in tensors}) == 1 or not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(kind)) for x in tensors)
