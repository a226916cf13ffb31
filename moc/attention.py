"""The one public op."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from . import by_head, repair
from .autocast import as_one
from .backends import head_split, permute
from .backends.kept import KeptChoice
from .backends.registry import Call, Selected, first_of, select, wants_gradients
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
    backend: str | Selected = "auto",
    scale: float | None = None,
    training: bool = False,
    record=None,
    note: Callable[[str], None] | None = None,
    lse: Tensor | None = None,
    kept: KeptChoice | None = None,
) -> Tensor:
    """Mixture of Contexts self-attention (arXiv 2508.21058, eq. 1).

    q, k, v   [B, H, N, D] in the model's own token order, any strides; routing differs per sample, head and token.
              Under autocast they may differ in precision, as they may for torch's attention
    table     chunks of this sequence, from `build_chunks`
    backend   name of one, "auto", or the one that `registry.select` found for this call
    scale     of q.k; D**-0.5 by default
    training  applies drop-off and drop-in
    record    something with add(rows: slice, chosen: bool [B, H, R, C]) that wants to know what was chosen. Where heads
              have chunks of their own it hears of them if it has a `part`, as `Counts` has
    note      called with a sentence when a GPU has to do without its kernels, or with little memory
    lse       float32 [B, H, N], filled with the natural log-sum-exp of all that a row saw, pooled tail included: to
              merge the output with attention over other keys. It has no gradient
    kept      filled with the choice of this call or, where an equal call has filled it, taken in its place
    Returns [B, H, N, D] like q. Gradients flow to q, k and v through the selected keys; the choice itself has none.
    """
    if q.shape != k.shape or q.shape != v.shape or q.shape[-2] != table.length:
        raise MoCError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} must agree and hold {table.length} tokens."
        )
    q, k, v = as_one(q, k, v)
    if not q.dtype == k.dtype == v.dtype:
        raise MoCError(f"q is {q.dtype}, k {k.dtype} and v {v.dtype}: give all three one precision.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if routing.repair.repair_rows:
        if lse is not None:
            raise MoCError(
                "a result that is corrected by exact rows cannot be merged with other keys: leave it as it is."
            )
        bare = routing.changed(repair_rows=0)
        how = dict(backend=backend, scale=scale, training=training, record=record, note=note)
        out = moc_attention(q, k, v, table, bare, **how)  # type: ignore[arg-type]
        return repair.repaired(out, q, k, v, table, routing, scale)
    if routing.partition.by_head and not table.labelled:

        def one(*inputs, **seen) -> Tensor:
            return moc_attention(*inputs, backend=backend, scale=scale, training=training, note=note, **seen)

        return by_head.attend(q, k, v, table, routing, scale, one, record, lse)
    call = Call(q, table, routing, scale, training, wants_gradients(q, k, v))
    selected = backend if isinstance(backend, Selected) else select(backend, call)
    if selected.precision != routing.precision:
        routing = routing.changed(precision=selected.precision)
        call = replace(call, routing=routing)
    if selected.told is not None and note is not None:
        note(selected.told)
    if kept is not None and (training or call.gradients):
        raise MoCError("choices are used again without training and gradients only.")
    heads = q.shape[1]
    free = backend == "auto" or isinstance(backend, Selected)
    apart = free and q.device.type == "cuda" and not call.gradients
    apart = apart and head_split.allowed(q, routing, training, record)

    def attend(q: Tensor, k: Tensor, v: Tensor, record, lse: Tensor | None) -> Tensor:
        # of some heads nothing is kept: memory is short
        how = dict(scale=scale, training=training, record=record, kept=kept if q.shape[1] == heads else None)
        if table.identity:
            return selected.backend.attend(q, k, v, table, routing, **how, lse=lse)
        in_order = None if lse is None else torch.empty_like(lse)
        out = selected.backend.attend(*(permute.sort(x, table) for x in (q, k, v)), table, routing, **how, lse=in_order)
        if lse is not None and in_order is not None:
            lse.copy_(in_order.index_select(-1, table.tensors(q.device).inverse))
        return permute.unsort(out, table, q)

    while True:
        if selected.reason is not None and note is not None:
            note(f"MoC ran on {selected.backend.title}, which is slower: {selected.reason}")
        try:
            if apart:
                return head_split.by_heads(attend, q, k, v, record, lse, note, routing, kept)
            return attend(q, k, v, record, lse)
        except MoCError:  # what was asked for is wrong, not the machine
            raise
        except Exception as failure:
            if selected.backend.failed is None or not selected.others:
                raise
            reason = selected.backend.failed(q.device, failure)
            short = isinstance(failure, torch.OutOfMemoryError)
        if short and kept is not None:
            kept.give_up()
        # not before the error is gone: it holds on to what had been made
        head_split.forget(record, q.shape[1])
        if not (short and apart):
            logging.getLogger("mixture_of_contexts").warning("MoC runs without its GPU kernels: %s", reason)
        selected, apart = first_of(selected.others, call, reason), False
