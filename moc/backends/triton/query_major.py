"""A block of query rows meets the union of the chunks that its rows chose."""

from __future__ import annotations

from torch import Tensor

from ...chunks.table import TILE_ROWS
from .attend.block import LOG2E
from .block_sizes import block_sizes_of
from .device_table import DeviceTable
from .job import Job
from .lib.head_ranges import head_parts
from .lists.unions import union_lists, width_of


def attend(job: Job, sel: Tensor, heads: range) -> None:
    """sel [heads, W, N]: what the rows chose, as bits."""
    for some, part in head_parts(heads, bytes_a_head(job.q, job.plan, job.union)):
        _attend(job, sel[part], some)


def _attend(job: Job, sel: Tensor, heads: range) -> None:
    plan, config = job.plan, job.configs.tile
    alone = plan.group_rows >= config.block_m  # else a tile spans groups, and a row's own chunks join its list
    # a tile lies within a query tile: what one row chose, all did
    alike = job.union and plan.group_rows >= TILE_ROWS and TILE_ROWS % config.block_m == 0
    pieces = plan.pieces(piece_size(plan, config.block_n), not alone)
    if job.flow.attend == "union_sm90":
        from .attend import union_sm90
        from .lib.pipeline_sm90 import BOTH, KEYS

        tiles, blocks = plan.tiles(BOTH, "routed"), plan.blocks(BOTH, "routed", KEYS)
        pairs = union_lists(sel, plan, tiles, pieces, 2, width_of(plan, pieces, 2, True), False, pairs=True)
        union_sm90.attend(
            job.q, job.k, job.v, job.out, plan, tiles, blocks, pairs, heads, job.tail(sel, heads, "tile"),
            scale=job.scale * LOG2E,
        )  # fmt: skip
        return
    tiles, lists = plan.tiles(config.block_m, "routed" if alone else "small"), None
    if plan.top_k or job.union or not alone:
        width = width_of(plan, pieces, config.block_m, not alone or job.union)
        lists = union_lists(sel, plan, tiles, pieces, 1 if alike else config.block_m, width, not alone)
    tail = job.tail(sel, heads, "tile" if alike else "row")
    job.attend(tiles, heads, config, ranges=True, lists=lists, shared=alike, tail=tail)


def piece_size(plan: DeviceTable, keys: int) -> int:
    """Keys a listed piece takes up: the power of two that holds a typical chunk, 16 to `keys`."""
    size = 16
    while size < keys and size < plan.typical:
        size *= 2
    return size


def bytes_a_head(q: Tensor, plan: DeviceTable, union: bool) -> int:
    """What the lists of one head take up."""
    config = block_sizes_of(q).tile
    own = plan.group_rows < config.block_m
    pieces = plan.pieces(piece_size(plan, config.block_n), own)
    rows = plan.length // config.block_m + len(plan.table.groups)
    return rows * width_of(plan, pieces, config.block_m, own or union) * 12
