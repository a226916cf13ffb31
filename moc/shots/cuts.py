"""Shots: where the film cuts, in video frames or latent frames, and how the one becomes the other."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from math import inf

from ..errors import MoCError
from .prompts import used, without_uses
from .time_rules import FAMILIES, AnyRule, TimeRule, rule_of
from .typed import DIGITS, MOST_FRAMES, SPACES, shown

__all__ = ["FAMILIES", "Shots", "TimeRule", "from_durations", "latent_frames", "nearest_border", "rule_of"]

UNITS = ("video", "latent")
TIME = re.compile(rf"([+-]?[{DIGITS}]+(?:\.[{DIGITS}]+)?)([sf]?)")


def latent_frames(video_frames: int, rule: AnyRule) -> int:
    """Latent frames that hold all of so many video frames, the last one perhaps not full."""
    return 0 if video_frames <= 0 else rule_of(rule).latent_of(video_frames - 1) + 1


def nearest_border(cut: int, rule: AnyRule) -> tuple[int, int]:
    """(latent frame, video frame) of the latent border nearest to a cut at video frame `cut`; ties move back."""
    return rule_of(rule).nearest(cut)


@dataclass(frozen=True)
class Shots:
    """Shots of one video, before its latent size is known.

    cuts    first frame of every shot but the first, rising, in `unit` frames
    unit    "video" (frames of the film) or "latent"
    length  frames of the whole video in `unit`, None when only sampling will tell
    even    instead of cuts: this many shots of (nearly) equal length
    texts   one text per shot, or empty
    common  text that belongs to every shot
    names   one name per shot, "" for none, or empty
    fps     frames per second of the finished video, None where it is not known
    """

    cuts: tuple[int, ...] = ()
    unit: str = "video"
    length: int | None = None
    even: int = 0
    texts: tuple[str, ...] = ()
    common: str = ""
    names: tuple[str, ...] = ()
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise MoCError(f"unit is {self.unit!r}; choose one of: {', '.join(UNITS)}.")
        if self.even and self.cuts:
            raise MoCError("give either cuts or a number of equal shots, not both.")
        previous = 0
        for number, cut in enumerate(self.cuts, 1):
            if cut <= 0:
                raise MoCError(f"cut {number} is at frame {cut}; the first shot starts at 0, so cuts start at frame 1.")
            if cut <= previous:
                raise MoCError(
                    f"cut {number} (frame {cut}) does not come after frame {previous}: put the cuts in order."
                )
            previous = cut
        if self.length is not None and self.cuts and self.cuts[-1] >= self.length:
            raise MoCError(
                f"the last cut is at frame {self.cuts[-1]}, but the video ends at frame {self.length}: "
                "move the cut or make the video longer."
            )
        if self.texts and len(self.texts) != self.count:
            raise MoCError(
                f"{len(self.texts)} shot texts for {self.count} shots: "
                f"{'add' if len(self.texts) < self.count else 'remove'} [shot cut] marks or change the cuts."
            )
        if self.names and len(self.names) != self.count:
            raise MoCError(f"{len(self.names)} shot names for {self.count} shots: give every shot one, or none at all.")
        if self.fps is not None and not 0 < self.fps < inf:
            raise MoCError(f"fps is {self.fps}; it must be more than 0.")

    def check_room(self, rule: AnyRule) -> None:
        """Raise where so many equal shots find no place in the film's length, which is in video frames."""
        latents = self.even if self.length is None else latent_frames(self.length, rule)
        if self.even > latents:
            raise MoCError(f"{self.even} shots do not fit into {latents} latent frames: use fewer shots.")

    @property
    def count(self) -> int:
        return self.even or len(self.cuts) + 1

    @property
    def prompts(self) -> tuple[str, ...]:
        """What every shot's picture has to show: what is common to all shots, then its own text."""
        return tuple(without_uses(f"{self.common}\n{text}".strip()) for text in self.texts or ("",) * self.count)

    @property
    def whole(self) -> str:
        """One text for all shots."""
        return "\n".join(filter(None, map(without_uses, (self.common, *self.texts))))

    @property
    def uses(self) -> tuple[tuple[str, ...], ...]:
        """The memories that every shot's prompt names; those in what is common to all count for all."""
        texts = self.texts or ("",) * self.count
        return tuple(tuple(dict.fromkeys((*used(self.common), *used(text)))) for text in texts)

    def starts(self, frames: int, rule: AnyRule) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(first latent frame of every shot of a video of `frames` latent frames, what had to be moved for it)."""
        end = frames if self.unit == "latent" else rule_of(rule).frames(frames)
        notes = self._length_notes(frames, end, rule)
        if self.even:
            return self._even_starts(frames, rule, notes)
        if self.cuts and self.cuts[-1] >= end:
            raise MoCError(
                f"cut {len(self.cuts)} is at frame {self.cuts[-1]}, but this video has only {end} frames: "
                "move the cut or make the video longer."
            )
        if self.unit == "latent":
            return (0, *self.cuts), notes
        cuts, moved = _latent_cuts(self.cuts, rule_of(rule), frames)
        return (0, *cuts), (*notes, *moved)

    def _even_starts(
        self, frames: int, rule: AnyRule, notes: tuple[str, ...]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        if self.even > frames:
            raise MoCError(
                f"{self.even} shots do not fit into {frames} latent frames, which is what this model makes of the "
                f"video's {rule_of(rule).frames(frames)} frames: use fewer shots, at most {frames}."
            )
        starts = tuple(i * frames // self.even for i in range(self.even))
        if frames % self.even:
            at = ", ".join(str(rule_of(rule).frames(start)) for start in starts)
            notes += (f"{self.even} equal shots are only nearly equal here: they begin at frames {at}",)
        return starts, notes

    def _length_notes(self, frames: int, end: int, rule: AnyRule) -> tuple[str, ...]:
        """What there is to say where the shots were made for a film of another length."""
        if self.length is None:
            return ()
        latents = self.length if self.unit == "latent" else latent_frames(self.length, rule)
        kind = "latent frames" if self.unit == "latent" else "frames"
        other = f"the shots were made for a video of {self.length} {kind}, but this one has {end}"
        return () if latents == frames else (other,)

    def to(self, unit: str, rule: AnyRule) -> tuple[Shots, tuple[str, ...]]:
        """(these shots in another unit, what had to be moved for it).

        A latent frame becomes the first video frame it holds, which leads back to it. A video frame becomes the
        nearest latent border; a video length becomes the latent frames that hold all of it.
        """
        rule = rule_of(rule)
        if unit == self.unit:
            return self, ()
        if unit == "video":
            length = None if self.length is None else rule.frames(self.length)
            return replace(self, cuts=tuple(map(rule.frames, self.cuts)), unit=unit, length=length), ()
        length = None if self.length is None else latent_frames(self.length, rule)
        cuts, notes = _latent_cuts(self.cuts, rule, length)
        return replace(self, cuts=cuts, unit=unit, length=length), notes


def _latent_cuts(cuts: tuple[int, ...], rule: TimeRule, frames: int | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(latent frame of every cut, what had to be moved for it), inside a video of `frames` latent frames."""
    latents, notes = [0], []
    for number, cut in enumerate(cuts, 1):
        latent, border = rule.nearest(cut)
        if frames is not None and latent >= frames:  # the end is nearer, but no place for a cut
            latent, border = frames - 1, rule.frames(frames - 1)
        if latent <= latents[-1]:
            raise MoCError(
                f"shot {number} is too short: its cut at frame {cut} falls into the same latent frame as the one "
                f"before. This model joins {max(rule.repeat)} frames into one; leave at least {max(rule.repeat)} "
                "frames between cuts."
            )
        if border != cut:
            notes.append(f"cut {number} moved from frame {cut} to {border}, the nearest one this model can cut at")
        latents.append(latent)
    return tuple(latents[1:]), tuple(notes)


def shot_of(frame: int, starts: tuple[int, ...]) -> int:
    """Number of the shot that holds absolute latent frame `frame`."""
    return bisect_right(starts, frame) - 1


def parse_times(text: str, unit: str, fps: float) -> tuple[int, ...]:
    """Numbers separated by commas, spaces or lines -> video frames.

    unit is "frames" or "seconds"; a trailing s or f on a number wins.
    """
    if unit not in ("frames", "seconds"):
        raise MoCError(f"unit is {unit!r}; choose frames or seconds.")
    if not 0 < fps < inf:
        raise MoCError(f"fps is {fps}; it must be more than 0.")
    values = []
    for word in filter(None, re.split(f"[,;{SPACES}]+", text)):
        match = TIME.fullmatch(word.lower())
        if not match:
            raise MoCError(f"{shown(word)!r} is not a number: write cuts like 49, 97 or 2.5s, 4s.")
        number, suffix = float(match[1]), match[2]
        seconds = suffix == "s" or (unit == "seconds" and suffix != "f")
        frames = number * fps if seconds else number
        if not abs(frames) <= MOST_FRAMES:
            raise MoCError(f"{shown(word)!r} is beyond frame {MOST_FRAMES}: no video is that long.")
        if not seconds and frames != int(frames):
            raise MoCError(f"{shown(word)!r} is not a whole frame number: write seconds as {shown(word)}s.")
        values.append(round(frames))
    return tuple(values)


def from_durations(durations: tuple[int, ...], texts: tuple[str, ...] = (), **more) -> Shots:
    """Shots that last so many video frames each; the last one's end is the video's length. `more`: see Shots."""
    for number, frames in enumerate(durations, 1):
        if frames < 1:
            raise MoCError(f"shot {number} lasts {frames} frames; every shot needs at least 1.")
    if not durations:
        raise MoCError("no durations given: write one number per shot, like 49, 48, 32.")
    borders, total = [], 0
    for frames in durations:
        total += frames
        borders.append(total)
    return Shots(cuts=tuple(borders[:-1]), length=total, texts=texts, **more)
