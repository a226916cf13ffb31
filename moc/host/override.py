"""The attention override: hands video self-attention to MoC and everything else to whoever was there before."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ..attention import moc_attention
from ..backends import registry
from ..backends.kept import KeptChoice
from ..backends.measured import DENSE, ROUTED
from ..trace.pair_counts import Counts
from ..trace.reasons import Anew, Reason
from ..trace.trace import AHEAD
from .block_numbers import BLOCK
from .break_even import choose, is_training
from .host_call import HostCall, override
from .malloc_graph import outside_malloc_graph
from .probed_call import look_at
from .state import FORWARD, READER, Call, Forward


@override(FORWARD)
def attention_override(forward: Forward, call: HostCall) -> Tensor:
    if call.q.shape != call.k.shape:  # LTX calls once for every group of queries that its mask treats alike
        forward.ran_dense(Reason.MASK)
        return call.dense()
    routed = call_of(forward, call)
    if isinstance(routed, Call):
        if forward.run.patch.probe is not None:
            return look_at(forward, routed, call)
        return _faster_of(forward, routed, call)
    forward.ran_dense(routed)
    return call.dense()


def _faster_of(forward: Forward, call: Call, host_call: HostCall) -> Tensor:
    """The call by the faster way; where that is being measured, the other way is computed beside it."""
    note = forward.run.patch.trace.note
    with outside_malloc_graph():
        choice = choose(forward, call, host_call)
        reason = choice.dense
        if reason is None:
            out = choice.timed(ROUTED, lambda: _counted(forward, call, host_call, choice.backend))
            if isinstance(out, Tensor):
                choice.beside(DENSE, host_call.dense, note)
                return out
            reason = out
    forward.ran_dense(reason)
    out = choice.timed(DENSE, host_call.dense)
    if choice.dense is not None:
        with outside_malloc_graph():
            choice.beside(ROUTED, lambda: _route(forward, call, host_call, choice.backend)[0], note)
    return out


def call_of(forward: Forward, call: HostCall) -> Call | Reason:
    """What there is to know before a call is routed, or why it has to run dense."""
    run, (block, place) = forward.run, call.options.get(BLOCK) or (call.options.get("block_index", 0), 0)
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
    table, routing = run.table(layout, block, run.share(forward.sigma))
    if routing is None:
        return Reason.NO_CHOICE
    return Call(block, table, routing, unpadded, call.scale, place)


def _counted(forward: Forward, call: Call, host_call: HostCall, backend: str | registry.Selected) -> Tensor | Reason:
    """`_route`, in the trace; or why this call has to run dense."""
    run, anew, kept = forward.run, None, None
    if run.reuse.on:
        anew = Anew.HEADS if call.routing.partition.by_head else None
        if is_training(host_call.q) or registry.wants_gradients(host_call.q, host_call.k, host_call.v):
            anew = Anew.TRAINING
        kept = None if anew else run.reuse.of(_site(forward, call, host_call))
    try:
        out, counts = _route(forward, call, host_call, backend, record=forward.recording, kept=kept)
    except Exception as error:
        if torch.is_grad_enabled():  # autograd needs the same operations when it runs this call again
            raise
        forward.reason = run.failed(error)
        return forward.reason
    if forward.recording:
        run.reuse.ended(kept, anew)
        run.patch.trace.ran_routed(forward.step, call.block, counts)
        forward.routed += 1
        if forward.routed == AHEAD:
            run.hand_over()
    return out


def _site(forward: Forward, call: Call, host_call: HostCall) -> Hashable:
    """What tells this call from all others at its noise level."""
    module, options = (call.block, call.place), host_call.options
    forward.calls[module] += 1
    prompts = tuple(options.get("cond_or_uncond") or ()), tuple(options.get("uuids") or ())
    return module, forward.calls[module], prompts, call.table.layout, host_call.q.device


def _route(
    forward: Forward,
    call: Call,
    host_call: HostCall,
    backend: str | registry.Selected,
    record: bool = False,
    kept: KeptChoice | None = None,
) -> tuple[Tensor, Counts | None]:
    """(what the host wants back, what was counted)."""
    trace, routing, reader = forward.run.patch.trace, call.routing, host_call.options.get(READER)
    if reader is not None and reader.layout_of(host_call) is None:
        reader = None
    split = host_call.q, host_call.k, host_call.v
    q, k, v = split if call.unpadded is None else map(call.unpadded.take, split)
    training = is_training(host_call.q)
    if training and routing.noise:
        # other chunks in every step and block, the same ones when autograd runs this call again
        routing = routing.changed(seed=hash((routing.noise.seed, forward.sigma, call.block)))
    counts = trace.counts(call.table, routing, q, k, call.scale) if record else None
    lse = None if reader is None else torch.empty(q.shape[:-1], device=q.device)
    out = moc_attention(
        q,
        k,
        v,
        call.table,
        routing,
        backend=backend,
        scale=call.scale,
        training=training,
        record=counts,
        note=trace.note,
        lse=lse,
        kept=kept,
    )
    if reader is not None:
        out = reader.beside_routed(host_call, call.table.layout, q, out, lse)
    if call.unpadded is not None:
        out = call.unpadded.put(out, host_call.q.shape)
    return host_call.handed_back(out), counts
