"""The one public op."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .autocast import as_one
from .backends import BACKENDS, eager, head_split, triton
from .chunks.table import ChunkTable
from .config import RoutingConfig
from .errors import MoCError


def moc_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: ChunkTable,
    routing: RoutingConfig,
    *,
    backend: str = "auto",
    scale: float | None = None,
    training: bool = False,
    record=None,
    note: Callable[[str], None] | None = None,
) -> Tensor:
    """Mixture of Contexts self-attention (arXiv 2508.21058, eq. 1).

    q, k, v   [B, H, N, D] in the model's own token order, any strides; routing differs per sample, head and token.
              Under autocast they may differ in precision, as they may for torch's attention
    table     chunks of this sequence, from `build_table`
    scale     of q.k; D**-0.5 by default
    training  applies drop-off and drop-in
    record    something with add(rows: slice, chosen: bool [B, H, R, C]) that wants to know what was chosen
    note      called with a sentence when a GPU has to do without its kernels, or with little memory
    Returns [B, H, N, D] like q. Gradients flow to q, k and v through the selected keys; the choice itself has none.
    """
    if q.shape != k.shape or q.shape != v.shape or q.shape[-2] != table.length:
        raise MoCError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} must agree and hold {table.length} tokens."
        )
    q, k, v = as_one(q, k, v)
    if not q.dtype == k.dtype == v.dtype:
        raise MoCError(f"q is {q.dtype}, k {k.dtype} and v {v.dtype}: give all three one precision.")
    if backend not in ("auto", *BACKENDS):
        raise MoCError(f"unknown backend {backend!r}; choose one of: auto, {', '.join(BACKENDS)}.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    def call(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, record) -> Tensor:
        if table.identity:
            return attend(q, k, v, table, routing, scale=scale, training=training, record=record)
        sorted_q, sorted_k, sorted_v = (triton.sort(x, table) for x in (q, k, v))
        out = attend(sorted_q, sorted_k, sorted_v, table, routing, scale=scale, training=training, record=record)
        return triton.unsort(out, table, q)

    if backend != "auto":
        return call(BACKENDS[backend], q, k, v, record)
    short = None
    plain = q.device.type == "cuda" and not triton.wants_gradients(q, k, v)
    if plain and head_split.allowed(q, routing, training, record):
        attend = partial(call, partial(_auto, note=note, spare=True))
        try:
            return head_split.by_heads(attend, q, k, v, record, note, routing)
        except torch.OutOfMemoryError as failure:
            short = triton.fails(q.device, failure)
            head_split.forget(record, q.shape[1])
    return call(partial(_auto, note=note, short=short), q, k, v, record)


def _auto(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, *, training: bool, record, note,
    spare: bool = False, short: str | None = None, **rest,
) -> Tensor:  # fmt: skip
    """The GPU's kernels where they can take the call, torch everywhere else and whenever they break off.

    spare: want of memory is for the caller to deal with. short: the kernels found no memory, even for a single head.
    """
    if q.device.type == "cuda":
        reason = short or triton.supports(q, table, routing, training, triton.wants_gradients(q, k, v), rest["scale"])
        if reason is None:
            try:
                return triton.attend(q, k, v, table, routing, training=training, record=record, **rest)
            except MoCError:  # what was asked for is wrong, not the machine
                raise
            except Exception as failure:
                if spare and isinstance(failure, torch.OutOfMemoryError):
                    raise
                reason = triton.fails(q.device, failure)
                head_split.forget(record, q.shape[1])
                logging.getLogger("mixture_of_contexts").warning("MoC runs without its GPU kernels: %s", reason)
        if note is not None:
            note(f"MoC ran on plain torch, which is slower: {reason}")
    return eager.attend(q, k, v, table, routing, training=training, record=record, **rest)
