"""What a person asks of the windows, in frames of the film, and what that is in latent frames."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MoCError
from ..shots.time_rules import AnyRule, rule_of

SHOTS, DRAWN = "shots", "shots, drawn anew"
OF_HOST = ("standard_static", "standard_uniform", "looped_uniform", "batched")  # ComfyUI's schedules, by their names
FOLLOW = (DRAWN, SHOTS, *OF_HOST)
FUSE = ("pyramid", "relative", "flat", "overlap-linear")  # ComfyUI's ways to blend frames that several windows hold


@dataclass(frozen=True)
class WindowSettings:
    """follow      what decides where windows lie: one of FOLLOW
    length      frames of the film that a window holds at most
    overlap     frames that two windows of one shot share
    seed        of the drawing
    fuse        how frames in several windows are blended: one of FUSE
    keep_first  the film's first latent frame stands in every window
    """

    follow: str = DRAWN
    length: int = 81
    overlap: int = 16
    seed: int = 0
    fuse: str = FUSE[0]
    keep_first: bool = False

    def __post_init__(self) -> None:
        if self.follow not in FOLLOW:
            raise MoCError(f"windows is {self.follow!r}; choose one of: {', '.join(FOLLOW)}.")
        if self.fuse not in FUSE:
            raise MoCError(f"fuse_method is {self.fuse!r}; choose one of: {', '.join(FUSE)}.")
        if self.keep_first and self.follow in OF_HOST:
            raise MoCError(f"keep_first goes with windows that follow shots, not with ComfyUI's own {self.follow}.")

    def latents(self, rule: AnyRule) -> tuple[int, int]:
        """(latent frames a window holds at most, latent frames that two windows of one shot share)."""
        rule = rule_of(rule)
        length = rule.latents(self.length)
        overlap = self.overlap * len(rule.repeat) // sum(rule.repeat)
        if length < 1 + self.keep_first:
            raise MoCError(f"a window of {self.length} frames holds no latent frame of this model: make it longer.")
        if overlap >= length - self.keep_first:
            raise MoCError(
                f"windows of {self.length} frames cannot overlap by {self.overlap}: make length more or overlap less."
            )
        return length, overlap
