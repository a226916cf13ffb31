"""A chunk meets the query rows that chose it; the partials of a row are combined."""

from __future__ import annotations

import math

from torch import Tensor

from .attend import own
from .attend.block import LOG2E
from .attend.combine import Partial
from .attend.gather import gather_chunks
from .attend.own_calls import ROW_PARTIALS
from .device_table import DeviceTable, Run
from .job import Job
from .lib.head_ranges import _joined, head_parts, offset_in, split_heads
from .lists.csr import ChunkCSR, Listed, SelectionIndices, counters, indices_of, listed
from .lists.csr_from_bits import SelectionMask
from .lists.hot_chunks import HotChunks, hot_chunks_of


def attend_bits(job: Job, sel: Tensor, heads: range) -> None:
    """sel [heads, W, N]: what the rows chose, as bits."""
    plan = job.plan
    for some, part in head_parts(heads, bytes_of_choice(plan)):
        bits = SelectionMask.of_plan(sel[part], plan)
        if job.flow.hot:
            choice = indices_of(bits, plan)
            hot = hot_chunks_of(choice, plan)
            attend(job, None, lists_of(job, choice), some, hot)
        else:
            attend(job, bits.sel, lists_of(job, bits) if plan.top_k else None, some)


def lists_of(job: Job, choice: SelectionIndices | SelectionMask) -> Listed:
    if job.flow.attend == "gather_sm90":
        from .lib.pipeline_sm90 import BOTH

        return listed(choice, job.plan, BOTH)
    config = job.configs.chunks_of(job.plan.longest, job.plan.typical)
    return listed(choice, job.plan, config.block_m * config.blocks_per_program)


def attend(job: Job, sel: Tensor | None, lists: Listed | None, heads: range, hot: HotChunks | None = None) -> None:
    """sel: bits, which a masked tail wants. lists: None where none is chosen; without what is in `hot`.

    Partials of a row and slot take up most room, so they are of fewer heads at a time than those of a row.
    """
    q, k, v, plan = job.q, job.k, job.v, job.plan
    subtract = job.flow.tail == "subtract"
    taken = job.summary if subtract else None
    some = split_heads(heads, bytes_a_head(q, plan))
    for group in _joined(some, 2 * plan.length * q.shape[-1] * q.element_size(), ROW_PARTIALS):
        many = range(group[0].start, group[-1].stop)
        part = offset_in(many, heads)
        tail = job.tail(None if sel is None else sel[part], many, "none" if subtract else "row")
        if hot is not None:
            from .attend import hot_chunks_sm90

            tail = hot_chunks_sm90.attend(q, k, v, taken, hot.of(part), plan, many, tail, scale=job.scale * LOG2E)
        library = job.flow.library and own.pays(q, plan, many)
        owned = list(own.own_parts(q, k, v, plan, many, job.scale)) if library else None
        for few in group:
            slots = None if lists is None else _gather(job, lists.of(offset_in(few, heads)), few, taken)
            _combine(job, few, owned, tail and tail.of(offset_in(few, many)), slots)
            del slots  # before the next ones are made
        del tail, owned


def _gather(job: Job, lists: ChunkCSR, heads: range, taken: tuple[Tensor, Tensor] | None) -> Partial:
    what, scale = (job.q, job.k, job.v, taken, lists, job.plan, heads), job.scale * LOG2E
    if job.flow.attend == "gather_sm90":
        from .attend import gather_sm90

        return gather_sm90.gather_chunks(*what, scale=scale)
    config = job.configs.chunks_of(job.plan.longest, job.plan.typical)
    return gather_chunks(*what, scale=scale, config=config, precision=job.precision, eight=job.eight)


def _combine(
    job: Job,
    heads: range,
    owned: list[tuple[Run | None, int, Partial]] | None,
    tail: Partial | None,
    slots: Partial | None,
) -> None:
    """owned: of these heads, and perhaps others; None where own parts are yet to be attended."""
    plan = job.plan
    if owned is None:
        config = job.configs.keys_in_a_row(plan.group_rows)
        job.attend(plan.tiles(config.block_m, "routed"), heads, config, ranges=True, tail=tail, slots=slots)
        return
    for run_, first, partial in owned:
        some = range(max(first, heads.start), min(first + len(partial.out), heads.stop))
        rest = run_ is not None and own.linked_beside(plan, run_) is None
        config = job.configs.tile if rest else job.configs.merge
        part = offset_in(some, heads)
        which = f"{run_.first}:{run_.first + run_.length * run_.groups}" if run_ else "routed"
        job.attend(
            plan.tiles(config.block_m, which), some, config, ranges=rest,
            own=partial.of(slice(some.start - first, some.stop - first)),
            tail=tail and tail.of(part), slots=slots and slots.of(part),
        )  # fmt: skip


def bytes_of_choice(plan: DeviceTable, slots: bool = False) -> int:
    """What the choice of one head takes up as bits or slots, and so many entries of lists at most; or, where that is
    more, what counters of a long film's many chunks do, and where they stand."""
    if not slots:
        return plan.length * 4 * max(plan.top_k, plan.words)
    return 4 * max(plan.length * plan.top_k, 2 * plan.chunks * math.prod(counters(plan)))


def bytes_a_head(q: Tensor, plan: DeviceTable) -> int:
    """What the partials of one head take up."""
    return q.shape[-2] * plan.top_k * (q.shape[-1] * q.element_size() + 16)
