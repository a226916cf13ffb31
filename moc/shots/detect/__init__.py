"""Shots from footage: where a film cuts, by a detector of our own or by one that is installed beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import MoCError
from . import builtin, pyscenedetect, transnetv2
from .footage import Footage, Tick
from .frame_change import SIZE

__all__ = ["BUILT_IN", "DETECTORS", "Detection", "detect"]

BUILT_IN = "built-in"
DETECTORS = (BUILT_IN, *pyscenedetect.DETECTORS, transnetv2.NAME)


@dataclass(frozen=True)
class Detection:
    """Where a film cuts.

    changes     the first frame of every shot but the first, and what is there: a cut, a fade or a dissolve
    length      frames of the film
    threshold   and min_length: what they were, with 0 resolved
    """

    changes: tuple[builtin.Change, ...]
    length: int
    threshold: float
    min_length: int

    @property
    def cuts(self) -> tuple[int, ...]:
        return tuple(change.frame for change in self.changes)


def detect(
    footage: Footage,
    detector: str = BUILT_IN,
    threshold: float = 0.0,
    min_length: int = 0,
    tick: Tick = lambda seen: None,
) -> Detection:
    """Look through a film once. threshold and min_length (frames of the shortest shot): 0 is the detector's own."""
    if detector not in DETECTORS:
        raise MoCError(f"detector is {detector!r}; choose one of: {', '.join(DETECTORS)}.")
    if threshold < 0 or min_length < 0:
        raise MoCError(
            f"threshold is {threshold} and min_length is {min_length}: use more, or 0 for the detector's own."
        )
    if detector in pyscenedetect.DETECTORS:
        threshold = threshold or pyscenedetect.THRESHOLDS[detector]
        min_length = min_length or pyscenedetect.MIN_LENGTH
        cuts, length = pyscenedetect.find_cuts(footage, detector, threshold, min_length, tick)
        changes = [builtin.Change(frame, "cut", threshold) for frame in cuts]
        return Detection(tuple(changes), length, threshold, min_length)
    min_length = min_length or builtin.MIN_LENGTH
    if detector == BUILT_IN:
        threshold = threshold or builtin.THRESHOLD
        film = thumbnails(footage, SIZE, tick)
        changes = builtin.find_changes(film, threshold)
    else:
        threshold = threshold or transnetv2.THRESHOLD
        model = transnetv2.load()
        film = thumbnails(footage, transnetv2.SIZE, tick)
        changes = transnetv2.find_changes(model, film, threshold, tick)
    return Detection(tuple(builtin.keep_apart(changes, len(film), min_length)), len(film), threshold, min_length)


def thumbnails(footage: Footage, size: tuple[int, int], tick: Tick) -> Tensor:
    """uint8 RGB [N, *size, 3]: 39 MB for 10,000 frames."""
    blocks, seen = [], 0
    for block in footage.read(size):
        blocks.append(block.contiguous())
        seen += len(block)
        tick(seen)
    if not blocks:
        raise MoCError("there are no frames in this video: look at what made it.")
    return torch.cat(blocks)
