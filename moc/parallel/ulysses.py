"""Attention under sequence parallelism, with the exchange of one group of heads behind the attention of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from ..attention import moc_attention
from ..chunks.build import build_chunks
from ..chunks.layout import TokenLayout
from ..chunks.table import ChunkTable
from ..config import RoutingConfig
from ..errors import MoCError
from .together import Attend

GROUPS = 4  # exchanges in flight one after another: the first is exposed, so more groups hide more, and cost launches


@dataclass(frozen=True)
class Routed:
    """What a rank needs to know to attend some heads: small and picklable, so that workers can be sent it.

    layout   of the whole sequence
    starts   first latent frame of every shot
    heads    of the model, on all ranks together
    """

    layout: TokenLayout
    starts: tuple[int, ...]
    routing: RoutingConfig
    heads: int
    backend: str = "auto"
    scale: float | None = None

    @cached_property
    def table(self) -> ChunkTable:
        return build_chunks(self.layout, self.starts, self.routing)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "table"}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: slice, record=None, *, scale: float | None = None,
        lse: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """q, k, v [B, h, N, D]: the model's heads `heads`, all tokens -> [B, h, N, D]. scale: where the settings name
        none; lse: as of `moc_attention`."""
        routing = routing_of_heads(self.routing, self.heads, heads)
        scale = scale if self.scale is None else self.scale
        how = dict(backend=self.backend, scale=scale, record=record, lse=lse)
        return moc_attention(q, k, v, self.table, routing, **how)  # type: ignore[arg-type]


def routing_of_heads(routing: RoutingConfig, heads: int, some: slice) -> RoutingConfig:
    """What `some` of a model's heads follow. Raises MoCError where the routing is of a model with other heads."""
    if not routing.budget.head_density:
        return routing
    routing.budget.check_heads(heads)
    return routing.changed(head_density=routing.budget.head_density[some])


def heads_of_rank(heads: int, rank: int, ranks: int) -> slice:
    """The heads that a rank attends. Raises MoCError where they cannot be dealt out evenly."""
    if heads % ranks:
        fit = [n for n in range(1, heads + 1) if heads % n == 0 and n <= 2 * ranks]
        raise MoCError(
            f"{heads} heads cannot be split evenly over {ranks} GPUs: use {', '.join(map(str, fit))} GPUs for this "
            "model."
        )
    each = heads // ranks
    return slice(rank * each, (rank + 1) * each)


def ulysses_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attend: Attend,
    *,
    length: int | None = None,
    group: dist.ProcessGroup | None = None,
    groups: int = GROUPS,
) -> Tensor:
    """Self-attention of a sequence that is spread over the ranks of a process group.

    q, k, v  [B, n, H, D]: this rank's n tokens of P * n, all heads; the same n on every rank
    attend   what is done with all tokens of some heads: q, k, v [B, h, N, D] and which heads -> [B, h, N, D]; `Routed`
    length   N, if the last tokens only fill up the slices; they get zeros. P * n by default
    groups   of a rank's heads, exchanged and attended one behind another
    Returns [B, n, H, D]. No gradients. Raises MoCError where the heads do not divide, the ranks disagree on shapes, or
    one of them is gone.
    """
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    b, n, heads, d = q.shape
    if k.shape != q.shape or v.shape != q.shape:
        raise MoCError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} must agree.")
    length = ranks * n if length is None else length
    if not 0 < length <= ranks * n:
        raise MoCError(f"{ranks} GPUs hold {ranks} x {n} tokens: a sequence of {length} cannot be spread over them.")
    own = heads_of_rank(heads, rank, ranks)
    each = own.stop - own.start
    if ranks == 1:
        q, k, v = (x[:, :length].transpose(1, 2) for x in (q, k, v))
        alone = attend(q, k, v, own).transpose(1, 2)
        return torch.nn.functional.pad(alone, (0, 0, 0, 0, 0, n - length)) if length < n else alone
    parts = _parts(each, groups)
    out = torch.empty(b, n, ranks, each, d, dtype=q.dtype, device=q.device)
    coming = _gather(q, k, v, parts[0], ranks, group)
    leaving: list[tuple[slice, _Exchange]] = []
    for part, after in zip(parts, [*parts[1:], None]):
        whole = coming.wait().flatten(0, 1)[:length]  # [N, 3, B, h, D]
        coming = None if after is None else _gather(q, k, v, after, ranks, group)  # type: ignore[assignment]
        q_, k_, v_ = (x.permute(1, 2, 0, 3) for x in whole.unbind(1))
        result = attend(q_, k_, v_, slice(own.start + part.start, own.start + part.stop))
        del whole, q_, k_, v_
        leaving.append((part, _scatter(result, n, ranks, group)))
        if len(leaving) > 1:
            _put(out, *leaving.pop(0))
    for part, exchange in leaving:
        _put(out, part, exchange)
    return out.flatten(2, 3)


def _parts(heads: int, groups: int) -> list[slice]:
    """A rank's heads in groups as equal as they can be."""
    groups = max(1, min(groups, heads))
    edges = [heads * i // groups for i in range(groups + 1)]
    return [slice(low, high) for low, high in zip(edges, edges[1:])]


class _Exchange:
    """An all-to-all under way; keeps what is sent until it is there. Raises MoCError where a rank is gone."""

    def __init__(self, send: Tensor, group: dist.ProcessGroup | None) -> None:
        self.send, self.received = send, torch.empty_like(send)
        with _or_gone():
            self.work = dist.all_to_all_single(self.received, send, group=group, async_op=True)

    def wait(self) -> Tensor:
        with _or_gone():
            self.work.wait()
        del self.send
        return self.received


@contextmanager
def _or_gone() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise MoCError(f"another GPU of this film stopped or lost its connection: {str(error)[:200]}") from error


def _gather(q: Tensor, k: Tensor, v: Tensor, part: slice, ranks: int, group) -> _Exchange:
    """Tokens of all ranks for some heads of each: receives [P, n, 3, B, h, D], in the order of the sequence."""
    b, n, _, d = q.shape
    send = q.new_empty(ranks, n, 3, b, part.stop - part.start, d)
    for i, x in enumerate((q, k, v)):
        send[:, :, i] = x.unflatten(2, (ranks, -1))[:, :, :, part].permute(2, 1, 0, 3, 4)
    return _Exchange(send, group)


def _scatter(out: Tensor, n: int, ranks: int, group) -> _Exchange:
    """out [B, h, N, D] back to where its tokens live: receives [P, n, B, h, D], one slice from every rank's heads."""
    b, h, length, d = out.shape
    send = out.new_empty(ranks * n, b, h, d)
    send[:length] = out.permute(2, 0, 1, 3)
    send[length:].zero_()
    return _Exchange(send.unflatten(0, (ranks, n)), group)


def _put(out: Tensor, part: slice, exchange: _Exchange) -> None:
    out[:, :, :, part] = exchange.wait().permute(2, 1, 0, 3, 4)
