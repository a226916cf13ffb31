"""The two engines of one call (`forward.py`), a few heads at a time."""

from __future__ import annotations

from torch import Tensor

from ...chunks.table import TILE_ROWS
from .attend import own as dense
from .attend.block import LOG2E, attend_tiles
from .attend.combine import Own, Slots, new_slots
from .attend.gather import routed
from .attend.own_calls import ROW_PARTIALS
from .attend.tail import Tail, tail_of
from .block_sizes import configs_of
from .device_table import Plan, Run, Tiles
from .lib.head_ranges import _joined, split, within
from .lists.csr import Choice, Listed, RowLists, listed
from .lists.csr_from_bits import Bits
from .lists.hot_chunks import Popular
from .lists.unions import union_lists, width_of

try:
    from .attend import gather_sm90, hot_chunks_sm90, union_sm90
    from .lib import pipeline_sm90
except ImportError:  # a Triton without Gluon
    gather_sm90 = hot_chunks_sm90 = union_sm90 = pipeline_sm90 = None  # type: ignore[assignment]
TAKE_OFF = True  # chunk-major: chosen chunks enter the tail and are taken off by `routed` (else masked there)
POPULAR = True  # chunk-major: rows meet chunks that many neighbours chose together


class Job:
    """One call's tensors, so that the engines below read as what they do."""

    def __init__(
        self, q, k, v, out, plan: Plan, causal: bool, scale: float, precision: str, summary, union: bool, lse=None
    ):
        self.q, self.k, self.v, self.out, self.plan = q, k, v, out, plan
        self.causal, self.scale, self.precision, self.summary, self.union = causal, scale, precision, summary, union
        self.lse = lse  # [B*H, N]: of all that a row sees, where somebody wants it
        self.configs = configs_of(q)
        self.on_hopper = gather_sm90 is not None and gather_sm90.usable(q, k, v, plan)
        self.by_popularity = POPULAR and gather_sm90 is not None and hot_chunks_sm90.usable(q, k, v, plan)
        self.take_off = TAKE_OFF and summary is not None

    def _attend(self, tiles: Tiles, heads: range, config, **parts) -> None:
        attend_tiles(
            self.q, self.k, self.v, self.out, self.plan, tiles, heads,
            scale=self.scale, config=config, precision=self.precision, total=self.lse, **parts,
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
        if alike and alone and gather_sm90 is not None and union_sm90.usable(self.q, self.k, self.v):
            rows = pipeline_sm90.BOTH
            tiles, blocks = plan.tiles(rows, "routed"), plan.blocks(rows, "routed", pipeline_sm90.KEYS)
            lists = union_lists(sel, plan, tiles, pieces, 2, width_of(plan, pieces, 2, True), False, pairs=True)
            union_sm90.attend(
                self.q, self.k, self.v, self.out, plan, tiles, blocks, lists, heads, self.tail(sel, heads, "tile"),
                scale=self.scale * LOG2E,
            )  # fmt: skip
            return
        if plan.top_k or self.union or not alone:
            width = width_of(plan, pieces, config.rows, not alone or self.union)
            lists = union_lists(sel, plan, tiles, pieces, 1 if alike else config.rows, width, not alone)
        tail = self.tail(sel, heads, "tile" if alike else "row")
        self._attend(tiles, heads, config, ranges=True, lists=lists, shared=alike, tail=tail)

    def listed(self, choice: Choice | Bits) -> Listed:
        config = self.configs.chunks_of(self.plan.longest, self.plan.typical)
        return listed(choice, self.plan, pipeline_sm90.BOTH if self.on_hopper else config.rows * config.tiles)

    def chunks(self, sel: Tensor | None, lists: Listed | None, heads: range, popular: Popular | None = None) -> None:
        """sel: bits, which the tail wants where chosen chunks are not taken off. lists: None where none is chosen;
        without what is in `popular`.

        Partials of a row and slot take up most room, so they are of fewer heads at a time than those of a row.
        """
        q, k, v, plan = self.q, self.k, self.v, self.plan
        taken = self.summary if self.take_off else None
        some = split(heads, bytes_a_head(q, plan, "chunks", False))
        for group in _joined(some, 2 * plan.length * q.shape[-1] * q.element_size(), ROW_PARTIALS):
            many = range(group[0].start, group[-1].stop)
            part = within(many, heads)
            tail = self.tail(None if sel is None else sel[part], many, "none" if self.take_off else "row")
            if popular is not None:
                tail = hot_chunks_sm90.attend(
                    q, k, v, taken, popular.of(part), plan, many, tail, scale=self.scale * LOG2E
                )
            library = dense.usable(q, plan) and dense.pays(q, plan, many)
            own = list(dense.own_parts(q, k, v, plan, many, self.scale)) if library else None
            for few in group:
                slots = None if lists is None else self.routed(lists.of(within(few, heads)), few, taken)
                self.merge(few, own, tail and tail.of(within(few, many)), slots)
                del slots  # before the next ones are made
            del tail, own

    def routed(self, lists: RowLists, heads: range, taken) -> Slots:
        q, plan, scale = self.q, self.plan, self.scale * LOG2E
        slots = new_slots(q, lists.number, plan.top_k, rest=taken is not None)
        if self.on_hopper:
            gather_sm90.routed(q, self.k, self.v, taken, lists, plan, heads, slots, scale=scale)
        else:
            config = self.configs.chunks_of(plan.longest, plan.typical)
            routed(
                q, self.k, self.v, taken, lists, plan, heads, slots,
                scale=scale, config=config, precision=self.precision,
            )  # fmt: skip
        return slots

    def merge(
        self, heads: range, own: list[tuple[Run | None, int, Own]] | None, tail: Tail | None, slots: Slots | None
    ):
        """own: of these heads, and perhaps others; None where own parts are yet to be attended."""
        plan = self.plan
        if own is None:
            config = self.configs.keys_in_a_row(plan.group_rows)
            tiles = plan.tiles(config.rows, "routed")
            self._attend(tiles, heads, config, ranges=True, tail=tail, slots=slots)
            return
        for run_, first, partial in own:
            some = range(max(first, heads.start), min(first + partial.out.shape[1], heads.stop))
            rest = run_ is not None and dense.linked_beside(plan, run_) is None
            config = self.configs.tile if rest else self.configs.merge
            part = within(some, heads)
            which = f"{run_.first}:{run_.first + run_.length * run_.groups}" if run_ else "routed"
            tiles = plan.tiles(config.rows, which)
            self._attend(
                tiles, some, config, ranges=rest, own=partial.of(slice(some.start - first, some.stop - first)),
                tail=tail and tail.of(part), slots=slots and slots.of(part),
            )  # fmt: skip


def piece_size(plan: Plan, keys: int) -> int:
    """Keys a listed piece takes up: the power of two that holds a typical chunk, 16 to `keys`."""
    size = 16
    while size < keys and size < plan.typical:
        size *= 2
    return size


def bytes_a_head(q: Tensor, plan: Plan, engine: str, union: bool) -> int:
    """What lists and partials of one head take up."""
    n, d = q.shape[-2:]
    if engine == "chunks":
        return n * plan.top_k * (d * q.element_size() + 16)
    config = configs_of(q).tile
    own = plan.group_rows < config.rows
    pieces = plan.pieces(piece_size(plan, config.keys), own)
    return (n // config.rows + len(plan.table.groups)) * width_of(plan, pieces, config.rows, own or union) * 12
