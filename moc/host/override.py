"""The attention override: hands video self-attention to MoC and everything else to whoever was there before."""

from __future__ import annotations

import comfy.model_management
import torch
from torch import Tensor

from ..attention import moc_attention
from ..backends import cost_model, registry
from ..trace.reasons import Reason
from ..trace.trace import AHEAD
from .block_numbers import BLOCK
from .host_call import HostCall, override
from .malloc_graph import outside_malloc_graph
from .probed_call import look_at
from .state import FORWARD, READER, Call, Forward


@override(FORWARD)
def attention_override(forward: Forward, call: HostCall) -> Tensor:
    if call.q.shape != call.k.shape:  # LTX calls once for every group of queries that its mask treats alike
        forward.ran_dense(Reason.MASK)
        return call.dense()
    routed = _call(forward, call)
    if isinstance(routed, Call):
        if forward.run.patch.probe is not None:
            return look_at(forward, routed, call)
        with outside_malloc_graph():
            backend = _worth_it(forward, routed, call.q)
            out = backend if isinstance(backend, Reason) else _video_attention(forward, routed, call, backend)
            if isinstance(out, Tensor):
                return call.handed_back(out)
        routed = out
    forward.ran_dense(routed)
    return call.dense()


def _call(forward: Forward, call: HostCall) -> Call | Reason:
    """What there is to know before a call is routed, or why it has to run dense."""
    run, (block, _) = forward.run, call.options.get(BLOCK) or (call.options.get("block_index", 0), 0)
    schedule = run.patch.settings.schedule
    if forward.reason is not None:
        return forward.reason
    layout = forward.video.layout(call.q.shape[-2])
    if layout is None:
        return Reason.LENGTH
    if schedule.is_dense(block, len(forward.video.sequence.blocks)):
        return Reason.BLOCK
    if layout.length < schedule.min_tokens:
        return Reason.SHORT
    unpadded = None
    if call.mask is not None:
        unpadded = forward.video.without_padding(call.mask, layout)
        if unpadded is None:
            return Reason.MASK
        layout = unpadded.layout
    table, routing = run.table(layout, block)
    if routing is None:
        return Reason.NO_CHOICE
    return Call(block, table, routing, unpadded, call.scale)


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
    forward: Forward, call: Call, host_call: HostCall, backend: str | registry.Selected
) -> Tensor | Reason:
    """[B, H, N, D], or why this call has to run dense."""
    q, k, v = host_call.q, host_call.k, host_call.v
    run, patch, reader = forward.run, forward.run.patch, host_call.options.get(READER)
    table, routing, unpadded = call.table, call.routing, call.unpadded
    if reader is not None and (not reader.serves(host_call.options) or reader.cannot(host_call)):
        reader = None
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
        lse = None if reader is None else torch.empty(q.shape[:-1], device=q.device)
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
            lse=lse,
        )
        if reader is not None:
            out = reader.beside_routed(host_call, table.layout, q, out, lse)
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
