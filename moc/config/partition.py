"""The first part of a routing: where the video is cut into chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..chunks.orders import ALIKE, EITHER, ORDERS
from ..errors import MoCError

ALL = 999  # a side of a tile: as far as the shot or the picture goes


def check(ok: bool, message: str) -> None:
    if not ok:
        raise MoCError(message)


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    check(value in allowed, f"{name} is {value!r}; choose one of: {', '.join(allowed)}.")


AUTO: Literal["auto"] = "auto"
Tile = tuple[int, int, int]


@dataclass(frozen=True)
class Size:
    """Of AUTO's tiles on frames of at least so many tokens. more: so many times the top_k are chosen."""

    tokens: int
    tile: Tile
    more: float


# With 32 tiles of 8x8 errors on trained-like inputs are those of 20 of 4x4 (docs/performance.md), at a quarter of the
# summaries. 480p has 1,560 tokens a frame in Wan; no picture of the demo model comes near.
SIZES = (Size(0, (1, 4, 4), 1.0), Size(1200, (1, 8, 8), 1.6))


@dataclass(frozen=True)
class Partition:
    """Where the video is cut into chunks.

    chunk_tokens   wanted chunk size in tokens; None means one latent frame
    tile           chunk size as (frames, rows, columns) of tokens; wins over chunk_tokens. AUTO: as SIZES say
    order          "tiles", or runs of chunk_tokens tokens of a shot in another order (`chunks/orders.py`)
    """

    chunk_tokens: int | None = None
    tile: Tile | Literal["auto"] | None = None
    order: str = "tiles"

    def __post_init__(self) -> None:
        check(
            self.chunk_tokens is None or self.chunk_tokens >= 1,
            f"chunk_tokens is {self.chunk_tokens}; a chunk holds at least 1 token.",
        )
        check(
            self.tile in (None, AUTO)
            or (len(self.tile) == 3 and all(isinstance(n, int) and n >= 1 for n in self.tile)),
            f"tile is {self.tile}; give three sizes (frames, rows, columns), each 1 or more, like 1x4x4.",
        )
        check_choice("order", self.order, ORDERS)
        check(
            self.order == "tiles" or (self.tile is None and self.chunk_tokens is not None),
            f"order is {self.order!r}, which cuts runs of tokens: give chunk_tokens, and no tile.",
        )

    @property
    def by_head(self) -> bool:
        """Whether heads have chunks of their own (`moc/by_head.py`)."""
        return self.order in (EITHER, ALIKE)

    @property
    def sentence(self) -> str:
        if self.tile == AUTO:
            return "tiles that follow the picture"
        if self.tile:
            return f"tiles of {'x'.join('all' if size >= ALL else str(size) for size in self.tile)} tokens"
        if self.order != "tiles":
            return f"{ORDERS[self.order][1]}, {self.chunk_tokens} tokens each"
        return f"chunks of about {self.chunk_tokens} tokens" if self.chunk_tokens else "whole latent frames"
