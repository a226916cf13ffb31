"""What was made before, or is given from outside, under a name: which of it a shot remembers. Pure: no ComfyUI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MoCError
from ..shots.cuts import Shots
from ..shots.typed import shown
from .bank import kept

CLIP, PICTURE, CHARACTER = "clip", "picture", "character"
KINDS = (CLIP, PICTURE, CHARACTER)
AS_PROMPTS, ALL = "as the prompts say", "all"
READ = (AS_PROMPTS, ALL)


@dataclass(frozen=True, eq=False)
class Memory:
    """name      as prompts call it
    latents   [1, C, T, H, W] each: a clip is one of them, and so is every picture
    mask      [n, h, w], 1 where something is to be remembered, for all frames or for each; None: all of it
    frames    latent frames kept of a clip, 0 for all
    strength  how many times what is kept counts
    prompt    what a clip was made with, as the host has it; None: the prompt it is remembered for
    """

    name: str
    latents: tuple[Tensor, ...]
    mask: Tensor | None = None
    frames: int = 4
    strength: float = 1.0
    prompt: list | None = None

    def weights(self) -> list[dict[int, float]]:
        """Of every latent: frames that are kept -> how many frames each stands for."""
        return [
            {frame: self.strength * weight for frame, weight in kept([(0, size)], self.frames, size).items()}
            for size in (latent.shape[2] for latent in self.latents)
        ]

    def masks(self) -> list[list[Tensor]] | None:
        """[h, w] of every frame of every latent; None where all of it is remembered."""
        if self.mask is None:
            return None
        sizes = [latent.shape[2] for latent in self.latents]
        of_frames = iter(self.mask[i * len(self.mask) // sum(sizes)] for i in range(sum(sizes)))
        return [[next(of_frames) for _ in range(size)] for size in sizes]


def masks_of(frames: Iterable[int], mask: Tensor, first: int, stop: int) -> dict[int, Tensor]:
    """Latent frames -> [h, w] of those of the frames in which a mask [n, h, w] shows something. The mask is one for the
    whole film, latent frames [first, stop), or several in its order."""
    found = {frame: mask[(frame - first) * len(mask) // (stop - first)] for frame in frames}
    return {frame: part for frame, part in found.items() if part.any()}


def kept_tokens(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """Places in a frame's grid of tokens (rows, columns): those that a mask [h, w] covers by half, or the most."""
    small = torch.nn.functional.interpolate(mask[None, None].float(), tuple(grid), mode="area").flatten()
    return (small >= min(0.5, float(small.max()))).nonzero()[:, 0]


def choose(memories: Sequence[Memory], shots: Shots | None, read: str) -> list[frozenset[int]]:
    """Numbers of the memories that every shot reads; one set for all where there are no shots.

    As the prompts say: where any shot names some, each reads those it names, and of several with one name the first:
    copies of copies drift. Else all.
    """
    if read not in READ:
        raise MoCError(f"read is {read!r}; choose one of: {', '.join(READ)}.")
    firsts: dict[str, int] = {}
    for number, memory in enumerate(memories):
        firsts.setdefault(memory.name.casefold(), number)
    everything = frozenset(range(len(memories)))
    uses = shots.uses if shots is not None else ()
    if unknown := [name for names in uses for name in names if name.casefold() not in firsts]:
        there = ", ".join(memory.name for memory in memories)
        raise MoCError(f"a prompt uses {shown(repr(unknown[0]))}, but the memories are called: {there}.")
    if read == ALL or not any(uses):
        return [everything] * (shots.count if shots is not None else 1)
    return [frozenset(firsts[name.casefold()] for name in names) for names in uses]
