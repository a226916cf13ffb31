"""A probed attention call: dense by whoever would have computed it, routed beside it, compared, dense handed on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..attention import moc_attention
from ..chunks.table import ChunkTable
from ..probe.log import ProbeLog
from ..trace.reasons import Reason
from .host_call import HostCall
from .malloc_graph import outside_malloc_graph
from .state import Call, Forward


def look_at(forward: Forward, call: Call, host_call: HostCall) -> Tensor:
    """What others compute is handed on, untouched."""
    run = forward.run
    log = run.patch.probe
    if log is None or not forward.recording or not log.wants(forward.step):
        forward.ran_dense(Reason.SCHEDULE)
        return host_call.dense()
    log.blocks = len(forward.video.sequence.blocks)
    q, k, v = host_call.q, host_call.k, host_call.v
    out, dense_seconds = _timed(host_call.dense, q.device)
    heads = out.unflatten(-1, (q.shape[1], -1)).transpose(1, 2) if host_call.joined else out
    try:
        with outside_malloc_graph():
            _compare(forward, log, call, q, k, v, heads, dense_seconds)
    except Exception as error:  # a look is no reason to end somebody's sampling
        forward.reason = run.failed(error)
        forward.ran_dense(forward.reason)
    return out


def _compare(
    forward: Forward, log: ProbeLog, call: Call, q: Tensor, k: Tensor, v: Tensor, dense: Tensor, dense_seconds: float
) -> None:
    """Everything [B, H, N, D]."""
    patch = forward.run.patch
    if call.unpadded is not None:
        q, k, v, dense = (call.unpadded.take(x) for x in (q, k, v, dense))

    def route(record=None) -> Tensor:
        return moc_attention(
            q, k, v, call.table, call.routing, backend=patch.backend, scale=call.scale, record=record,
            note=patch.trace.note,
        )  # fmt: skip

    if (forward.step, call.block) not in log.calls and call.block == 0:
        route()  # kernels are built and tuned at their first call
    routed, seconds = _timed(route, q.device)
    kept = KeptPairs(call.table, q.device)
    route(kept)
    log.add(
        forward.step,
        call.block,
        call.table.layout,
        forward.run.starts,
        (q, k, v),
        dense=dense,
        routed=routed,
        density=call.table.density(0, call.routing.candidates.causal) + kept.share(q.shape[0] * q.shape[1]),
        seconds=(dense_seconds, seconds),
        scale=call.scale,
    )
    patch.trace.ran_routed(forward.step, call.block, None)


class KeptPairs:
    """Counts the chosen (query, key) pairs of one call: give it to `moc_attention(record=...)`."""

    def __init__(self, table: ChunkTable, device: torch.device) -> None:
        self.table, self.lengths = table, table.tensors(device).lengths.float()
        self._pairs = torch.zeros(1, device=device)  # no device has to know float64

    def add(self, rows: slice, chosen: Tensor) -> None:
        """chosen [B, H, R, C]."""
        self._pairs.view(-1)[:1] += (chosen.sum((0, 1, 2)) * self.lengths).sum()

    def frame_pairs(self, heads: int) -> tuple[Tensor, Tensor]:
        """What to add the pairs of every frame to [H, F, 1], and the column of every chunk: the only one."""
        self._pairs = self._pairs.new_zeros(heads, self.table.layout.grid[0], 1)
        return self._pairs, torch.zeros_like(self.lengths, dtype=torch.int32)

    def share(self, heads: int) -> float:
        """Of all pairs of so many heads, over the batch."""
        return float(self._pairs.sum()) / (heads * self.table.length**2)


def _timed(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """(what it returns, seconds until the device has done it)."""
    _wait(device)
    start = time.perf_counter()
    out = work()
    _wait(device)
    return out, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).synchronize()
