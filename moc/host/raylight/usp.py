"""Inside a worker of raylight: the attention that all its models call, routed.

xfuser's `xFuserLongContextAttention.forward(attn, query, key, value, ...)` gets this worker's tokens of all heads,
[B, n, H, D], exchanges them for all tokens of some heads, attends and exchanges back. During a pass that MoC routes,
`ulysses_attention` stands in for all of that where the call is the video's self-attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...attention import moc_attention
from ...errors import MoCError
from ...parallel import Together, heads_of_rank, routing_of_heads, ulysses_attention
from ...trace.pair_counts import Counts
from ...trace.reasons import Reason
from ..break_even import choose
from ..host_call import HostCall
from ..override import call_of
from ..session import VideoPass
from ..state import Call, Forward

Qkv = tuple[Tensor, Tensor, Tensor]
CLIP = 257  # tokens of a picture that Wan reads by cross-attention
PLAIN = {"dropout_p": 0.0, "causal": False, "window_size": (-1, -1), "joint_strategy": "none"}  # of forward


def attention_class() -> type[torch.nn.Module]:
    """xfuser's, as raylight uses it. Raises MoCError where they are not what MoC knows."""
    try:
        from raylight.distributed_modules import attention

        cls = attention.xFuserLongContextAttention
        made, called = (
            list(inspect.signature(function).parameters)
            for function in (attention.make_xfuser_attention, inspect.unwrap(cls.forward))
        )
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise MoCError(f"raylight's attention is not where MoC knows it ({error}).") from error
    if made[:2] != ["attn_type", "sync_ulysses"] or called[:5] != ["self", "attn", "query", "key", "value"]:
        raise MoCError(
            f"raylight's attention has changed: it takes {', '.join(called)} and is made of {', '.join(made)}."
        )
    return cls


class Routing:
    """Of one worker, from the begin of a sampling to its end.

    group, rank, ranks  who shares the heads of the film: the first worker of them, this one's number, how many
    """

    def __init__(self) -> None:
        self.group, self.rank, self.ranks = dist.get_rank(), 0, 1
        self._together: Together | None = None
        self._pays: dict[tuple, bool] = {}  # what all ranks made of a kind of call

    @contextmanager
    def around_pass(self, forward: Forward | None, options: dict) -> Iterator[None]:
        if forward is None:
            yield
            return
        cls = attention_class()
        plain = cls.forward

        @torch.compiler.disable
        @wraps(plain)
        def routed(usp, attn, query: Tensor, key: Tensor, value: Tensor, **how) -> Tensor:
            dense = partial(plain, usp, attn, query, key, value, **how)
            tokens = query.shape[1] * dist.get_world_size(usp.ulysses_pg)
            if query.shape != key.shape or key.shape != value.shape or tokens < forward.video.sequence.video_tokens:
                return dense()  # reads something else than itself, or is not the video: text, music
            out = self._attend(forward, options, usp, (query, key, value), how, dense)
            if isinstance(out, Reason):
                forward.ran_dense(out)
                return dense()
            return out

        cls.forward = routed  # type: ignore[method-assign]
        try:
            yield
        finally:
            cls.forward = plain  # type: ignore[method-assign]
        if self._together is not None:
            self._together.agree()

    def _attend(
        self, forward: Forward, options: dict, usp: Any, qkv: Qkv, how: dict,
        dense: Callable[[], Tensor],
    ) -> Tensor | Reason:  # fmt: skip
        group, (b, n, heads, d) = self._meet(usp, qkv[0].device), qkv[0].shape
        own = heads_of_rank(heads, self.rank, self.ranks)
        if any(value is not None and value is not False and value != PLAIN.get(name) for name, value in how.items()
               if name != "softmax_scale"):  # fmt: skip
            return Reason.MASK
        length = length_of(forward.video, n, self.ranks)
        if length is None:
            return Reason.LENGTH
        # what there is to know of a call of this rank's heads with all tokens, before anything is exchanged
        q = qkv[0].new_empty(()).expand(b, own.stop - own.start, length, d)
        host_call = HostCall(q, q, q, None, how.get("softmax_scale"), False, options, dense, dense)
        call = call_of(forward, host_call)
        if isinstance(call, Reason):
            return call
        choice = choose(forward, call, host_call)
        kind = call.table.layout, call.routing, q.shape
        if kind not in self._pays:
            assert self._together is not None
            self._pays[kind] = self._together.all(choice.dense is None)
        if not self._pays[kind]:
            return choice.dense or Reason.SHORT
        return self._routed(forward, call, choice.backend, qkv, length, group)

    def _routed(self, forward: Forward, call: Call, backend, qkv: Qkv, length: int, group) -> Tensor:
        trace, heads, counted = forward.run.patch.trace, qkv[0].shape[2], []

        def attend(q: Tensor, k: Tensor, v: Tensor, some: slice) -> Tensor:
            counts = trace.counts(call.table, call.routing, q, k, call.scale) if forward.recording else None
            routing = routing_of_heads(call.routing, heads, some)
            how = dict(backend=backend, scale=call.scale, record=counts, note=trace.note)
            out = moc_attention(q, k, v, call.table, routing, **how)  # type: ignore[arg-type]
            counted.append(counts)
            return out

        assert self._together is not None
        q, k, v = qkv
        out = ulysses_attention(q, k, v, self._together.guarded(attend), length=length, group=group)
        parts = [counts for counts in counted if counts is not None]
        if forward.recording:
            trace.ran_routed(forward.step, call.block, Counts.together(parts) if parts else None)
        return out

    def _meet(self, usp: Any, device: torch.device) -> dist.ProcessGroup:
        group, ring = usp.ulysses_pg, usp.ring_pg
        if dist.get_world_size(ring) > 1:
            raise MoCError(
                "MoC's heads choose from all tokens of the film, which no GPU holds with a ring: set ring_degree to 1 "
                "and ulysses_degree to the number of GPUs."
            )
        if self._together is None:
            self._together = Together(group, device)
            self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
            self.group = dist.get_process_group_ranks(group)[0]
        return group


def length_of(video: VideoPass, n: int, ranks: int) -> int | None:
    """Tokens of the sequence of which this rank holds n, filling included; None where that is not the video's, or not
    certain: text that is as long as a rank's tokens looks like them."""
    if n in video.sequence.cross or (n == CLIP and video.sequence.cross):
        return None
    fitting = [x for x in range(ranks * n - ranks + 1, ranks * n + 1) if video.layout(x) is not None]
    return fitting[0] if len(fitting) == 1 else None
