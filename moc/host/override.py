"""The attention override: hands video self-attention to MoC and everything else to whoever was there before."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import torch
from torch import Tensor

from ..attention import moc_attention
from ..layout import TokenLayout
from ..trace import Reason
from .padding import Unpadded, unpad
from .run import BLOCK, FORWARD, Forward


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
    if forward is not None and _is_video(forward, q, k, v, heads * q.shape[-1] if skip_reshape else q.shape[-1]):
        out: Tensor | Reason = Reason.MASK  # LTX calls once for every group of queries that its mask treats alike
        if q.shape == k.shape:
            split = (q, k, v) if skip_reshape else (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
            block = options.get(BLOCK, options.get("block_index", 0))
            out = _video_attention(forward, *split, mask=mask, block=block, scale=kwargs.get("scale"))
        if isinstance(out, Tensor):
            return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
        forward.ran_dense(out)
    kwargs.update(
        mask=mask, attn_precision=attn_precision, skip_reshape=skip_reshape, skip_output_reshape=skip_output_reshape
    )
    if forward is not None and forward.previous is not None:
        return forward.previous(func, q, k, v, heads, **kwargs)
    return func(q, k, v, heads, **kwargs)


def _is_video(forward: Forward, q: Tensor, k: Tensor, v: Tensor, width: int) -> bool:
    """Self-attention of all video tokens, for all queries or for some of them."""
    plan, tokens, keys = forward.plan, q.shape[-2], k.shape[-2]
    if k.shape != v.shape or tokens < plan.video_tokens or plan.width not in (None, width):
        return False
    return q.shape == k.shape or (tokens < keys and plan.layout(keys, None) is not None)


def _video_attention(
    forward: Forward, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, block: int, scale: float | None
) -> Tensor | Reason:
    """q, k, v [B, H, N, D] -> [B, H, N, D], or why this call has to run dense."""
    run, patch = forward.run, forward.run.patch
    schedule = patch.settings.schedule
    if forward.reason is not None:
        return forward.reason
    layout = forward.plan.layout(q.shape[-2], forward.frame_ids)
    if layout is None:
        return Reason.LENGTH
    if not schedule.dense_first <= block < len(forward.plan.blocks) - schedule.dense_last:
        return Reason.BLOCK
    if layout.length < schedule.min_tokens:
        return Reason.SHORT
    unpadded = None
    if mask is not None:
        unpadded = _unpadded(forward, mask, layout)
        if unpadded is None:
            return Reason.MASK
        layout = unpadded.layout
    table, routing = run.table(layout)
    if routing is None:
        return Reason.NO_CHOICE

    training = _is_training(q)
    if training and (routing.drop_off or routing.drop_in):
        # other chunks in every step and block, the same ones when autograd runs this call again
        routing = replace(routing, seed=hash((routing.seed, forward.sigma, block)))
    counts = None
    shape = q.shape
    try:
        if unpadded is not None:
            q, k, v = (unpadded.take(x) for x in (q, k, v))
        if forward.recording:
            counts = patch.trace.counts(table, routing, q, k, scale)
        out = moc_attention(
            q,
            k,
            v,
            table,
            routing,
            backend=patch.backend,
            scale=scale,
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
        patch.trace.ran_routed(forward.step, block, counts)
    return out


def _is_training(q: Tensor) -> bool:
    flag = getattr(comfy.model_management, "in_training", None)  # not in ComfyUI 0.3.75
    return torch.is_grad_enabled() and q.requires_grad if flag is None else flag


def _unpadded(forward: Forward, mask: Tensor, layout: TokenLayout) -> Unpadded | None:
    if forward.unpadded is None or forward.unpadded[0] is not mask:
        forward.unpadded = mask, unpad(mask, layout)
    return forward.unpadded[1]
