"""One call's tensors and its dataflow, and what both ways (`chunk_major.py`, `query_major.py`) do with them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .attend.block import LOG2E, attend_tiles
from .attend.combine import Partial
from .attend.tail import tail_of
from .block_sizes import BlockSize, BlockSizes
from .dataflow import Dataflow
from .device_table import DeviceTable
from .lib.quantise import Quantised
from .tiles import Tiles


@dataclass
class Job:
    """summary: mean keys and mean values of the chunks [B*H, C, D], with a tail. total [B*H, N]: log2-sum-exp2 of all
    that a row sees, where somebody wants it. eight: q and k in 8 bits, for what rows that choose see exactly."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    plan: DeviceTable
    flow: Dataflow
    causal: bool
    union: bool
    scale: float
    precision: str
    configs: BlockSizes
    summary: tuple[Tensor, Tensor] | None = None
    total: Tensor | None = None
    eight: Quantised | None = None

    def attend(self, tiles: Tiles, heads: range, config: BlockSize, **parts) -> None:
        """Rows that choose, in 8 bits where there are such."""
        self._attend(tiles, heads, config, eight=self.eight, **parts)

    def _attend(self, tiles: Tiles, heads: range, config: BlockSize, **parts) -> None:
        attend_tiles(
            self.q, self.k, self.v, self.out, self.plan, tiles, heads,
            scale=self.scale, config=config, precision=self.precision, total=self.total, **parts,
        )  # fmt: skip

    def full_rows(self, heads: range) -> None:
        """Text and reference rows. Few rows with long ranges: all heads at once fill the chip better."""
        config = self.configs.long
        self._attend(self.plan.tiles(config.block_m, "unrouted"), heads, config, ranges=True)

    def tail(self, sel: Tensor | None, heads: range, mask: str) -> Partial | None:
        """mask: as `tail_of` takes it; sel: the bits that it looks at."""
        if self.summary is None:
            return None
        shared = mask == "tile"
        config = self.configs.tile if shared else self.configs.tail
        mean_k, mean_v = self.summary
        return tail_of(
            self.q, mean_k, mean_v, self.plan.row if sel is None else sel, self.plan,
            self.plan.tiles(config.block_m, "routed" if shared else "all"), heads, by=self.flow.tail_by,
            scale=self.scale * LOG2E, config=config, precision=self.precision, causal=self.causal, mask=mask,
        )  # fmt: skip
