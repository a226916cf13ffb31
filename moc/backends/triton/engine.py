"""From q, k, v to the output: pool, route, and one of two engines, a few heads at a time to bound memory.

chunk-major  few large chunks: every chunk meets the rows that chose it (`routed`), partials add up per row (`tile`)
tile-major   many small chunks: a tile of rows meets the union of what its rows chose, rows masked (`union`, `tile`)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...chunks import ChunkTable
from ...config import RoutingConfig
from ...table import TILE_ROWS
from . import dense
from .configs import configs_of, scores_in_registers
from .count import count_choices, count_frames
from .lists import Choice, bits_of, choice_of, new_choice, ranked, row_lists
from .plan import Plan, Tiles, plan_of
from .pool import pool
from .popular import Popular, counted, popular_of
from .route import route
from .routed import routed
from .share import share_lists
from .stream import few, stream
from .tail import Tail, tail_of
from .tile import LOG2E, attend_tiles, new_slots
from .union import union_lists, width_of

try:
    from . import hopper_popular, hopper_ring, hopper_routed, hopper_union
except ImportError:  # a Triton without Gluon
    hopper_routed = None  # type: ignore[assignment]

WORKSPACE = 2**30  # bytes that lists and partials may take
SMALL_CHUNK = 32  # tokens: up to here tile-major (benchmarks/results: at 54 tokens chunk-major is faster)
TAKE_OFF = True  # chunk-major: chosen chunks enter the tail and are taken off by `routed` (else masked there)
POPULAR = True  # chunk-major: rows meet chunks that many neighbours chose together
DIRECT = True  # chunk-major: `stream` writes chunks for the lists itself (else bits, which are unpacked)
IN_REGISTERS = 256  # chunks whose scores `route` holds at once


def run(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, record=None,
    *, engine: str | None = None,
) -> Tensor:  # fmt: skip
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]."""
    out = empty_output(q)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    plan = plan_of(table, routing, q.device)
    precision = _precision(q)
    minmax = routing.descriptor == "minmax"
    means = pool(k, plan, pair=routing.descriptor)
    summary = (means["mean"], pool(v, plan)["mean"]) if routing.tail == "pooled" else None
    keep = _kept_shots(q, k, plan, routing)
    union = routing.lists == "union" and plan.top_k > 0
    engine = "tiles" if union else engine or ("tiles" if plan.typical <= SMALL_CHUNK else "chunks")
    job = _Job(q, k, v, out, plan, routing.causal, scale, precision, summary, union)
    seen = _Seen(record, plan, q.shape[:2])
    job.see_all(range(q.shape[0] * q.shape[1]))
    streamed = plan.chunks > IN_REGISTERS or not scores_in_registers(q)
    listed = engine == "chunks" and plan.top_k > 0 and DIRECT and (job.take_off or summary is None)
    direct = listed and (streamed or few(q, plan))
    for heads in _split(range(q.shape[0] * q.shape[1]), plan.length * 4 * (plan.top_k if direct else plan.words)):
        inputs = _queries(q, heads), means["pair"], keep
        how: dict[str, Any] = dict(
            split=minmax, causal=routing.causal, precision=_careful(precision), config=job.configs.router
        )
        if direct:
            choice = new_choice(len(heads), plan)
            stream(*inputs, choice, plan, heads, **how)
            popular = popular_of(choice, plan) if job.by_popularity and not seen.row_by_row else None
            seen.choice(ranked(choice), heads, popular)
            for some, part in _parts(heads, _bytes_a_head(q, plan, engine, union)):
                job.chunks(None, choice.of(part), some, popular and popular.of(part))
            continue
        sel = torch.empty(len(heads), plan.words, plan.length, dtype=torch.int32, device=q.device)
        if plan.top_k:
            (stream if streamed else route)(*inputs, sel, plan, heads, **how)
        else:
            sel.zero_()
        if union:
            share_lists(sel, keep, plan, heads, causal=routing.causal)
        seen.bits(sel, heads)
        for some, part in _parts(heads, _bytes_a_head(q, plan, engine, union)):
            if engine == "tiles":
                job.tiles(sel[part], some)
            else:
                job.chunks(sel[part], choice_of(sel[part], plan) if plan.top_k else None, some)
    seen.done()
    return out


class _Seen:
    """Hands what was chosen to who wants to know: counted by frame and chunk, or row by row."""

    def __init__(self, record, plan: Plan, heads: tuple[int, ...]) -> None:
        self.record, self.plan, self.heads = record, plan, heads
        self.pairs = record.frame_pairs(heads[1]) if hasattr(record, "frame_pairs") else None
        self.row_by_row = record is not None and self.pairs is None
        self.kept: list[Tensor] = []

    def choice(self, choice: Choice, heads: range, popular: Popular | None) -> None:
        if self.pairs is not None:
            count_choices(choice.count, self.plan, heads, *self.pairs)
            if popular is not None:
                count_choices(counted(popular, choice, self.plan), self.plan, heads, *self.pairs)
        elif self.row_by_row:
            self.kept.append(bits_of(choice, self.plan))

    def bits(self, sel: Tensor, heads: range) -> None:
        if self.pairs is not None:
            count_frames(sel, self.plan, heads, *self.pairs)
        elif self.row_by_row:
            self.kept.append(sel)

    def done(self) -> None:
        if self.kept:
            _record(self.record, torch.cat(self.kept), self.plan, self.heads)


def empty_output(q: Tensor) -> Tensor:
    """Laid out like q in memory, where its rows are whole."""
    return torch.empty_like(q) if q.stride(-1) == 1 else torch.empty(q.shape, dtype=q.dtype, device=q.device)


class _Job:
    """One call's tensors, so that the engines below read as what they do."""

    def __init__(self, q, k, v, out, plan: Plan, causal: bool, scale: float, precision: str, summary, union: bool):
        self.q, self.k, self.v, self.out, self.plan = q, k, v, out, plan
        self.causal, self.scale, self.precision, self.summary, self.union = causal, scale, precision, summary, union
        self.configs = configs_of(q)
        self.on_hopper = hopper_routed is not None and hopper_routed.usable(q, k, v, plan)
        self.by_popularity = POPULAR and hopper_routed is not None and hopper_popular.usable(q, k, v, plan)
        self.take_off = TAKE_OFF and summary is not None

    def _attend(self, tiles: Tiles, heads: range, config, **parts) -> None:
        attend_tiles(
            self.q, self.k, self.v, self.out, self.plan, tiles, heads,
            scale=self.scale, config=config, precision=self.precision, **parts,
        )  # fmt: skip

    def see_all(self, heads: range) -> None:
        """Text and reference rows. Few rows with long ranges: all heads at once fill the chip better."""
        config = self.configs.long
        self._attend(self.plan.tiles(config.rows, "unrouted"), heads, config, ranges=True)

    def tail(self, sel: Tensor | None, heads: range, mask: str) -> Tail | None:
        if self.summary is None:
            return None
        shared = mask == "tile"
        config = self.configs.tile if shared else self.configs.tail
        mean_k, mean_v = self.summary
        return tail_of(
            self.q, mean_k, mean_v, self.plan.row if sel is None else sel, self.plan,
            self.plan.tiles(config.rows, "routed" if shared else "all"), heads,
            scale=self.scale * LOG2E, config=config, precision=self.precision, causal=self.causal, mask=mask,
        )  # fmt: skip

    def tiles(self, sel: Tensor, heads: range) -> None:
        plan, config = self.plan, self.configs.tile
        alone = plan.group_rows >= config.rows  # else a tile spans groups, and a row's own chunks join its list
        tiles = plan.tiles(config.rows, "routed" if alone else "small")
        # a tile lies within a query tile: what one row chose, all did
        alike = self.union and plan.group_rows >= TILE_ROWS and TILE_ROWS % config.rows == 0
        lists = None
        pieces = plan.pieces(piece_size(plan, config.keys), not alone)
        if alike and alone and hopper_routed is not None and hopper_union.usable(self.q, self.k, self.v):
            rows = hopper_ring.BOTH
            tiles, blocks = plan.tiles(rows, "routed"), plan.blocks(rows, "routed", hopper_ring.KEYS)
            lists = union_lists(sel, plan, tiles, pieces, 2, width_of(plan, pieces, 2, True), False, pairs=True)
            hopper_union.attend(
                self.q, self.k, self.v, self.out, plan, tiles, blocks, lists, heads, self.tail(sel, heads, "tile"),
                scale=self.scale * LOG2E,
            )  # fmt: skip
            return
        if plan.top_k or not alone:
            width = width_of(plan, pieces, config.rows, not alone or self.union)
            lists = union_lists(sel, plan, tiles, pieces, 1 if alike else config.rows, width, not alone)
        tail = self.tail(sel, heads, "tile" if alike else "row")
        self._attend(tiles, heads, config, ranges=True, lists=lists, shared=alike, tail=tail)

    def chunks(self, sel: Tensor | None, choice: Choice | None, heads: range, popular: Popular | None = None) -> None:
        """sel: bits, which the tail wants where chosen chunks are not taken off. choice: None where none is chosen;
        without what is in `popular`."""
        plan, q = self.plan, self.q
        slots = None
        taken = self.summary if self.take_off else None
        if choice is not None:
            config = self.configs.chunks_of(plan.longest, plan.typical)
            lists = row_lists(choice, plan, hopper_ring.BOTH if self.on_hopper else config.rows * config.tiles)
            slots = new_slots(q, lists.number, plan.top_k, rest=taken is not None)
            if self.on_hopper:
                hopper_routed.routed(q, self.k, self.v, taken, lists, plan, heads, slots, scale=self.scale * LOG2E)
            else:
                routed(
                    q, self.k, self.v, taken, lists, plan, heads, slots,
                    scale=self.scale * LOG2E, config=config, precision=self.precision,
                )  # fmt: skip
            del lists
        tail = self.tail(sel, heads, "none" if self.take_off else "row")
        if popular is not None:
            tail = hopper_popular.attend(q, self.k, self.v, taken, popular, plan, heads, tail, scale=self.scale * LOG2E)
        if not dense.usable(q, plan):
            config = self.configs.keys_in_a_row(plan.group_rows)
            tiles = plan.tiles(config.rows, "routed")
            self._attend(tiles, heads, config, ranges=True, tail=tail, slots=slots)
            return
        for run_, first, own in dense.own_parts(q, self.k, self.v, plan, heads, self.scale):
            rest = dense.linked_beside(plan, run_) is None
            config = self.configs.tile if rest else self.configs.merge
            some = range(first, first + own.out.shape[1])
            part = slice(first - heads.start, first - heads.start + len(some))
            tiles = plan.tiles(config.rows, f"{run_.first}:{run_.first + run_.length * run_.groups}")
            self._attend(
                tiles, some, config, ranges=rest, own=own,
                tail=tail and tail.of(part), slots=slots and slots.of(part),
            )  # fmt: skip


def _queries(q: Tensor, heads: range) -> Tensor:
    """Some heads of q [B, H, N, D] as [heads, N, D]."""
    h = q.shape[1]
    parts = []
    for b in range(heads.start // h, (heads.stop - 1) // h + 1):
        parts.append(q[b, max(heads.start - b * h, 0) : min(heads.stop - b * h, h)])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def piece_size(plan: Plan, keys: int) -> int:
    """Keys a listed piece takes up: the power of two that holds a typical chunk, 16 to `keys`."""
    size = 16
    while size < keys and size < plan.typical:
        size *= 2
    return size


def _precision(q: Tensor) -> str:
    if q.device.type != "cuda":
        return "ieee"
    return "tf32"


def _careful(precision: str) -> str:
    """Which chunk wins should not hang on tf32: three products give float32's digits. Half precision ignores it."""
    return "tf32x3" if precision == "tf32" else precision


def _bytes_a_head(q: Tensor, plan: Plan, engine: str, union: bool) -> int:
    """What lists and partials of one head take up."""
    n, d = q.shape[-2:]
    if engine == "chunks":
        return n * plan.top_k * (d * q.element_size() + 16)
    config = configs_of(q).tile
    own = plan.group_rows < config.rows
    pieces = plan.pieces(piece_size(plan, config.keys), own)
    return (n // config.rows + len(plan.table.groups)) * width_of(plan, pieces, config.rows, own or union) * 12


def _split(heads: range, bytes_a_head: int) -> list[range]:
    """Runs of flattened heads that fit the workspace."""
    groups = max(1, min(len(heads), -(-len(heads) * bytes_a_head // WORKSPACE)))
    edges = [heads.start + len(heads) * i // groups for i in range(groups + 1)]
    return [range(low, high) for low, high in zip(edges, edges[1:], strict=False)]


def _parts(heads: range, bytes_a_head: int) -> list[tuple[range, slice]]:
    """Runs of some heads that fit the workspace, and where they stand among them."""
    runs = _split(heads, bytes_a_head)
    return [(run_, slice(run_.start - heads.start, run_.stop - heads.start)) for run_ in runs]


def _kept_shots(q: Tensor, k: Tensor, plan: Plan, routing: RoutingConfig) -> Tensor | None:
    """`routing.kept_shots` from pooled chunks: [B*H, S, S] bytes."""
    if routing.shots_kept is None:
        return None
    t = plan.table.tensors(q.device)
    shots = max(c.shot for c in plan.table.chunks) + 1
    index = torch.arange(shots, device=q.device)
    weight = (t.chunk_shot == index[:, None]) * t.lengths.float()  # [S, C]
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
    reader, seen = (weight @ pool(x, plan, exact=True)["exact"] for x in (q, k))
    own = index[:, None] == index
    allowed = ~own & (index[:, None] >= index if routing.causal else torch.ones_like(own))
    # not `routing.select`: it may ask the host whether there are ties
    order = (reader @ seen.mT).masked_fill(~allowed, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return ((order.argsort(dim=-1) < routing.shots_kept) & allowed | own).to(torch.uint8).contiguous()


def unpack(sel: Tensor, chunks: int, rows: slice) -> Tensor:
    """sel [heads, W, N] -> what the rows chose, [heads, R, C] bool."""
    bit = torch.arange(32, device=sel.device, dtype=torch.int32)
    words = sel[:, :, rows].mT  # [heads, R, W]
    return ((words[..., None] >> bit) & 1).bool().flatten(-2)[..., :chunks]


def _record(record, sel: Tensor, plan: Plan, heads: tuple[int, ...]) -> None:
    """Hand the choice over in blocks of rows."""
    step = max(64, 2**28 // (plan.words * 32 * len(sel)))
    for low in range(0, plan.length, step):
        rows = slice(low, min(low + step, plan.length))
        record.add(rows, unpack(sel, plan.chunks, rows).unflatten(0, heads))
