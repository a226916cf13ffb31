"""What a person chose in the widgets of the shot nodes -> Shots. No ComfyUI here, so that it is tested without."""

from __future__ import annotations

from dataclasses import replace

from ..moc.errors import MoCError
from ..moc.prompts import ShotPrompt, read_prompt
from ..moc.shots import Shots, from_durations, parse_times

HOW = ("cuts", "durations", "equal shots", "prompt")
UNITS = ("frames", "seconds")


def read_shots(
    how: str,
    times: str = "",
    unit: str = "frames",
    fps: float = 16.0,
    shot_count: int = 3,
    prompt: str = "",
    length: int = 0,
) -> tuple[Shots, str, list[str]]:
    """(shots, the whole prompt without marks, every shot's prompt: what is common to all, then its own)."""
    if shot_count < 1:
        raise MoCError(f"shot_count is {shot_count}: a film has 1 shot or more.")
    if length < 0:
        raise MoCError(f"length is {length}: use the number of frames, or 0 for whatever the latent holds.")
    if how == "prompt" and not prompt.strip():
        raise MoCError("the prompt is empty: write one text per shot with [shot cut] between, or choose another how.")
    said = read_prompt(prompt)
    end = length or None
    if how == "cuts":
        shots = Shots(cuts=parse_times(times, unit, fps), length=end)
    elif how == "equal shots":
        shots = Shots(even=shot_count, length=end)
    elif how == "prompt" and any(said.durations):
        if times.strip():
            raise MoCError(
                "both the prompt's marks and times hold durations: empty times, or take them out of the marks."
            )
        shots = _timed(said.durations, fps, end)
    elif how == "prompt" and not times.strip():
        shots = Shots(even=len(said.texts), length=end)
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
    shots = replace(
        shots, texts=said.texts, common=said.common, names=said.names if any(said.names) else (), fps=float(fps)
    )
    return shots, "\n".join(filter(None, (shots.common, *shots.texts))), list(shots.prompts)


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
        return replace(shots, cuts=(*shots.cuts, shots.length), length=end)
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
