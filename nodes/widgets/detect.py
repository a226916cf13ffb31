"""Footage or a latent -> Shots and what is said about them. No ComfyUI here, so that it is tested without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...moc.shots.cuts import Shots
from ...moc.shots.detect import detect, latent
from ...moc.shots.detect.builtin import keep_apart
from ...moc.shots.detect.footage import Footage
from ...moc.shots.detect.scenes_json import read_scenes, write_scenes
from ...moc.shots.time_rules import rule_of
from .shots import ANY_MODEL, at_borders


@dataclass(frozen=True)
class Found:
    """shots: where the family can cut; cuts: where the footage does; length: frames, None where it is not known"""

    shots: Shots
    cuts: tuple[int, ...]
    length: int | None
    scenes: str
    report: str

    @property
    def times(self) -> str:
        """The cuts as MoC Shots reads them."""
        return ", ".join(map(str, self.cuts))


def find_shots(
    footage: Footage,
    detector: str,
    threshold: float,
    min_length: int,
    family: str,
    tick: Callable[[int], None] = lambda seen: None,
) -> Found:
    """Look through footage; see `detect`. Shots too short for the family go to their neighbours, and it is said."""
    seen = detect(footage, detector, threshold, min_length, tick)
    least = 1 if family == ANY_MODEL else max(rule_of(family).repeat)
    kept = keep_apart(list(seen.changes), seen.length, least)
    exact = Shots(cuts=tuple(change.frame for change in kept), length=seen.length, fps=footage.fps)
    shots, moved = at_borders(exact, family)
    lines = [tell_found([change.kind for change in kept], seen.length, detector)]
    if gone := [str(change.frame) for change in seen.changes if change not in kept]:
        lines.append(f"Left out: {', '.join(gone)}. {family} joins {least} frames, so shots last {least} or more.")
    scenes = write_scenes(exact, detector, seen.threshold, seen.min_length)
    return Found(shots, exact.cuts, seen.length, scenes, "\n".join([*lines, *moved]))


def take_scenes(text: str, fps: float, length: int | None, family: str) -> Found:
    """Shots found by another node, as scenes_json. length: frames of the footage, None: as the scenes say."""
    exact = read_scenes(text, fps, length)
    shots, moved = at_borders(exact, family)
    count = f"{exact.count} shots" if exact.cuts else "1 shot"
    return Found(shots, exact.cuts, exact.length, text, "\n".join([f"{count} (scenes_json).", *moved]))


def find_in_latent(samples: Tensor, threshold: float, min_length: int) -> tuple[Shots, str]:
    """(shots in latent frames, what is said about them). samples: see `latent.find_cuts`."""
    changes, length = latent.find_cuts(samples, threshold, min_length)
    shots = Shots(cuts=tuple(change.frame for change in changes), unit="latent", length=length)
    ends = zip((0, *shots.cuts), (*shots.cuts, length), strict=True)
    spans = ", ".join(f"{start}-{end - 1}" for start, end in ends)
    return shots, f"{shots.count} shots, latent frames {spans}." if changes else f"1 shot, {length} latent frames."


def tell_found(kinds: Sequence[str], length: int, how: str) -> str:
    """3 shots in 240 frames (built-in): 1 cut, 1 fade."""
    told = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in Counter(kinds).items())
    shots = f"{len(kinds) + 1} shots" if kinds else "1 shot"
    return f"{shots} in {length} frames ({how}){f': {told}' if told else ''}."
