"""What an adapter says about one forward pass of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch.nn import Module

from ...chunks.layout import Span, TokenLayout
from ...errors import MoCError
from ...shots.cuts import Shots
from ...shots.time_rules import rule_of

Grid = tuple[int, int, int]
Part = tuple[str, int | None]  # kind of token (`layout.KINDS`) and how many; None: whatever the rest adds up to
Blocks = tuple[tuple[Module, ...], ...]
TEXT = {
    "cross": "by cross-attention, every text token for itself: captions of single shots can be told apart",
    "mixed": "by cross-attention, after text tokens have read each other",
    "joint": "in the video's sequence",
}


@dataclass(frozen=True)
class Sequence:
    """The sequence that the video self-attention of one forward pass will see.

    grid     (T, H, W) video tokens after patchifying
    blocks   modules of every transformer block, in running order
    before   what stands before the video, in order
    after    what stands after it; at most one part of both may have an open length
    cross    lengths of the sequences that cross-attention reads: with exactly so many video tokens the two look alike
    width    channels of the video's attention, where another self-attention could have the same length
    joined   latent frames in one frame of tokens
    """

    grid: Grid
    blocks: Blocks
    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()
    cross: tuple[int, ...] = ()
    width: int | None = None
    joined: int = 1

    @property
    def video_tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def shortest(self) -> int:
        """Tokens of the sequence with nothing in its part of open length."""
        return self.video_tokens + sum(count or 0 for _, count in (*self.before, *self.after))

    def layout(self, length: int, frame_ids: tuple[int, ...] | None) -> TokenLayout | None:
        """Layout of a sequence of `length` tokens; None where this does not explain that length."""
        parts = (*self.before, ("video", self.video_tokens), *self.after)
        rest = length - self.shortest
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
    """What there is to know about a model family, or about those of its classes that are alike.

    name       as people call it
    classes    its diffusion model classes, by their exact names: a subclass may add tokens
    time_rule  of its video autoencoder, by its name in `shots.time_rules.FAMILIES`
    text       how text is read: one of TEXT
    sequence   sequence(diffusion_model, args, kwargs) of one forward pass
    film       film(latent's shape, conds) -> (its first latent frame, how many), where the latent holds others as well
    outer      the model runs no wrappers of its own: what goes into it is seen one level above
    heads      heads(diffusion_model) of its video self-attention
    covers     which of the family, for the README
    """

    name: str
    classes: tuple[str, ...]
    time_rule: str
    text: str
    sequence: Callable[[Any, list, dict], Sequence]
    film: Callable[[tuple[int, ...], dict], tuple[int, int]] = lambda shape, conds: (0, shape[2])
    outer: bool = False
    heads: Callable[[Any], int] = attrgetter("num_heads")
    covers: str = ""

    def __post_init__(self) -> None:
        rule_of(self.time_rule)  # raises for an unknown one
        if self.text not in TEXT:
            raise MoCError(f"{self.name}: text is {self.text!r}; choose one of: {', '.join(TEXT)}.")

    def starts(self, shots: Shots, frames: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(first latent frame of every shot, what had to be moved for it)."""
        return shots.starts(frames, self.time_rule)


def conditioning(conds: dict, name: str):
    """What the first prompt that has it says."""
    return next((c[name] for group in conds.values() for c in group if c.get(name) is not None), None)


def each(*blocks: Iterable[Module]) -> Blocks:
    return tuple((block,) for group in blocks for block in group)


def patches(shape: Iterable[int], patch: Iterable[int]) -> Grid:
    """(T, H, W) tokens of a latent that is padded until it fills the patches."""
    t, h, w = (-(-size // p) for size, p in zip(tuple(shape)[-3:], patch))
    return t, h, w
