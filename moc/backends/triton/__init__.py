"""NVIDIA GPUs from Ampere on, through Triton: no compiler, no wheel of our own. Forward and backward.

How it works: docs/kernels.md; what was measured: docs/performance.md.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from functools import cache

import torch
from torch import Tensor

from ...chunks.table import ChunkTable
from ...config import RoutingConfig
from ...errors import MoCError
from .. import head_split
from ..allowed import Allowed

ALLOWED = Allowed(
    tails=("none", "pooled"),
    lists=("token", "union"),
    dtypes=(torch.float16, torch.bfloat16, torch.float32),
    head_dim=128,
)
# Kernels choose by these rules and make these descriptors; others torch does, and the kernels attend (`by_torch.py`)
RULES = ("top-k", "top-p", "threshold", "top-k or top-p")
DESCRIPTORS = ("mean", "minmax", "mean+max+min")
MOST_CHUNKS = 2**16
OLDEST = (3, 4)  # Triton: 3.3 fails to build the router, 3.2 takes the whole process with it
_log = logging.getLogger("mixture_of_contexts")


_failed: dict[str, str] = {}  # device -> why the kernels could not be built there


@torch.compiler.assume_constant_result
def _machine(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device."""
    missing = _triton_missing()
    if missing is not None:
        return missing
    if device.type != "cuda":
        interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
        return None if interpreted else f"Triton needs a CUDA device, the tensors are on {device.type}"
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernels are built for NVIDIA GPUs from compute capability 8.0 on"
    return _failed.get(str(device))


@cache
def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        version = importlib.import_module("triton").__version__
    except Exception as failure:
        return f"Triton does not start ({type(failure).__name__}: {failure})"[:200]
    return too_old(version)


def too_old(version: str) -> str | None:
    """What to say about a Triton that does not build all kernels."""
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= OLDEST:
        return None
    return f"Triton {version} is too old for MoC's kernels: they need 3.4, which comes with PyTorch 2.8"


def wants_gradients(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def supports(
    q: Tensor, table: ChunkTable, routing: RoutingConfig, training: bool = False, gradients: bool = False,
    scale: float = 1.0,
) -> str | None:  # fmt: skip
    """Why this backend cannot take the call, or None when it can."""
    if scale <= 0:
        return f"scale {scale} is not positive"
    refused = ALLOWED.refuses(q, routing)
    if refused is not None:
        return refused
    if len(table.chunks) > MOST_CHUNKS or table.length * _most_choices(table, routing) >= 2**31:
        return "more chunks or choices than 32-bit lists hold"
    if gradients:
        if routing.lists != "token":
            return "gradients are needed, and these kernels have none for lists that rows share"
        if torch.compiler.is_compiling():
            return "gradients are needed inside torch.compile"
    if training and (routing.drop_off or routing.drop_in) and routing.lists != "token":
        return "there is no drop-off and drop-in for lists that rows share"
    return _machine(q.device)


def _most_choices(table: ChunkTable, routing: RoutingConfig) -> int:
    """Of a row; by another rule than the k best it may be all chunks."""
    return max(1, table.top_k(routing)) if routing.same_k else len(table.chunks)


def fails(device: torch.device, failure: Exception) -> str:
    """Why a call broke off, in one line. Want of memory passes; a kernel that does not build is remembered."""
    reason = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
    if not head_split.out_of_memory(failure):
        _failed[str(device)] = reason
    return reason


def sort(x: Tensor, table: ChunkTable) -> Tensor:
    """x [B, H, N, D] from the model's order into the table's."""
    t = table.tensors(x.device)
    if not _moves(x):
        return x.index_select(-2, t.order)
    from .autograd import Move

    return Move.apply(x, t.order, t.inverse)


def unsort(x: Tensor, table: ChunkTable, like: Tensor) -> Tensor:
    """x [B, H, N, D] back into the model's order, laid out in memory as `like`."""
    t = table.tensors(x.device)
    if not _moves(x):
        return x.index_select(-2, t.inverse)
    from .autograd import Move

    return Move.apply(x, t.inverse, t.order, like)


def _moves(x: Tensor) -> bool:
    """Whether our kernel can move the rows."""
    plain = x.stride(-1) == 1 and not torch.compiler.is_compiling()
    return plain and x.device.type == "cuda" and _machine(x.device) is None


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, *, scale: float, training: bool, record
) -> Tensor:
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]."""
    gradients = wants_gradients(q, k, v)
    reason = supports(q, table, routing, training, gradients, scale)
    if reason is not None:
        raise MoCError(f"the triton backend cannot run this: {reason}.")
    from . import custom_op
    from .autograd import Attend

    call = Attend.apply if gradients else custom_op.plain
    if record is None and torch.compiler.is_compiling() and not training:
        return custom_op.compiled(q, k, v, table, routing, scale)
    while True:
        try:
            return call(q, k, v, table, routing, scale, record, training)
        except Exception as failure:
            if head_split.out_of_memory(failure) and not isinstance(failure, torch.OutOfMemoryError):
                raise torch.OutOfMemoryError(str(failure)) from None
            if not _remedied(q, failure):
                raise  # here: a frame that raised what it was handed would keep both alive, and all tensors of the call
        head_split.forget(record, q.shape[1])


def _remedied(q: Tensor, failure: Exception) -> bool:
    """Leave out what failed, from now on. Not where that is no remedy, or was one already."""
    from .attend.own import RefusedError
    from .block_sizes import without_gluon

    if isinstance(failure, torch.OutOfMemoryError):
        return False
    if isinstance(failure, RefusedError):
        _log.warning("MoC: torch's attention does not run here, MoC's kernels take over: %s", failure)
        return True
    if without_gluon(q, str(failure)):
        _log.warning("MoC's kernels for Hopper do not run here, its other kernels take over: %s", failure)
        return True
    return False
