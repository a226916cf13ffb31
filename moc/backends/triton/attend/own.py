"""Own parts and what is linked, dense, through an attention library."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ... import health, library
from ...head_split import out_of_memory
from ..dataflow import library_fits
from ..device_table import DeviceTable, Run
from ..lib.permute import moved
from .combine import Partial
from .own_calls import Alike, alike, calls, grouped

MOST_CALLS = 64  # of a backward pass


def pays(q: Tensor, plan: DeviceTable, heads: range) -> bool:
    """Whether the library is faster than our own kernel for those heads."""
    return calls(plan, min(len(heads), q.shape[1]), q.shape[3]) > 0


def own_parts(
    q: Tensor, k: Tensor, v: Tensor, plan: DeviceTable, heads: range, scale: float
) -> Iterator[tuple[Run | None, int, Partial]]:
    """For every run of groups and every stretch of heads within a sample: (run, first head, partial). None for a run:
    the partial is of all routed rows."""
    h = q.shape[1]
    together = grouped(plan)
    for run in [None] if together else plan.runs():
        linked = (linked_beside(plan, run) if run else None) or []
        for b in range(heads.start // h, (heads.stop - 1) // h + 1):
            low, high = max(heads.start, b * h), min(heads.stop, (b + 1) * h)
            some = slice(low - b * h, high - b * h)
            if run is None:
                yield None, low, _gathered(q[b, some], k[b, some], v[b, some], plan, scale)
                continue
            rows = slice(run.first, run.first + run.length * run.groups)
            q_run = q[b, some, rows].unflatten(1, (run.groups, run.length)).transpose(0, 1)
            keys, values = (_seen(x[b, some], plan, run, linked) for x in (k, v))
            out, lse = library.attention(q_run, keys, values, scale)
            yield run, low, Partial(out.transpose(0, 1), lse.transpose(0, 1), first=run.first)


def _gathered(q: Tensor, k: Tensor, v: Tensor, plan: DeviceTable, scale: float) -> Partial:
    """All routed rows of q [H, N, D], a call for all groups that see alike many keys; other rows are left unwritten."""
    h, n, d = q.shape
    out, sums = q.new_empty(h, n, d), q.new_empty(h, n, dtype=torch.float32)
    for some in alike(plan):
        asked = _taken(q, some, some.rows)
        part, lse = library.attention(asked, _taken(k, some, some.seen), _taken(v, some, some.seen), scale)
        rows = some.rows.long()
        out.index_copy_(1, rows, part.transpose(0, 1).flatten(1, 2))
        sums.index_copy_(1, rows, lse.transpose(0, 1).flatten(1, 2))
    return Partial(out[:, None], sums[:, None])


def _taken(x: Tensor, some: Alike, tokens: Tensor) -> Tensor:
    """x [H, N, D] -> [groups, H, tokens of a group, D]."""
    out = x.new_empty(1, x.shape[0], len(tokens), x.shape[-1])
    return moved(x[None], tokens, out)[0].unflatten(1, (some.groups, -1)).transpose(0, 1)


def gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor, plan: DeviceTable, scale: float,
    dq: Tensor, dk: Tensor, dv: Tensor, parts: list[range],
) -> bool:  # fmt: skip
    """Set dq, and add to dk and dv [B*H, N, D], what routed rows see without choosing. out and lse [B*H, N] (log2) are
    of all that they see. parts: heads of a sample that go together. False where somebody else has to do it."""
    h = q.shape[1]
    linked_of = [linked_beside(plan, run) for run in plan.runs()]
    if not library.usable(q) or not library_fits(plan.geometry) or None in linked_of:
        return False
    if health.reason(q.device, health.LIBRARY_GRADIENTS) is not None:
        return False
    if len(linked_of) > MOST_CALLS:
        return False
    for b in range(q.shape[0]):
        for heads in parts:
            some, flat = slice(heads.start, heads.stop), slice(b * h + heads.start, b * h + heads.stop)
            for run, linked in zip(plan.runs(), linked_of, strict=True):
                rows = slice(run.first, run.first + run.length * run.groups)
                q_run, out_run, grad_run = (
                    x[b, some, rows].unflatten(1, (run.groups, -1)).transpose(0, 1) for x in (q, out, grad)
                )
                keys, values = (_seen(x[b, some], plan, run, linked or []) for x in (k, v))
                sums = (lse[flat, rows] * math.log(2)).unflatten(1, (run.groups, -1)).transpose(0, 1).contiguous()
                try:
                    found = library.gradients(q_run, out_run, grad_run, sums, keys, values, scale)
                except RuntimeError as failure:
                    if out_of_memory(failure):
                        raise
                    health.leave_out(q.device, health.LIBRARY_GRADIENTS, failure)
                    dk.zero_()
                    dv.zero_()
                    return False
                dq[flat, rows] = found[0].transpose(0, 1).flatten(1, 2).to(dq.dtype)
                for total, part in zip((dk, dv), found[1:], strict=True):
                    place = 0
                    for low, high in linked or []:
                        total[flat, low:high] += part[:, :, place : place + high - low].sum(0, dtype=total.dtype)
                        place += high - low
                    own = slice(run.start, run.start + run.tokens * run.groups)
                    total[flat, own] += part[:, :, place:].transpose(0, 1).flatten(1, 2)
    return True


def linked_beside(plan: DeviceTable, run: Run) -> list[tuple[int, int]] | None:
    """Linked tokens that no group of a run owns; None where some are owned by one group of several."""
    a, b = run.start, run.start + run.tokens * run.groups
    if run.groups > 1 and any(low < b and a < high for low, high in plan.linked):
        return None
    return plan.linked_beside(a, b)


def _seen(x: Tensor, plan: DeviceTable, run: Run, linked: list[tuple[int, int]]) -> Tensor:
    """x [H, N, D] -> [G, H, J, D]: the tokens that every group of the run owns, and those that are linked."""
    if linked:
        index = plan.joined(run, linked)
        keys = x.new_empty(1, x.shape[0], len(index), x.shape[-1])
        return moved(x[None], index, keys)[0].unflatten(1, (run.groups, -1)).transpose(0, 1)
    if run.groups == 1:
        return x[None, :, run.start : run.start + run.tokens]
    rows = x[:, run.first : run.first + run.length * run.groups]
    return rows.unflatten(1, (run.groups, run.length)).transpose(0, 1)
