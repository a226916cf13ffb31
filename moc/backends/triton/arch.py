"""What of the kernels runs on a device with these tensors."""

from __future__ import annotations

from torch import Tensor

from .. import health, library
from .block_sizes import capability, takes_gluon
from .dataflow import HOPPER, Arch

HEADS_BY_TMA = frozenset(("gather_sm90", "hot_chunks_sm90", "union_sm90"))  # copy k and v as they lie


def arch_of(q: Tensor, k: Tensor, v: Tensor) -> Arch:
    """q, k, v [B, H, N, D], of one precision."""
    if q.device.type != "cuda":
        return Arch(library=library.usable(q))
    hopper = frozenset[str]()
    if takes_gluon(q):
        from .lib.pipeline_sm90 import rows_of

        hopper = frozenset(HOPPER) - health.left_out(q.device)
        if rows_of(k) is None or rows_of(v) is None:
            hopper -= HEADS_BY_TMA
    return Arch(capability(q.device), hopper, library.usable(q))
