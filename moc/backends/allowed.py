"""What a backend says it computes. What it does not name is refused with a reason, never computed as another thing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import RoutingConfig


@dataclass(frozen=True)
class Allowed:
    """rules and descriptors need no mention: every backend takes them from `rules.RULES` and `descriptors.DESCRIPTORS`.
    Nor do own and static: a backend meets them as a `ChunkTable`.

    tails, lists  values of these settings
    dtypes        of q, k and v; None: any
    head_dim      at most; None: any
    """

    tails: tuple[str, ...]
    lists: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] | None = None
    head_dim: int | None = None

    def refuses(self, q: Tensor, routing: RoutingConfig) -> str | None:
        """Why a call is not for this backend, or None. q [B, H, N, D]."""
        for name, known in (("tail", self.tails), ("lists", self.lists)):
            if getattr(routing, name) not in known:
                return f"{name} {getattr(routing, name)!r} is none of those that it knows: {', '.join(known)}"
        if self.dtypes is not None and q.dtype not in self.dtypes:
            return f"no kernel for {q.dtype}"
        if self.head_dim is not None and q.shape[-1] > self.head_dim:
            return f"head dim {q.shape[-1]} is above {self.head_dim}"
        return None
