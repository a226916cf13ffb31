"""The call as one opaque operator, so that torch.compile can put it into a graph."""

from __future__ import annotations

import re
from itertools import count

import torch
from torch import Tensor

from ...chunks.table import ChunkTable
from ...config import RoutingConfig
from ..kept import KeptChoice
from .forward import SavedForBackward, empty_output, run

# The pack can be imported under two names at once: each import has an operator of its own
_NAME = re.sub(r"\W", "_", __package__ or "moc_triton")
_numbers = count()
_numbered: dict[int, tuple[ChunkTable, RoutingConfig]] = {}
_known: dict[tuple[int, RoutingConfig], int] = {}


@torch.library.custom_op(f"{_NAME}::attend", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, number: int, scale: float) -> Tensor:
    table, routing = _numbered[number]
    return run(q, k, v, table, routing, scale)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, number: int, scale: float) -> Tensor:
    return empty_output(q)


@torch.compiler.assume_constant_result
def _number_of(table: ChunkTable, routing: RoutingConfig) -> int:
    """Operators take tensors and numbers only: tables are kept by number for as long as the process compiles."""
    key = id(table), routing
    if key not in _known:
        _known[key] = next(_numbers)
        _numbered[_known[key]] = table, routing
    return _known[key]


def compiled(q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float) -> Tensor:
    return _attend(q, k, v, _number_of(table, routing), scale)


@torch.compiler.disable
def plain(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, record, training: bool,
    lse: Tensor | None, kept: KeptChoice | None = None,
) -> Tensor:  # fmt: skip
    keep = None if lse is None else SavedForBackward.of(q, choices=False)
    out = run(q, k, v, table, routing, scale, record, keep=keep, training=training, kept=kept)
    if keep is not None:
        keep.hand_over(lse)
    return out
