"""The chunk tables of one sampling run: context windows bring hundreds of layouts, and every pass asks for each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from ..chunks.build import build_chunks
from ..chunks.layout import TokenLayout
from ..chunks.table import ChunkTable
from ..config import RoutingConfig

# A table takes 16 bytes a token of main memory, and up to as many again for its chunks; on a device about 60, and what
# its backend plans with. Uploading again is cheap beside building again.
MOST_TOKENS = 2**24  # of all tables: 512 windows of 32,000 tokens
MOST_TOKENS_NEAR = 2**21  # of those that stay on a device
FEWEST = 8  # that stay, whatever their size


@dataclass(eq=False)
class Tables:
    """Builds every table once, as long as MOST_TOKENS hold them all; several devices may ask at once."""

    _all: OrderedDict[tuple[TokenLayout, tuple], ChunkTable] = field(default_factory=OrderedDict)
    _near: OrderedDict[tuple[TokenLayout, tuple], ChunkTable] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, layout: TokenLayout, starts: tuple[int, ...], routing: RoutingConfig) -> ChunkTable:
        key = layout, routing.geometry
        with self._lock:
            if key not in self._all:
                self._all[key] = build_chunks(layout, starts, routing)
                self._near.pop(key, None)  # one that was dropped before
                _drop(self._all, MOST_TOKENS)
            self._all.move_to_end(key)
            if key not in self._near:
                self._near[key] = self._all[key]
                for far in _drop(self._near, MOST_TOKENS_NEAR):
                    far.leave_devices()
            self._near.move_to_end(key)
            return self._all[key]


def _drop(tables: OrderedDict[tuple[TokenLayout, tuple], ChunkTable], most: int) -> list[ChunkTable]:
    """Takes out the ones that were not asked for the longest."""
    tokens, dropped = sum(table.length for table in tables.values()), []
    while tokens > most and len(tables) > FEWEST:
        dropped.append(tables.popitem(last=False)[1])
        tokens -= dropped[-1].length
    return dropped
