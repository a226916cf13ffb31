"""What a person chose in the widgets of the shot nodes -> Shots. No ComfyUI here, so that it is tested without."""

from __future__ import annotations

from ..moc.errors import MoCError
from ..moc.shots import Shots, from_durations, parse_times, split_prompt

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
    common, texts = split_prompt(prompt)
    if how != "prompt" and len(texts) == 1:
        common, texts = f"{common}\n{texts[0]}".strip(), ()
    end = length or None
    if how == "cuts":
        shots = Shots(cuts=parse_times(times, unit, fps), length=end, texts=texts)
    elif how == "equal shots":
        shots = Shots(even=shot_count, length=end, texts=texts)
    elif how == "prompt" and not times.strip():
        shots = Shots(even=len(texts), length=end, texts=texts)
    elif how in HOW:
        shots = from_durations(parse_times(times, unit, fps), texts)
        if end not in (None, shots.length):
            raise MoCError(
                f"the shots last {shots.length} frames together, but length is {end}: change the durations, "
                "or set length to 0."
            )
    else:
        raise MoCError(f"how is {how!r}; choose one of: {', '.join(HOW)}.")
    whole = "\n".join(filter(None, (common, *shots.texts)))
    return shots, whole, [f"{common}\n{text}".strip() for text in shots.texts or ("",) * shots.count]


def tell_shots(shots: Shots) -> str:
    """The shots in one sentence."""
    if shots.count == 1:
        return "1 shot."
    if shots.even:
        return f"{shots.count} shots of equal length."
    ends = (*shots.cuts, shots.length)
    spans = (f"{a}-{b - 1}" if b else f"{a} to the end" for a, b in zip((0, *shots.cuts), ends, strict=True))
    return f"{shots.count} shots, frames {', '.join(spans)}."
