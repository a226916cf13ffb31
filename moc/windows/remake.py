"""Making one shot of a finished film: again, in between, or behind its end. Pure: no ComfyUI, no tensors."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from ..errors import MoCError
from ..shots.cuts import Shots
from ..shots.time_rules import AnyRule, rule_of
from .shots import Span, by_shots, spans

AGAIN, INSERT, CONTINUE = "remake the shot", "insert a shot behind it", "continue the film by a shot"
DO = (AGAIN, INSERT, CONTINUE)
KEPT, WHOLE = "kept frames", "whole film"
SEES = (KEPT, WHOLE)


@dataclass(frozen=True)
class Making:
    """A film that is finished but for one shot.

    shots  latent frames of every shot of the film that is to come
    made   number of the shot that is made, from 0
    """

    shots: tuple[Span, ...]
    made: int

    @property
    def frames(self) -> int:
        return self.shots[-1][1]

    @property
    def others(self) -> list[int]:
        """Latent frames that are finished."""
        first, stop = self.shots[self.made]
        return [*range(first), *range(stop, self.frames)]

    def windows(self, length: int, overlap: int) -> list[list[int]]:
        """In which the shot is sampled."""
        return by_shots([self.shots[self.made]], length, overlap)

    def looks(self, kept: Container[int], length: int) -> list[list[int]]:
        """What is kept of the others: frames of one shot together, so that all stand equally far from the one made."""
        found = ([frame for frame in range(*shot) if frame in kept] for shot in self.shots)
        return [some[i : i + length] for some in found for i in range(0, len(some), length)]


def plan(shots: Shots, frames: int, rule: AnyRule, do: str, number: int, length: int) -> tuple[Making, Shots]:
    """What is to be made, and the shots of the film that is to come.

    frames: latent frames of the finished film; number: of the shot, from 1; length: frames of the film that a new
    shot has. A new shot has no text and no name. Raises MoCError.
    """
    if do not in DO:
        raise MoCError(f"do is {do!r}; choose one of: {', '.join(DO)}.")
    rule = rule_of(rule)
    starts, _ = shots.starts(frames, rule)
    if do != CONTINUE and not 1 <= number <= len(starts):
        raise MoCError(f"there is no shot {number}: the film has {len(starts)}.")
    if do == AGAIN:
        return Making(tuple(spans(starts, frames)), number - 1), shots
    if len(rule.repeat) > 1:
        raise MoCError("this model's latent frames hold different numbers of frames, so that no shot can be put in.")
    behind, new = len(starts) if do == CONTINUE else number, max(round(length / rule.repeat[0]), 1)
    begin = (*starts, frames)[behind]
    starts = (*starts[:behind], begin, *(start + new for start in starts[behind:]))
    texts, names = ((*old[:behind], "", *old[behind:]) if old else () for old in (shots.texts, shots.names))
    shots = replace(shots, cuts=starts[1:], unit="latent", length=None, even=0, texts=texts, names=names)
    return Making(tuple(spans(starts, frames + new)), behind), shots


def with_text(shots: Shots, number: int, text: str) -> Shots:
    """The same shots, of which the one with this number, from 0, has another text."""
    texts = [*(shots.texts or ("",) * shots.count)]
    texts[number] = text
    return replace(shots, texts=tuple(texts))
