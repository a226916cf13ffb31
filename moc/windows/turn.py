"""Keys at another place in time: rotary positions are rotations, so that a key that was made at one place is turned to
another one by the rotation that lies between them (RoFormer, arXiv 2104.09864, eq. 16)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotation:
    """cos, sin  [D/2], or [H, D/2] where every head turns in its own way, float32; 1 and 0 where time turns nothing
    halves    the channels of a pair lie half the head apart; else they are neighbours
    """

    cos: Tensor
    sin: Tensor
    halves: bool = False

    def to(self, device: torch.device) -> Rotation:
        return self if self.cos.device == device else Rotation(self.cos.to(device), self.sin.to(device), self.halves)


def turn(k: Tensor, rotation: Rotation) -> Tensor:
    """k [B, H, N, D] after the rotary embedding -> the same keys as if they stood elsewhere, in k's precision."""
    cos, sin = (x.unsqueeze(-2) for x in (rotation.cos, rotation.sin))
    a, b = k.float().chunk(2, -1) if rotation.halves else k.float().unflatten(-1, (-1, 2)).unbind(-1)
    out = k.new_empty(k.shape)
    parts = out.chunk(2, -1) if rotation.halves else out.unflatten(-1, (-1, 2)).unbind(-1)
    parts[0].copy_(a * cos - b * sin)
    parts[1].copy_(a * sin + b * cos)
    return out
