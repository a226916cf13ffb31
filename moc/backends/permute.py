"""Rows from the model's order into the table's and back."""

from __future__ import annotations

import torch
from torch import Tensor

from ..chunks.table import ChunkTable
from .triton import machine


def sort(x: Tensor, table: ChunkTable) -> Tensor:
    """x [B, H, N, D] from the model's order into the table's."""
    t = table.tensors(x.device)
    return _moved(x, t.order, t.inverse)


def unsort(x: Tensor, table: ChunkTable, like: Tensor) -> Tensor:
    """x [B, H, N, D] back into the model's order, laid out in memory as `like`."""
    t = table.tensors(x.device)
    return _moved(x, t.inverse, t.order, like)


def _moved(x: Tensor, index: Tensor, inverse: Tensor, like: Tensor | None = None) -> Tensor:
    plain = x.stride(-1) == 1 and not torch.compiler.is_compiling()
    if not plain or x.device.type != "cuda" or machine(x.device) is not None:
        return x.index_select(-2, index)
    from .triton.lib.permute import Move

    return Move.apply(x, index, inverse, like)
