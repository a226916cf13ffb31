"""The attention override: hands video self-attention to MoC and everything else to whoever was there before."""

from __future__ import annotations

from functools import partial
from weakref import ref

import comfy.model_management
import torch
from torch import Tensor

from ..attention import moc_attention
from ..backends import cost_model, registry
from ..chunks.layout import TokenLayout
from ..trace.reasons import Reason
from ..trace.trace import AHEAD
from .adapters import Sequence
from .malloc_graph import outside_malloc_graph
from .probed_call import look_at
from .state import BLOCK, FORWARD, READER, Call, Forward
from .text_padding import Unpadded, unpad


@torch.compiler.disable  # a compiled graph would bake in the settings of the run that traced it
def attention_override(
    func,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs,
) -> Tensor:
    """q, k, v [B, N, H*D], with skip_reshape [B, H, N, D]; returns the first, with skip_output_reshape the second."""
    options = kwargs.get("transformer_options") or {}
    forward: Forward | None = options.get(FORWARD)
    kwargs.update(
        mask=mask, attn_precision=attn_precision, skip_reshape=skip_reshape, skip_output_reshape=skip_output_reshape
    )
    others = func if forward is None or forward.previous is None else partial(forward.previous, func)
    dense = partial(others, q, k, v, heads, **kwargs)
    width = heads * q.shape[-1] if skip_reshape else q.shape[-1]
    if forward is None or not is_video(forward.video.sequence, q, k, v, width):
        return dense()
    out: Tensor | Reason = Reason.MASK  # LTX calls once for every group of queries that its mask treats alike
    if q.shape == k.shape:
        block, reader = options.get(BLOCK, options.get("block_index", 0)), options.get(READER)
        call = _call(forward, mask, q.shape[-2], block, kwargs.get("scale"))
        if isinstance(call, Call) and reader is not None and reader.serves(options) and forward.run.patch.probe is None:
            call = Reason.BANK  # the bank's override stands behind us, among the others
        if isinstance(call, Reason):
            out = call
        else:
            split = tuple(x if skip_reshape else x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
            if forward.run.patch.probe is not None:
                return look_at(forward, call, *split, dense=dense, joined=not skip_output_reshape)
            with outside_malloc_graph():
                selected = _worth_it(forward, call, split[0])
                out = (
                    selected
                    if isinstance(selected, Reason)
                    else _video_attention(forward, call, split[0], split[1], split[2], selected)
                )
    if isinstance(out, Tensor):
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
    forward.ran_dense(out)
    return dense()


def is_video(sequence: Sequence, q: Tensor, k: Tensor, v: Tensor, width: int) -> bool:
    """Self-attention of all video tokens, for all queries or for some of them."""
    tokens, keys = q.shape[-2], k.shape[-2]
    if k.shape != v.shape or tokens < sequence.video_tokens or sequence.width not in (None, width):
        return False
    return q.shape == k.shape or (tokens < keys and sequence.layout(keys, None) is not None)


def _call(forward: Forward, mask: Tensor | None, length: int, block: int, scale: float | None) -> Call | Reason:
    """What there is to know before a call of `length` tokens is routed, or why it has to run dense."""
    run = forward.run
    schedule = run.patch.settings.schedule
    if forward.reason is not None:
        return forward.reason
    layout = forward.video.layout(length)
    if layout is None:
        return Reason.LENGTH
    if schedule.is_dense(block, len(forward.video.sequence.blocks)):
        return Reason.BLOCK
    if layout.length < schedule.min_tokens:
        return Reason.SHORT
    unpadded = None
    if mask is not None:
        unpadded = _unpadded(forward, mask, layout)
        if unpadded is None:
            return Reason.MASK
        layout = unpadded.layout
    table, routing = run.table(layout, block)
    if routing is None:
        return Reason.NO_CHOICE
    return Call(block, table, routing, unpadded, scale)


def _worth_it(forward: Forward, call: Call, q: Tensor) -> str | registry.Selected | Reason:
    """The backend for a call or, if dense attention would be faster and nobody has said what to do (no min_tokens, no
    backend), why."""
    patch = forward.run.patch
    if patch.backend != "auto" or patch.settings.schedule.min_tokens or not cost_model.applies(q.device):
        return patch.backend
    if _is_training(q) or torch.is_grad_enabled():
        return patch.backend  # who trains with MoC trains what it does on long films
    scale = q.shape[-1] ** -0.5 if call.scale is None else call.scale
    selected = registry.select("auto", registry.Call(q, call.table, call.routing, scale))
    if cost_model.pays(q, call.table, call.routing, kernels=selected.reason is None):
        return selected
    if selected.reason is None:
        return Reason.SHORT
    patch.trace.note(f"MoC's GPU kernels do not run here: {selected.reason}")
    return Reason.KERNELS


def _video_attention(
    forward: Forward, call: Call, q: Tensor, k: Tensor, v: Tensor, backend: str | registry.Selected
) -> Tensor | Reason:
    """q, k, v [B, H, N, D] -> [B, H, N, D], or why this call has to run dense."""
    run, patch = forward.run, forward.run.patch
    table, routing, unpadded = call.table, call.routing, call.unpadded
    training = _is_training(q)
    if training and routing.noise:
        # other chunks in every step and block, the same ones when autograd runs this call again
        routing = routing.changed(seed=hash((routing.noise.seed, forward.sigma, call.block)))
    counts = None
    shape = q.shape
    try:
        if unpadded is not None:
            q, k, v = (unpadded.take(x) for x in (q, k, v))
        if forward.recording:
            counts = patch.trace.counts(table, routing, q, k, call.scale)
        out = moc_attention(
            q,
            k,
            v,
            table,
            routing,
            backend=backend,
            scale=call.scale,
            training=training,
            record=counts,
            note=patch.trace.note,
        )
        if unpadded is not None:
            out = unpadded.put(out, shape)
    except Exception as error:
        if torch.is_grad_enabled():  # autograd needs the same operations when it runs this call again
            raise
        forward.reason = run.failed(error)
        return forward.reason
    if forward.recording:
        patch.trace.ran_routed(forward.step, call.block, counts)
        forward.routed += 1
        if forward.routed == AHEAD:
            run.hand_over()
    return out


def _is_training(q: Tensor) -> bool:
    flag = getattr(comfy.model_management, "in_training", None)  # not in ComfyUI 0.3.75
    return torch.is_grad_enabled() and q.requires_grad if flag is None else flag


def _unpadded(forward: Forward, mask: Tensor, layout: TokenLayout) -> Unpadded | None:
    if forward.unpadded is None or forward.unpadded[0]() is not mask:
        with outside_malloc_graph():
            forward.unpadded = ref(mask), unpad(mask, layout)
    return forward.unpadded[1]
