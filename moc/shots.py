"""Shots: where the film cuts, in video frames or latent frames, and how the one becomes the other."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from .errors import MoCError

UNITS = ("video", "latent")
CUT_MARK = re.compile(r"\[\s*(?:shot\s*cut|cut)\s*\]", re.IGNORECASE)


def latent_frames(video_frames: int, stride: int) -> int:
    """Latent frames of a causal video VAE: the first frame alone, then one for every `stride` frames (n = 4m+1)."""
    return 0 if video_frames <= 0 else (video_frames - 1 + stride - 1) // stride + 1


def nearest_border(cut: int, stride: int) -> tuple[int, int]:
    """(latent frame, video frame) of the latent border nearest to a cut at video frame `cut`; ties move back.

    Latent frame l >= 1 holds video frames 1 + stride*(l-1) to stride*l, so a border lies at every 1 + stride*(l-1).
    """
    latent = max((cut - 1 + (stride - 1) // 2) // stride, 0) + 1
    return latent, 1 + stride * (latent - 1)


@dataclass(frozen=True)
class Shots:
    """Shots of one video, before its latent size is known.

    cuts    first frame of every shot but the first, rising, in `unit` frames
    unit    "video" (frames of the film) or "latent"
    length  frames of the whole video in `unit`, None when only sampling will tell
    even    instead of cuts: this many shots of (nearly) equal length
    texts   one text per shot, or empty
    """

    cuts: tuple[int, ...] = ()
    unit: str = "video"
    length: int | None = None
    even: int = 0
    texts: tuple[str, ...] = ()

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

    @property
    def count(self) -> int:
        return self.even or len(self.cuts) + 1

    def starts(self, frames: int, stride: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(first latent frame of every shot of a video of `frames` latent frames, what had to be moved for it)."""
        if self.even:
            if self.even > frames:
                raise MoCError(f"{self.even} shots do not fit into {frames} latent frames: use fewer shots.")
            return tuple(i * frames // self.even for i in range(self.even)), ()
        starts, notes = [0], []
        for number, cut in enumerate(self.cuts, 1):
            latent, border = (cut, cut) if self.unit == "latent" else nearest_border(cut, stride)
            if border != cut:
                notes.append(f"cut {number} moved from frame {cut} to {border}, the nearest one this model can cut at")
            if latent <= starts[-1]:
                raise MoCError(
                    f"shot {number} is too short: its cut at frame {cut} falls into the same latent frame as the one "
                    f"before. This model joins {stride} frames into one; leave at least {stride} frames between cuts."
                )
            starts.append(latent)
        if starts[-1] >= frames:
            end = frames if self.unit == "latent" else 1 + stride * (frames - 1)
            raise MoCError(
                f"cut {len(self.cuts)} is at frame {self.cuts[-1]}, but this video has only {end} frames: "
                "move the cut or make the video longer."
            )
        return tuple(starts), tuple(notes)


def shot_of(frame: int, starts: tuple[int, ...]) -> int:
    """Number of the shot that holds absolute latent frame `frame`."""
    return bisect_right(starts, frame) - 1


def parse_times(text: str, unit: str, fps: float) -> tuple[int, ...]:
    """Numbers separated by commas, spaces or lines -> video frames.

    unit is "frames" or "seconds"; a trailing s or f on a number wins.
    """
    if unit not in ("frames", "seconds"):
        raise MoCError(f"unit is {unit!r}; choose frames or seconds.")
    if fps <= 0:
        raise MoCError(f"fps is {fps}; it must be more than 0.")
    values = []
    for word in re.split(r"[,;\s]+", text.strip()):
        if not word:
            continue
        match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)([sf]?)", word.lower())
        if not match:
            raise MoCError(f"{word!r} is not a number: write cuts like 49, 97 or 2.5s, 4s.")
        number, suffix = float(match[1]), match[2]
        seconds = suffix == "s" or (unit == "seconds" and suffix != "f")
        if not seconds and number != int(number):
            raise MoCError(f"{word!r} is not a whole frame number: write seconds as {word}s.")
        values.append(round(number * fps) if seconds else int(number))
    return tuple(values)


def from_durations(durations: tuple[int, ...], texts: tuple[str, ...] = ()) -> Shots:
    """Shots that last so many video frames each; the last one's end is the video's length."""
    for number, frames in enumerate(durations, 1):
        if frames < 1:
            raise MoCError(f"shot {number} lasts {frames} frames; every shot needs at least 1.")
    if not durations:
        raise MoCError("no durations given: write one number per shot, like 49, 48, 32.")
    borders, total = [], 0
    for frames in durations:
        total += frames
        borders.append(total)
    return Shots(cuts=tuple(borders[:-1]), length=total, texts=texts)


def split_prompt(prompt: str) -> tuple[str, tuple[str, ...]]:
    """A prompt with [shot cut] marks -> (global text, one text per shot).

    Text before a first [shot 1] / [per shot caption] mark, or after [global] / [global caption], belongs to all shots.
    """
    head = re.split(r"\[\s*(?:per[\s-]*shot(?:\s*captions?)?|shot\s*1)\s*\]", prompt, maxsplit=1, flags=re.IGNORECASE)
    common, body = (head[0], head[1]) if len(head) == 2 else ("", prompt)
    common = re.sub(r"\[\s*global(?:\s*caption)?\s*\]", "", common, flags=re.IGNORECASE)
    shots = [re.sub(r"\[\s*shot\s*\d+\s*\]", "", part, flags=re.IGNORECASE).strip() for part in CUT_MARK.split(body)]
    return common.strip(), tuple(shots)
