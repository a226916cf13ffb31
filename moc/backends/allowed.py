"""What a backend says it computes. What it does not name is refused with a reason, never computed as another thing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import EIGHT_BITS, RoutingConfig

ANYWHERE = "anywhere"


@dataclass(frozen=True)
class Allowed:
    """rules and descriptors need no mention: every backend takes them from `rules.RULES` and `descriptors.DESCRIPTORS`.
    Nor do own and static: a backend meets them as a `ChunkTable`.

    tails, lists  values of these settings
    dtypes        of q, k and v; None: any
    head_dim      at most; None: any
    eight_bits    GPUs, by compute capability, on which it computes in 8 bits, or ANYWHERE
    """

    tails: tuple[str, ...]
    lists: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] | None = None
    head_dim: int | None = None
    eight_bits: tuple[tuple[int, int], ...] | str = ()

    def refuses(self, q: Tensor, routing: RoutingConfig) -> str | None:
        """Why a call is not for this backend, or None. q [B, H, N, D]."""
        for name, known in (("tail", self.tails), ("lists", self.lists)):
            if getattr(routing, name) not in known:
                return f"{name} {getattr(routing, name)!r} is none of those that it knows: {', '.join(known)}"
        if self.dtypes is not None and q.dtype not in self.dtypes:
            return f"no kernel for {q.dtype}"
        if self.head_dim is not None and q.shape[-1] > self.head_dim:
            return f"head dim {q.shape[-1]} is above {self.head_dim}"
        return self.no_eight_bits(q) if routing.precision == EIGHT_BITS else None

    def no_eight_bits(self, q: Tensor) -> str | None:
        """Why it does not compute a call in 8 bits, or None."""
        if self.eight_bits == ANYWHERE or (self.eight_bits and q.device.type != "cuda"):
            return None
        return None if _capability(q.device) in self.eight_bits else "8 bits are not faster here"


@torch.compiler.assume_constant_result
def _capability(device: torch.device) -> tuple[int, int] | None:
    from .triton import block_sizes

    return block_sizes.capability(device) if device.type == "cuda" else None
