"""Routed attention inside yunchang (USP, arXiv 2405.07719), and so inside what is built on it: xDiT, raylight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import MoCError
from .ulysses import Routed, heads_of_rank

Attention = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class AttnProcessor:
    """The `attn_processor` of yunchang's `LongContextAttention`, with an `attn_type` that yunchang has no kernel for:

        LongContextAttention(attn_type=None, attn_processor=AttnProcessor(routed, PROCESS_GROUP.ULYSSES_PG))

    Ulysses alone: with a ring degree above 1 a GPU never holds all tokens, from which heads choose.
    group: the Ulysses group. Picklable while it is None, which is all ranks.
    """

    routed: Routed
    group: dist.ProcessGroup | None = None

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float | None = None, causal: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """q, k, v [B, P * n, H / P, D]: all tokens, filling last, of this rank's heads -> (out like q, log-sum-exp
        [B, H / P, P * n] in float32). Filling gets zeros. Raises MoCError for what routing does not compute."""
        length = self.routed.layout.length
        ranks, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        own = heads_of_rank(self.routed.heads, rank, ranks)
        if not length <= q.shape[1] < length + ranks or q.shape[2] != own.stop - own.start or k.shape != q.shape:
            raise MoCError(
                f"a GPU was handed {q.shape[1]} tokens of {q.shape[2]} heads where it chooses from {length} tokens for "
                f"{own.stop - own.start}: set the ring degree to 1, and the Ulysses degree to the number of GPUs."
            )
        wanted = [name for name in ("dropout_p", "softcap", "alibi_slopes") if others.get(name)]
        wanted += ["causal"] * causal + ["window_size"] * (tuple(others.get("window_size", (-1, -1))) != (-1, -1))
        if wanted:
            raise MoCError(f"routed attention has no {', '.join(wanted)}: leave it off.")
        lse = torch.zeros(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32, device=q.device)
        out = torch.zeros_like(q)
        q, k, v = (x[:, :length].transpose(1, 2) for x in (q, k, v))
        routed = self.routed(q, k, v, own, scale=softmax_scale, lse=lse[..., :length])
        out[:, :length] = routed.transpose(1, 2)
        return out, lse

    def registered(self, otherwise: Attention) -> Attention:
        """As xDiT's `register_attention_function` takes one (at its commit 175e0bf; 0.4.5 has no registry yet):

            register_attention_function("moc")(processor.registered(ATTENTION_FUNCTION_REGISTRY[...]))

        with "moc" as the attention backend. It is called with [B, H / P, P * n, D] for all attention of a model;
        `otherwise` gets what is not self-attention: text."""

        def attention(
            query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False,
            attention_kwargs: dict | None = None,
        ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
            if query.shape != key.shape:
                return otherwise(query, key, value, dropout_p, is_causal, attention_kwargs)
            wanted = [name for name, value in (attention_kwargs or {}).items() if value is not None]
            if wanted:
                raise MoCError(f"routed attention has no {', '.join(wanted)}: leave it off.")
            sides = (x.transpose(1, 2) for x in (query, key, value))
            out, lse = self(*sides, dropout_p=dropout_p, causal=is_causal)
            return out.transpose(1, 2), lse

        return attention
