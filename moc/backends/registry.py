"""The backends by name, what each says of a call, and which one takes it. Asked once a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..chunks.table import ChunkTable
from ..config import EIGHT_BITS, RoutingConfig
from ..errors import MoCError
from .allowed import Allowed

ANY = "any"  # device


@dataclass(frozen=True, eq=False)
class Call:
    """What a backend is asked about. q [B, H, N, D], in any order; gradients: wanted of q, k or v."""

    q: Tensor
    table: ChunkTable
    routing: RoutingConfig
    scale: float = 1.0
    training: bool = False
    gradients: bool = False


@dataclass(frozen=True, eq=False)
class Backend:
    """One way to compute the attention.

    attend    (q, k, v, table, routing, *, scale, training, record, lse, kept) on sorted [B, H, N, D] tensors ->
              [B, H, N, D]; lse [B, H, N] or None is filled with the rows' natural log-sum-exp; kept: `KeptChoice` or
              None
    allowed   settings, precisions and head dims that it computes; all others are refused
    supports  why it cannot take a call whose settings are allowed, or None
    devices   types of device where "auto" takes it, or ANY; before the backends that stand behind it in BACKENDS
    failed    remembers what broke off on a device and says why in a line, so that "auto" goes on with the next backend;
              None: errors go to the caller
    title     how a user knows it
    """

    name: str
    attend: Callable[..., Tensor]
    allowed: Allowed
    supports: Callable[[Call], str | None] = lambda call: None
    devices: tuple[str, ...] = ()
    failed: Callable[[torch.device, Exception], str] | None = None
    title: str = ""

    def refuses(self, call: Call) -> str | None:
        """Why this backend does not take a call, or None."""
        return self.allowed.refuses(call.q, call.routing) or self.supports(call)


BACKENDS: dict[str, Backend] = {}  # filled by `backends/__init__.py`


@dataclass(frozen=True, eq=False)
class Selected:
    """Who takes a call. reason: why nobody before it does, or None. others: who "auto" asks should it fail.

    precision: that the call runs in; told: that and why, for the report, where 8 bits were asked for.
    """

    backend: Backend
    reason: str | None = None
    others: tuple[Backend, ...] = ()
    precision: str = "auto"
    told: str | None = None


def select(name: str, call: Call) -> Selected:
    """The backend of that name or, with "auto", the first that takes the call. Raises MoCError where none does."""
    if name == "auto":
        kind = call.q.device.type
        backends = tuple(b for b in BACKENDS.values() if kind in b.devices or ANY in b.devices)
    elif name in BACKENDS:
        backends = (BACKENDS[name],)
    else:
        raise MoCError(f"unknown backend {name!r}; choose one of: auto, {', '.join(sorted(BACKENDS))}.")
    if call.routing.precision != EIGHT_BITS:
        return replace(first_of(backends, call), precision=call.routing.precision)
    wide = replace(call, routing=call.routing.changed(precision="16 bits"))
    selected, refused = first_of(backends, wide), None
    if call.training or call.gradients:
        refused = "training stays in 16 bits"
    elif name == "auto":  # not the next backend: one that only simulates 8 bits is slower than 16 bits
        refused = selected.backend.allowed.no_eight_bits(call.q)
    if refused is not None:
        return replace(selected, precision="16 bits", told=f"16 bits and not 8: {refused}")
    return replace(first_of(backends, call), precision=EIGHT_BITS, told="routed in 8 bits, as asked")


def first_of(backends: tuple[Backend, ...], call: Call, reason: str | None = None) -> Selected:
    """The first of some backends that takes the call. reason: why those before them do not."""
    for i, backend in enumerate(backends):
        refused = backend.refuses(call)
        if refused is None:
            return Selected(backend, reason, backends[i + 1 :])
        reason = reason or refused
    last = backends[-1]
    raise MoCError(f"the {last.name} backend cannot run this: {last.refuses(call)}.")


def wants_gradients(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
