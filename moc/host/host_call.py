"""The host's attention override: what every one of ours has to know of a call, in one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .adapters import Sequence
from .session import VideoPass


class State(Protocol):
    """Of a forward pass, in its transformer_options. previous: attention override that was there before ours."""

    video: VideoPass
    previous: Callable | None


AnyState = TypeVar("AnyState", bound=State)


@dataclass(frozen=True, eq=False)
class HostCall:
    """One self-attention over video tokens.

    q, k, v  [B, H, N, D]; q may hold fewer tokens
    joined   the host wants [B, N, H*D] back, else [B, H, N, D]
    options  the pass's transformer_options
    others   whoever was there before us: the host's attention, with the overrides of other nodes around it
    dense    what they make of the call, in the shape that the host wants
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float | None
    joined: bool
    options: dict
    others: Callable
    dense: Callable[[], Tensor]

    def handed_back(self, out: Tensor) -> Tensor:
        """out [B, H, N, D] in the shape that the host wants."""
        return out.transpose(1, 2).flatten(2) if self.joined else out


def override(slot: str) -> Callable[[Callable[[AnyState, HostCall], Tensor]], Callable[..., Tensor]]:
    """attend(state, call) as an override of the host's attention. Where a pass has no state in `slot`, and for all that
    is not self-attention over its video, whoever was there before computes."""

    def around(attend: Callable[[AnyState, HostCall], Tensor]) -> Callable[..., Tensor]:
        @torch.compiler.disable  # a compiled graph would bake in the pass that traced it
        @wraps(attend)
        def attention(
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
            """q, k, v [B, N, H*D], with skip_reshape [B, H, N, D]; returns the first, with skip_output_reshape the
            second."""
            options = kwargs.get("transformer_options") or {}
            state: AnyState | None = options.get(slot)
            kwargs.update(
                mask=mask,
                attn_precision=attn_precision,
                skip_reshape=skip_reshape,
                skip_output_reshape=skip_output_reshape,
            )
            others = func if state is None or state.previous is None else partial(state.previous, func)
            dense = partial(others, q, k, v, heads, **kwargs)
            width = heads * q.shape[-1] if skip_reshape else q.shape[-1]
            if state is None or not is_video(state.video.sequence, q, k, v, width):
                return dense()
            if not skip_reshape:
                q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
            call = HostCall(q, k, v, mask, kwargs.get("scale"), not skip_output_reshape, options, others, dense)
            return attend(state, call)

        return attention

    return around


def is_video(sequence: Sequence, q: Tensor, k: Tensor, v: Tensor, width: int) -> bool:
    """Self-attention of all video tokens, for all queries or for some of them."""
    tokens, keys = q.shape[-2], k.shape[-2]
    if k.shape != v.shape or tokens < sequence.video_tokens or sequence.width not in (None, width):
        return False
    return q.shape == k.shape or (tokens < keys and sequence.layout(keys, None) is not None)
