"""The attention override: hands video self-attention to MoC and everything else to whoever was there before."""

from __future__ import annotations

from functools import partial
from weakref import ref

import torch
from torch import Tensor

from ..attention import moc_attention
from ..backends import registry
from ..backends.measured import DENSE, ROUTED
from ..chunks.layout import TokenLayout
from ..trace.pair_counts import Counts
from ..trace.reasons import Reason
from ..trace.trace import AHEAD
from .adapters import Sequence
from .break_even import Choice, choose, is_training
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
    call: Call | Reason = Reason.MASK  # LTX calls once for every group of queries that its mask treats alike
    if q.shape == k.shape:
        block, reader = options.get(BLOCK, options.get("block_index", 0)), options.get(READER)
        call = _call(forward, mask, q.shape[-2], block, kwargs.get("scale"))
        if isinstance(call, Call) and reader is not None and reader.serves(options) and forward.run.patch.probe is None:
            call = Reason.BANK  # the bank's override stands behind us, among the others
    if isinstance(call, Reason):
        forward.ran_dense(call)
        return dense()
    split = tuple(x if skip_reshape else x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if forward.run.patch.probe is not None:
        return look_at(forward, call, *split, dense=dense, joined=not skip_output_reshape)
    return _faster_of(forward, call, split, dense, not skip_output_reshape, choose(forward, call, split[0], dense))


def _faster_of(
    forward: Forward, call: Call, split: tuple[Tensor, ...], dense: partial, joined: bool, choice: Choice
) -> Tensor:
    """The call as the choice says, and where it is timed the other way beside it. split: q, k, v [B, H, N, D]."""
    reason, note = choice.dense, forward.run.patch.trace.note
    if reason is None:
        with outside_malloc_graph():
            out = choice.timed(ROUTED, lambda: _counted(forward, call, split, choice.backend, joined))
            if isinstance(out, Tensor):
                choice.beside(DENSE, dense, note)
                return out
            reason = out
    forward.ran_dense(reason)
    out = choice.timed(DENSE, dense)
    if choice.dense is not None:
        with outside_malloc_graph():
            choice.beside(ROUTED, lambda: _route(forward, call, split, choice.backend, joined)[0], note)
    return out


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
    table, routing = run.table(layout, block, run.share(forward.sigma))
    if routing is None:
        return Reason.NO_CHOICE
    return Call(block, table, routing, unpadded, scale)


def _counted(
    forward: Forward, call: Call, split: tuple[Tensor, ...], backend: str | registry.Selected, joined: bool
) -> Tensor | Reason:
    """`_route`, in the trace; or why this call has to run dense."""
    run = forward.run
    try:
        out, counts = _route(forward, call, split, backend, joined, record=forward.recording)
    except Exception as error:
        if torch.is_grad_enabled():  # autograd needs the same operations when it runs this call again
            raise
        forward.reason = run.failed(error)
        return forward.reason
    if forward.recording:
        run.patch.trace.ran_routed(forward.step, call.block, counts)
        forward.routed += 1
        if forward.routed == AHEAD:
            run.hand_over()
    return out


def _route(
    forward: Forward,
    call: Call,
    split: tuple[Tensor, ...],
    backend: str | registry.Selected,
    joined: bool,
    record: bool = False,
) -> tuple[Tensor, Counts | None]:
    """([B, N, H*D] if joined, else [B, H, N, D]; what was counted)."""
    trace, routing = forward.run.patch.trace, call.routing
    q, k, v = split if call.unpadded is None else map(call.unpadded.take, split)
    training = is_training(split[0])
    if training and routing.noise:
        # other chunks in every step and block, the same ones when autograd runs this call again
        routing = routing.changed(seed=hash((routing.noise.seed, forward.sigma, call.block)))
    counts = trace.counts(call.table, routing, q, k, call.scale) if record else None
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
    )
    if call.unpadded is not None:
        out = call.unpadded.put(out, split[0].shape)
    return out.transpose(1, 2).flatten(2) if joined else out, counts


def _unpadded(forward: Forward, mask: Tensor, layout: TokenLayout) -> Unpadded | None:
    if forward.unpadded is None or forward.unpadded[0]() is not mask:
        with outside_malloc_graph():
            forward.unpadded = ref(mask), unpad(mask, layout)
    return forward.unpadded[1]
