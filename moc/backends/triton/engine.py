"""From q, k, v to the output: pool, route, and one of two engines, a few heads at a time to bound memory.

chunk-major  few large chunks: every chunk meets the rows that chose it (`routed`), partials add up per row (`tile`)
tile-major   many small chunks: a tile of rows meets the union of what its rows chose, rows masked (`union`, `tile`)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...chunks import ChunkTable
from ...config import RoutingConfig
from . import dense
from .configs import configs_of
from .lists import row_lists
from .plan import Plan, Tiles, plan_of
from .pool import pool
from .route import route
from .routed import routed
from .stream import stream
from .tile import LOG2E, attend_tiles, new_slots
from .union import union_lists, width_of

WORKSPACE = 2**30  # bytes that lists and partials may take
SMALL_CHUNK = 32  # tokens: up to here tile-major (benchmarks/results: at 54 tokens chunk-major is faster)
IN_REGISTERS = 256  # chunks whose scores `route` holds at once


def run(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, record=None,
    *, engine: str | None = None, shared: bool = False,
) -> Tensor:  # fmt: skip
    """q, k, v [B, H, N, D] in sorted order -> [B, H, N, D]."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    plan = plan_of(table, routing, q.device)
    out = torch.empty_like(q)
    if out.stride(-1) != 1:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    precision = _precision(q)
    minmax, tail = routing.descriptor == "minmax", routing.tail == "pooled"
    means = pool(k, plan, rest=not minmax, ends=minmax)
    near, far = (means["high"], means["low"]) if minmax else (means["mean"], means["rest"])
    summary = (means["mean"], pool(v, plan)["mean"]) if tail else None
    keep = _kept_shots(q, k, plan, routing)
    engine = engine or ("tiles" if plan.typical <= SMALL_CHUNK else "chunks")
    job = _Job(q, k, v, out, plan, routing.causal, scale, precision, summary, shared)
    kept: list[Tensor] = []
    job.see_all(range(q.shape[0] * q.shape[1]))
    for heads in _head_groups(q, plan, engine):
        sel = torch.empty(len(heads), plan.words, plan.length, dtype=torch.int32, device=q.device)
        if plan.top_k == 0:
            sel.zero_()
        else:
            choose = route if plan.chunks <= IN_REGISTERS else stream
            choose(
                q, near, far, keep, sel, plan, heads,
                minmax=minmax, causal=routing.causal, precision=_careful(precision), config=job.configs.router,
            )  # fmt: skip
        if record is not None:
            kept.append(sel)
        (job.tiles if engine == "tiles" else job.chunks)(sel, heads)
    if record is not None:
        _record(record, torch.cat(kept), plan, q.shape[:2])
    return out


class _Job:
    """One call's tensors, so that the engines below read as what they do."""

    def __init__(self, q, k, v, out, plan: Plan, causal: bool, scale: float, precision: str, summary, shared: bool):
        self.q, self.k, self.v, self.out, self.plan = q, k, v, out, plan
        self.causal, self.scale, self.precision, self.summary, self.shared = causal, scale, precision, summary, shared
        self.configs = configs_of(q)

    def _attend(self, tiles: Tiles, heads: range, config, **parts) -> None:
        attend_tiles(
            self.q, self.k, self.v, self.out, self.plan, tiles, heads,
            scale=self.scale, config=config, precision=self.precision, causal=self.causal, **parts,
        )  # fmt: skip

    def see_all(self, heads: range) -> None:
        """Text and reference rows. Few rows with long ranges: all heads at once fill the chip better."""
        config = self.configs.dense
        self._attend(self.plan.tiles(config.rows, "unrouted"), heads, config, ranges=True)

    def tiles(self, sel: Tensor, heads: range) -> None:
        plan, config = self.plan, self.configs.tile
        alone = plan.group_rows >= config.rows  # else a tile spans groups, and a row's own chunks join its list
        tiles = plan.tiles(config.rows, "routed" if alone else "small")
        lists = None
        if plan.top_k or not alone:
            pieces = plan.pieces(piece_size(plan, config.keys), not alone)
            lists = union_lists(sel, plan, tiles, pieces, config.rows, not alone)
        self._attend(tiles, heads, config, ranges=True, lists=lists, shared=self.shared, sel=sel, tail=self.summary)

    def chunks(self, sel: Tensor, heads: range) -> None:
        plan, q = self.plan, self.q
        slots = None
        if plan.top_k:
            slots = new_slots(q, len(heads), plan)
            lists = row_lists(sel, plan, plan.top_k, self.configs.routed.rows)
            routed(
                q, self.k, self.v, lists, plan, heads, slots.part, slots.lse,
                scale=self.scale * LOG2E, config=self.configs.routed, precision=self.precision,
            )  # fmt: skip
            del lists
        if not dense.usable(q, plan):
            config = self.configs.dense if self.summary is None else self.configs.tile
            tiles = plan.tiles(config.rows, "routed")
            self._attend(tiles, heads, config, ranges=True, sel=sel, tail=self.summary, slots=slots)
            return
        rest = bool(plan.linked)
        config = self.configs.tile if rest or self.summary else self.configs.merge
        for run_, first, own in dense.own_parts(q, self.k, self.v, plan, heads, self.scale):
            some = range(first, first + own.out.shape[1])
            part = slice(first - heads.start, first - heads.start + len(some))
            mine = None if slots is None else type(slots)(slots.part[part], slots.lse[part])
            tiles = plan.tiles(config.rows, f"{run_.first}:{run_.first + run_.length * run_.groups}")
            self._attend(tiles, some, config, ranges=rest, sel=sel[part], tail=self.summary, slots=mine, own=own)


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


def _head_groups(q: Tensor, plan: Plan, engine: str) -> list[range]:
    """Runs of flattened heads whose lists and partials fit the workspace."""
    b, h, n, d = q.shape
    size = n * plan.words * 4
    if engine == "tiles":
        config = configs_of(q).tile
        own = plan.group_rows < config.rows
        pieces = plan.pieces(piece_size(plan, config.keys), own)
        size += (n // config.rows + len(plan.table.groups)) * width_of(plan, pieces, config.rows, own) * 12
    else:
        size += n * plan.top_k * (d * q.element_size() + 8)
    groups = min(b * h, -(-b * h * size // WORKSPACE))
    edges = [b * h * i // groups for i in range(groups + 1)]
    return [range(low, high) for low, high in zip(edges, edges[1:], strict=False)]


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
