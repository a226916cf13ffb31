"""What a person chose in the widgets of the shot nodes -> Shots. No ComfyUI here, so that it is tested without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...moc.errors import MoCError
from ...moc.shots.cuts import Shots, from_durations, parse_times
from ...moc.shots.prompts import ShotPrompt, read_prompt
from ...moc.shots.time_rules import FAMILIES, rule_of
from ...moc.shots.typed import SPACES

HOW = ("cuts", "durations", "equal shots", "prompt", "detected")
UNITS = ("frames", "seconds")
ANY_MODEL = "any model"  # cuts stay where they are until sampling, when the model is known
FAMILY_NAMES = (ANY_MODEL, *FAMILIES)


def read_shots(
    how: str,
    times: str = "",
    unit: str = "frames",
    fps: float = 16.0,
    shot_count: int = 3,
    prompt: str = "",
    length: int = 0,
    family: str = ANY_MODEL,
    detected: Shots | None = None,
) -> tuple[Shots, str, list[str]]:
    """(shots, the whole prompt without marks, every shot's prompt: what is common to all, then its own)."""
    if shot_count < 1:
        raise MoCError(f"shot_count is {shot_count}: a video has 1 shot or more.")
    if length < 0:
        raise MoCError(f"length is {length}: use the number of frames, or 0 for whatever the latent holds.")
    if how == "prompt" and not prompt.strip(SPACES):
        raise MoCError("the prompt is empty: write one text per shot with [shot cut] between, or choose another how.")
    said = read_prompt(prompt)
    end = length or None
    if how == "cuts":
        shots = Shots(cuts=parse_times(times, unit, fps), length=end)
    elif how == "equal shots":
        shots = Shots(even=shot_count, length=end)
    elif how == "prompt" and any(said.durations):
        if times.strip(SPACES):
            raise MoCError(
                "both the prompt's marks and times hold durations: empty times, or take them out of the marks."
            )
        shots = _timed(said.durations, fps, end)
    elif how == "prompt" and not times.strip(SPACES):
        shots = Shots(even=len(said.texts), length=end)
    elif how == "detected":
        if detected is None:
            raise MoCError(
                "how is detected, but nothing is connected to detected: connect shots, or choose another how."
            )
        shots = in_film_frames(detected, family)
        shots = replace(shots, length=end or shots.length)
    elif how in HOW:
        shots = from_durations(parse_times(times, unit, fps))
        if end not in (None, shots.length):
            raise MoCError(
                f"the shots last {shots.length} frames together, but length is {end}: change the durations, "
                "or set length to 0."
            )
    else:
        raise MoCError(f"how is {how!r}; choose one of: {', '.join(HOW)}.")
    if how != "prompt":
        if any(said.durations):
            raise MoCError(
                "the prompt's marks hold durations: set how to prompt, or take the durations out of the marks."
            )
        if len(said.texts) == 1 or (said.bars and len(said.texts) != shots.count):  # no shots in it
            text = " | ".join(said.texts)
            said = ShotPrompt("\n".join(filter(None, (said.common, text))), (), (), ())
    if how != "detected" or said.common or said.texts:  # else what comes along with the shots stays
        names = said.names if any(said.names) else ()
        shots = replace(shots, texts=said.texts, common=said.common, names=names)
    shots = replace(shots, fps=float(fps))
    return shots, shots.whole, list(shots.prompts)


def in_film_frames(shots: Shots, family: str) -> Shots:
    """Shots in frames of the film; those found in a latent need the family that made it."""
    if shots.unit == "latent" and family == ANY_MODEL:
        raise MoCError("these shots count latent frames: set family to the model's, so that they become frames.")
    return shots.to("video", family)[0] if shots.unit == "latent" else shots


def at_borders(shots: Shots, family: str) -> tuple[Shots, tuple[str, ...]]:
    """(shots whose cuts stand where this family can cut, what had to be moved and what does not fit, as sentences)."""
    shots.check_room("every frame" if family == ANY_MODEL else family)
    if family == ANY_MODEL:
        return shots, ()
    moved, notes = shots.to("latent", family)
    rule = rule_of(family)
    if shots.length is not None and shots.length not in (ends := rule.whole(shots.length)):
        notes += (f"{family} makes videos of {rule.name} frames, not of {shots.length}: use {ends[0]} or {ends[1]}",)
    cuts = moved.to("video", family)[0].cuts
    return replace(shots, cuts=cuts), tuple(f"{note[0].upper()}{note[1:]}." for note in notes)


def for_timeline(shots: Shots) -> dict[str, Any]:
    """Shots in frames of the film as the timeline in the browser takes them."""
    told = ("cuts", "even", "length", "texts", "common", "names")
    return {name: getattr(shots, name) for name in told}


def _timed(durations: tuple[str, ...], fps: float, end: int | None) -> Shots:
    """Shots as long as the prompt's marks say. The last may be left open: it lasts to the end."""
    missing = [number for number, time in enumerate(durations[:-1], 1) if not time]
    if missing:
        raise MoCError(
            f"shot {missing[0]} has no duration, but others have: write its mark like [shot {missing[0]}: 3s]."
        )
    frames = tuple(parse_times(time, "frames", fps)[0] for time in durations if time)
    shots = from_durations(frames)
    if len(frames) < len(durations):
        return replace(shots, cuts=(*shots.cuts, sum(frames)), length=end)
    if end not in (None, shots.length):
        raise MoCError(
            f"the shots last {shots.length} frames together, but length is {end}: change the durations in the marks, "
            "or set length to 0."
        )
    return shots


def tell_shots(shots: Shots) -> str:
    """The shots in one sentence."""
    if shots.count == 1:
        return "1 shot."
    if shots.even:
        return f"{shots.count} shots of equal length."
    ends = (*shots.cuts, shots.length)
    spans = (f"{a}-{b - 1}" if b else f"{a} to the end" for a, b in zip((0, *shots.cuts), ends, strict=True))
    return f"{shots.count} shots, frames {', '.join(spans)}."
