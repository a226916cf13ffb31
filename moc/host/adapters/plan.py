"""What an adapter says about one forward pass of its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...layout import Span, TokenLayout

Grid = tuple[int, int, int]
Part = tuple[str, int | None]  # kind of token (`layout.KINDS`) and how many; None: whatever the rest adds up to


@dataclass(frozen=True)
class Plan:
    """The sequence that the video self-attention of one forward pass will see.

    grid     (T, H, W) video tokens after patchifying
    before   what stands before the video, in order
    after    what stands after it; at most one part of both may have an open length
    blocks   `patches_replace` name of every transformer block, in running order
    cross    lengths of the sequences that cross-attention reads: with exactly so many video tokens the two look alike
    """

    grid: Grid
    blocks: tuple[tuple[str, int], ...]
    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()
    cross: tuple[int, ...] = ()

    @property
    def video_tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    def layout(self, length: int, frame_ids: tuple[int, ...] | None) -> TokenLayout | None:
        """Layout of a sequence of `length` tokens; None where the plan does not explain that length."""
        parts = (*self.before, ("video", self.video_tokens), *self.after)
        rest = length - sum(count or 0 for _, count in parts)
        open_parts = sum(count is None for _, count in parts)
        if length in self.cross or rest < 0 or (rest and not open_parts):
            return None
        spans, position, video_start = [], 0, 0
        for kind, count in parts:
            stop = position + (rest if count is None else count)
            if kind == "video":
                video_start = position
            else:
                spans.append(Span(kind, position, stop))
            position = stop
        return TokenLayout(length, self.grid, video_start, tuple(spans), frame_ids)


@dataclass(frozen=True)
class Adapter:
    """plan(diffusion_model, args, kwargs) of one forward pass; stride: video frames that one latent frame holds."""

    plan: Callable[[object, list, dict], Plan]
    stride: int
