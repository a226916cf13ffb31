"""Choices as bits: bit c % 32 of word c // 32 says that a row chose chunk c."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def pack(chosen: Tensor) -> Tensor:
    """chosen [heads, R, C] -> [heads, W, R]."""
    bit = torch.arange(32, device=chosen.device)
    words = pad(chosen, (0, -chosen.shape[-1] % 32)).unflatten(-1, (-1, 32)).long() << bit
    return words.sum(-1).to(torch.int32).mT


def unpack(sel: Tensor, chunks: int, rows: slice) -> Tensor:
    """sel [heads, W, N] -> what the rows chose, [heads, R, C] bool."""
    bit = torch.arange(32, device=sel.device, dtype=torch.int32)
    words = sel[:, :, rows].mT  # [heads, R, W]
    return ((words[..., None] >> bit) & 1).bool().flatten(-2)[..., :chunks]
