"""What the rows of one attention call chose, kept for calls of later steps, which then select nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..chunks.table import ChunkTable
from ..config import RoutingConfig


@dataclass(eq=False)
class KeptChoice:
    """Empty until a call has filled it; taken by every later call of the same backend, shape, chunks and routing, and
    filled anew by another one. What is kept is what rows read, union lists included.

    room     whether so many bytes may be kept
    short    called when a call runs out of memory: what is kept is given up first
    taken    the last call chose nothing
    refused  there was no room
    bytes    that are kept
    """

    room: Callable[[int], bool] = lambda size: True
    short: Callable[[], None] = lambda: None
    taken: bool = False
    refused: bool = False
    bytes: int = 0
    _of: tuple | None = None
    _call: tuple | None = None
    _parts: list[Any] = field(default_factory=list)
    _next: int = 0

    def begin(self, backend: str, q: Tensor, table: ChunkTable, routing: RoutingConfig) -> None:
        """A call with q [B, H, N, D]. A backend takes the parts that it added in the same order, or adds all again."""
        self._call = backend, q.shape, q.device, table.layout, table.starts, routing
        self.taken, self._next = self._call == self._of, 0
        if not self.taken:
            self.clear()

    def next(self) -> Any:
        self._next += 1
        return self._parts[self._next - 1]

    def add(self, size: int, part: Callable[[], Any]) -> None:
        """part: makes what takes up `size` bytes."""
        if self.refused:
            return
        if not self.room(size):
            self.clear()
            self.refused = True
            return
        self._parts.append(part())
        self.bytes += size

    def end(self) -> None:
        self._of = None if self.refused else self._call

    def clear(self) -> None:
        self._parts, self.bytes, self._of, self.refused = [], 0, None, False

    def give_up(self) -> None:
        """Out of memory."""
        self.clear()
        self.refused, self.room = True, lambda size: False
        self.short()


def nothing_kept() -> KeptChoice:
    return KeptChoice(room=lambda size: False)
