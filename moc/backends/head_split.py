"""On out of memory a call is retried with half as many heads per launch, down to one: heads are independent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import RoutingConfig
from .kept import KeptChoice

_at_once: dict[tuple, int] = {}  # (device, shape and precision of q, routing) -> heads that fitted


def start() -> None:
    """A run begins: all heads are tried again, since there may be more memory than in the last one."""
    _at_once.clear()


def fitted(device: torch.device) -> dict[tuple, int]:
    """How many heads at once fitted on a device, for every kind of call that needed fewer than all: to be told to
    those that work on other heads of the same calls."""
    return {tuple(kind): heads for (where, *kind), heads in _at_once.items() if where == str(device)}


def fit(device: torch.device, found: dict[tuple, int]) -> None:
    """Work on no more heads at once than fitted elsewhere."""
    for kind, heads in found.items():
        key = (str(device), *kind)
        _at_once[key] = min(heads, _at_once.get(key, heads))


def allowed(q: Tensor, routing: RoutingConfig, training: bool, record) -> bool:
    """Whether some heads of q [B, H, N, D] may go without the others, where no gradients are wanted."""
    together = routing.budget.head_density or (training and routing.noise)
    apart = q.shape[1] > 1 and not together and (record is None or hasattr(record, "of"))
    return apart and not torch.compiler.is_compiling()


def by_heads(
    call: Callable[[Tensor, Tensor, Tensor, object, Tensor | None], Tensor], q: Tensor, k: Tensor, v: Tensor, record,
    lse: Tensor | None, note: Callable[[str], None] | None, routing: RoutingConfig, kept: KeptChoice | None = None,
) -> Tensor:  # fmt: skip
    """call(q, k, v, record, lse) for all heads of q, k, v [B, H, N, D]; when memory runs out, for half as many at a
    time, and so on. What fitted is remembered until `start`. Raises torch.OutOfMemoryError where one head finds no
    memory."""
    key, heads = (str(q.device), q.shape, q.dtype, routing), q.shape[1]
    while True:
        at_once = _at_once.get(key, heads)
        try:
            out = _in_parts(call, q, k, v, record, lse, at_once)
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
        else:
            if note is not None and at_once < heads:
                note(f"memory is short: MoC works on {at_once} of {heads} heads at a time, which costs little")
            return out
        if kept is not None:
            kept.give_up()
        # not before the error is gone: it holds on to what had been made
        _at_once[key] = -(-at_once // 2)
        forget(record, heads)


def _in_parts(call, q: Tensor, k: Tensor, v: Tensor, record, lse: Tensor | None, at_once: int) -> Tensor:
    if at_once >= q.shape[1]:
        return call(q, k, v, record, lse)
    out = torch.empty_like(q)
    for low in range(0, q.shape[1], at_once):
        some = slice(low, low + at_once)
        parts = None if lse is None else lse[:, some]
        out[:, some] = call(q[:, some], k[:, some], v[:, some], record and record.of(some), parts)
    return out


def out_of_memory(failure: Exception) -> bool:
    """Whether a call ran out of memory: libraries and the driver say it in their own words."""
    words = ("out of memory", "ALLOC_FAILED", "OUT_OF_MEMORY", "not enough memory")
    return isinstance(failure, torch.OutOfMemoryError) or any(word in str(failure) for word in words)


def forget(record, heads: int) -> None:
    """What a call that broke off has counted."""
    if hasattr(record, "frame_pairs"):
        record.frame_pairs(heads)[0].zero_()
    elif hasattr(record, "forget"):
        record.forget()
