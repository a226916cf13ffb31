"""What windows remember of each other: which frames of every shot are kept, what each of them stands for, and which of
them a window reads. Pure: no ComfyUI, no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..errors import MoCError
from .shots import Span

OFF, ON = "off", "on"
BANK = (OFF, ON)
AS_MODEL = "as the model"
OF_SHOT, OF_WINDOW = "its shot", "the window"
WEIGHT = (OF_SHOT, OF_WINDOW)
TIMES = 2  # as much as a window holds: what four shots' frames count for beside windows of two, where they do best
STORAGE = {AS_MODEL: 16, "8 bit": 8, "4 bit": 4}  # -> bits of a channel


@dataclass(frozen=True)
class BankSettings:
    """frames   latent frames kept of every shot, 0 for all
    storage  one of STORAGE
    blocks   numbers of the transformer blocks that read and are kept; none: all
    start    part of the sampling, 0 to 1, from which the bank is read; it is filled from the first step on
    budget   GB of the GPU's memory, 0 for half of what is free
    shots    numbers, from 0, of the shots that are kept; none: all
    weight   what a kept frame stands for, one of WEIGHT
    """

    frames: int = 1
    storage: str = AS_MODEL
    blocks: tuple[int, ...] = ()
    start: float = 0.0
    budget: float = 0.0
    shots: tuple[int, ...] = ()
    weight: str = OF_SHOT

    def __post_init__(self) -> None:
        if self.storage not in STORAGE:
            raise MoCError(f"bank_storage is {self.storage!r}; choose one of: {', '.join(STORAGE)}.")
        if self.weight not in WEIGHT:
            raise MoCError(f"bank_weight is {self.weight!r}; choose one of: {', '.join(WEIGHT)}.")
        if self.frames < 0 or not 0 <= self.start <= 1 or self.budget < 0:
            raise MoCError("bank_frames and bank_budget are 0 or more, and bank_from is 0 to 1.")


def kept(shots: Sequence[Span], count: int, length: int, only: Sequence[int] = ()) -> dict[int, float]:
    """Latent frames that are kept -> how many frames each stands for: those of its shot over those kept of it.

    Of a shot that is longer than a window (length latent frames) every stretch of a window's length counts as a shot.
    count: the first of every shot, and more evenly behind it; 0 for all. only: numbers of the shots that are kept.
    """
    found: dict[int, float] = {}
    for first, stop in (shots[number] for number in only if number < len(shots)) if only else shots:
        for begin in range(first, stop, length):
            size = min(length, stop - begin)
            some = min(count or size, size)
            found |= {begin + i * size // some: size / some for i in range(some)}
    return found


def fitted(weights: dict[int, float], length: int) -> dict[int, float]:
    """Weights so that all kept frames together count for TIMES what a window (length latent frames) holds; never less
    than they are."""
    factor = max(TIMES * length / sum(weights.values()), 1.0) if weights else 1.0
    return {frame: factor * weight for frame, weight in weights.items()}


def alike(frames: Iterable[int], weights: dict[int, float]) -> list[tuple[float, Sequence[int]]]:
    """Frames of one weight together: (weight, frames in the order of the film)."""
    ordered = sorted(frames, key=lambda frame: (weights[frame], frame))
    return [(weight, list(some)) for weight, some in groupby(ordered, weights.__getitem__)]
