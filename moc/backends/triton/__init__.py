"""NVIDIA GPUs from Ampere on, through Triton: no compiler, no wheel of our own. Forward and backward.

How it works: docs/kernels.md; what was measured: docs/performance.md.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from functools import cache, partial

import torch
from torch import Tensor

from ...chunks.table import ChunkTable
from ...config import RoutingConfig
from .. import head_split, health
from ..allowed import Allowed
from ..kept import KeptChoice
from ..registry import Backend, Call, wants_gradients

ALLOWED = Allowed(
    tails=("none", "pooled"),
    lists=("token", "union"),
    dtypes=(torch.float16, torch.bfloat16, torch.float32),
    head_dim=128,
    # where the kernels for Hopper are not the faster ones, and the chip has many 8-bit products
    eight_bits=((8, 0), (8, 6), (8, 7), (8, 9), (12, 0), (12, 1)),
)
# Kernels choose by these rules and make these descriptors; others torch does, and the kernels attend (`by_torch.py`)
RULES = ("top-k", "top-p", "threshold", "top-k or top-p")
DESCRIPTORS = ("mean", "minmax", "mean+max+min")
MOST_CHUNKS = 2**16
OLDEST = (3, 4)  # Triton: 3.3 fails to build the router, 3.2 takes the whole process with it


@torch.compiler.assume_constant_result
def machine(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device."""
    missing = _triton_missing()
    if missing is not None:
        return missing
    if device.type != "cuda":
        interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
        return None if interpreted else f"Triton needs a CUDA device, the tensors are on {device.type}"
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return "the kernels are built for NVIDIA GPUs from compute capability 8.0 on"
    return health.reason(device, health.KERNELS)


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


def supports(call: Call) -> str | None:
    """Why the kernels cannot take a call whose settings are allowed, or None when they can."""
    table, routing = call.table, call.routing
    if call.scale <= 0:
        return f"scale {call.scale} is not positive"
    if len(table.chunks) > MOST_CHUNKS or table.length * _most_choices(table, routing) >= 2**31:
        return "more chunks or choices than 32-bit lists hold"
    if call.gradients:
        if table.owns_nothing:
            return "gradients are needed, and these kernels have none where rows own nothing"
        if routing.lists != "token":
            return "gradients are needed, and these kernels have none for lists that rows share"
        if torch.compiler.is_compiling():
            return "gradients are needed inside torch.compile"
    if call.training and routing.noise and routing.lists != "token":
        return "there is no drop-off and drop-in for lists that rows share"
    return machine(call.q.device)


def rule_of(routing: RoutingConfig) -> str | None:
    """The rule that kernels choose by; None where torch selects."""
    return routing.budget.rule if routing.by_row and routing.budget.rule in RULES else None


def _most_choices(table: ChunkTable, routing: RoutingConfig) -> int:
    """Of a row; by another rule than the k best it may be all chunks."""
    return max(1, table.top_k(routing)) if routing.same_k else len(table.chunks)


def failed(device: torch.device, failure: Exception) -> str:
    """Why a call broke off, in one line. Want of memory passes; a kernel that does not build is remembered."""
    if head_split.out_of_memory(failure):
        return f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
    return health.leave_out(device, health.KERNELS, failure)


def attention(  # not `attend`, which is a room
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, *, scale: float, training: bool, record,
    lse: Tensor | None = None, kept: KeptChoice | None = None,
) -> Tensor:  # fmt: skip
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]; fills lse [B, H, N]."""
    from . import custom_op
    from .autograd import Attend

    if record is None and lse is None and torch.compiler.is_compiling() and not training:
        return custom_op.compiled(q, k, v, table, routing, scale)
    call = Attend.apply if wants_gradients(q, k, v) else partial(custom_op.plain, kept=kept)
    while True:  # once more after every variant that fails
        try:
            return call(q, k, v, table, routing, scale, record, training, lse)
        except health.VariantError:
            pass  # a frame that raised what it was handed would keep both alive, and all tensors of the call
        except Exception as failure:
            if head_split.out_of_memory(failure) and not isinstance(failure, torch.OutOfMemoryError):
                raise torch.OutOfMemoryError(str(failure)) from None
            raise
        head_split.forget(record, q.shape[1])


BACKEND = Backend("triton", attention, ALLOWED, supports, devices=("cuda",), failed=failed, title="its GPU kernels")
