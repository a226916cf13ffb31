"""The detector of our own: cuts, fades and dissolves from thumbnails of the film, and what only looks like them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from .frame_change import apart, contrast, correlation, planes, tint

THRESHOLD = 1.55  # between cuts and everything else in the first half of a music video (docs/shots.md)
MIN_LENGTH = 8
QUIET = 0.02  # a difference that codecs and grain make; joins the usual change, so that stills do not divide by 0
AROUND = 4  # frames before and behind that say what change is usual
LOOK = 6  # a flash or a passer-by lasts at most so many frames
SAME, MOVING = 0.5, 1.15  # against the change at the frame itself: below, the old picture is back; above, it is motion
SAME_LIGHT, SAME_TINT = 0.93, 0.2  # correlation and change of colour of two pictures that differ by light alone
EVEN, DARK = 0.02, 0.08  # contrast of an empty frame; how near it is to black or white
DISSOLVES = (12, 16, 24, 32)  # frames between the two pictures that are compared
BESIDE, UNLIKE, DULL = 0.15, 0.8, 0.75  # of a dissolve: what is no mixture; correlation of its ends; contrast inside


@dataclass(frozen=True)
class Change:
    """frame: the first of the new shot, or the middle of a gradual change; strength: what decides between two"""

    frame: int
    kind: str  # cut, fade, dissolve
    strength: float


def find_changes(thumbnails: Tensor, threshold: float = 0.0) -> list[Change]:
    """uint8 RGB [N, 27, 48, 3] -> where a new shot begins.

    threshold  how many times its surroundings' change a cut must change; 0: THRESHOLD
    """
    threshold = threshold or THRESHOLD
    cuts, sharp = _cuts(thumbnails, threshold)
    empty = torch.cat([_empty(block) for block in thumbnails.split(512)])
    fades, dissolves = _fades(empty, sharp), _dissolves(thumbnails, empty)
    return sorted([*cuts, *fades, *dissolves], key=lambda change: change.frame)


def _cuts(film: Tensor, threshold: float) -> tuple[list[Change], set[int]]:
    """(hard cuts, every frame that changes as sharply as one: flashes and blinks too)."""
    change = _step_by_step(film)
    strength = change / (_usual(change) + QUIET)
    at = (strength >= threshold).nonzero()[:, 0]
    sharp = set(at.tolist())
    if not sharp:
        return [], sharp
    last = len(film) - 1
    back = torch.full((len(at),), torch.inf)
    for far in range(1, LOOK + 1):  # is the old picture back behind the frame, or was the new one there before?
        behind = apart(planes(film[at - 1]), planes(film[(at + far).clamp(max=last)]))
        before = apart(planes(film[(at - 1 - far).clamp(min=0)]), planes(film[at]))
        back = torch.minimum(back, torch.minimum(behind, before))
    back = back / change[at]
    real = (back >= SAME) & (back <= MOVING) & ~_light(planes(film[at - 1]), planes(film[at]))
    return [Change(frame, "cut", float(strength[frame])) for frame in at[real].tolist()], sharp


def _light(before: Tensor, now: Tensor) -> Tensor:
    """[N] bool: the same picture in the same colours, only the light is another."""
    return (correlation(before, now) >= SAME_LIGHT) & ((tint(before) - tint(now)).abs().sum(1) < SAME_TINT)


def _step_by_step(film: Tensor) -> Tensor:
    """[N]: how far every frame is from the one before, 0 for the first."""
    change = torch.zeros(len(film))
    for start in range(1, len(film), 512):
        block = planes(film[start - 1 : start + 512])
        change[start : start + 512] = apart(block[:-1], block[1:])
    return change


def _usual(change: Tensor) -> Tensor:
    """[N]: median change of the frames before or of those behind, whichever is larger: both sides of a cut are calm."""
    padded = torch.cat([change[:1].expand(AROUND), change, change[-1:].expand(AROUND)])
    medians = padded.unfold(0, AROUND, 1).median(1).values
    return torch.maximum(medians[: len(change)], medians[AROUND + 1 :])


def _fades(empty: Tensor, sharp: set[int]) -> list[Change]:
    """The middle of every stretch of empty frames that comes and goes gradually. empty: [N] bool"""
    found = []
    for start, end in _runs(empty.nonzero()[:, 0].tolist(), gap=1):
        if 0 < start and end < len(empty) and start not in sharp and end not in sharp:
            found.append(Change((start + end) // 2, "fade", THRESHOLD))
    return found


def _empty(block: Tensor) -> Tensor:
    frames = planes(block)
    light = frames[:, 0].mean((1, 2))
    return (contrast(frames) < EVEN) & ((light < DARK) | (light > 1 - DARK))


def _dissolves(film: Tensor, empty: Tensor) -> list[Change]:
    """Where the pictures between two unlike ones are mixtures of the two, more and more of the second."""
    cells = [planes(block).unflatten(3, (12, 4)).unflatten(2, (9, 3)).mean((3, 5)) for block in film.split(512)]
    small = torch.cat(cells).flatten(1)
    reach = max(DISSOLVES)  # half a fade is a mixture too, with black
    near_empty = max_pool1d(empty[None].float(), 2 * reach + 1, 1, reach)[0] > 0
    mixed = torch.zeros(len(film), dtype=torch.bool)
    for span in DISSOLVES:
        at = torch.arange(len(film))[span // 2 : len(film) - span // 2]
        first, way = small[at - span // 2], small[at + span // 2] - small[at - span // 2]
        length = way.square().sum(1)
        fits = length > 0.04**2 * small.shape[1]
        for share in (0.25, 0.5, 0.75):
            so_far = small[at - span // 2 + round(share * span)] - first
            along = (so_far * way).sum(1) / length.clamp(min=1e-9)
            beside = (so_far - along[:, None] * way).square().sum(1)
            fits &= ((along - share).abs() < 0.2) & (beside < BESIDE * length)
        at = at[fits & ~near_empty[at]]
        if not len(at):
            continue
        first_picture, second, middle = (planes(film[at + step]) for step in (-span // 2, span // 2, 0))
        unlike = correlation(first_picture, second) < UNLIKE
        spread = (contrast(first_picture).square() + contrast(second).square()) / 2
        dull = contrast(middle).square() < DULL * spread  # two pictures at once grey each other out, a moving one stays
        mixed[at[unlike & dull]] = True
    runs = _runs(mixed.nonzero()[:, 0].tolist(), gap=4)
    return [Change((start + end) // 2, "dissolve", THRESHOLD) for start, end in runs]


def _runs(frames: list[int], gap: int) -> list[tuple[int, int]]:
    """[first, one behind the last) of every run of frames that lie at most `gap` apart."""
    runs: list[tuple[int, int]] = []
    for frame in frames:
        if runs and frame - runs[-1][1] < gap:
            runs[-1] = (runs[-1][0], frame + 1)
        else:
            runs.append((frame, frame + 1))
    return runs


def keep_apart(changes: list[Change], length: int, min_length: int) -> list[Change]:
    """Changes that leave every shot of a film of `length` frames at least min_length; the stronger ones stay."""
    kept: list[Change] = []
    for change in sorted(changes, key=lambda change: (-change.strength, change.frame)):
        others = [0, length, *(other.frame for other in kept)]
        if min(abs(change.frame - other) for other in others) >= max(min_length, 1):
            kept.append(change)
    return sorted(kept, key=lambda change: change.frame)
