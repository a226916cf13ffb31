"""scenes_json: lists of shots as scene detection packs write them."""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import MoCError
from ..cuts import Shots
from ..typed import MOST_FRAMES, shown


def write_scenes(shots: Shots, detector: str, threshold: float, min_length: int) -> str:
    """Shots in video frames, of known length and fps, in the form that scene detection packs hand on.

    end_frame is one behind the last, as PySceneDetect counts.
    """
    if shots.unit != "video" or shots.length is None or not shots.fps:
        raise MoCError("scenes_json needs cuts in frames of the video, its length and its frames per second.")
    borders = (0, *shots.cuts, shots.length)
    rows = [
        {
            "index": number,
            "start_frame": start,
            "end_frame": end,
            "duration_frames": end - start,
            "fps": shots.fps,
            "start_time": timecode(start / shots.fps),
            "end_time": timecode(end / shots.fps),
            "duration_sec": (end - start) / shots.fps,
        }
        for number, (start, end) in enumerate(zip(borders, borders[1:]), 1)
    ]
    head = {"fps": shots.fps, "method": detector, "threshold": threshold, "min_scene_len_frames": min_length}
    return json.dumps({**head, "scenes": rows}, indent=2)


def read_scenes(text: str, fps: float, length: int | None = None) -> Shots:
    """scenes_json -> Shots. What its rows may be: see `_start`.

    fps     for rows in seconds, when the JSON has none of its own
    length  frames of the film, None: the last row's end
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise MoCError(f"scenes_json is no JSON: {error}.") from None
    except RecursionError:
        raise MoCError("scenes_json is no list of scenes: it is nested too deeply.") from None
    fps = _number(data.get("fps")) or fps if isinstance(data, dict) else fps
    rows = data.get("scenes") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise MoCError('scenes_json holds no list of scenes: expected {"scenes": [{"start_frame": 0, ...}, ...]}.')
    starts = [_edge(row, "start", 0, number, fps) for number, row in enumerate(rows, 1)]
    if None in starts:
        number = starts.index(None) + 1
        raise MoCError(f"scene {number} of scenes_json does not say where it starts (start_frame or start_time).")
    if length is None and rows:
        length = _edge(rows[-1], "end", 1, len(rows), fps)
    cuts = tuple(sorted({start for start in starts[1:] if start is not None}))
    return Shots(cuts=cuts, length=length, fps=float(fps))


def timecode(seconds: float) -> str:
    """HH:MM:SS.mmm"""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"


def _edge(row: Any, side: str, place: int, number: int, fps: float) -> int | None:
    """Where a scene starts or ends, in frames. A row: {"start_frame": 12}, {"start_time": "0:00:00.500"}, [12, 30]."""
    if isinstance(row, list) and len(row) == 2 and all(_number(value) is not None for value in row):
        return _frame(row[place], number)
    if not isinstance(row, dict):
        told = "another list" if isinstance(row, list) else shown(repr(row))  # which may be nested too deeply to write
        raise MoCError(f"scene {number} of scenes_json is {told}: expected an object or [first, last].")
    frame = _number(row.get(f"{side}_frame"))
    if frame is not None:
        return _frame(frame, number)
    for name in (f"{side}_time", f"{side}_sec", f"{side}_seconds", side):
        if row.get(name) is not None:
            return _frame(round(min(_seconds(row[name], number) * fps, 2.0**63)), number)
    return None


def _seconds(value: Any, number: int) -> float:
    plain = str(value).strip() if isinstance(value, (str, int, float)) else ""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", plain)
    if not match:
        told = shown(plain) or type(value).__name__
        raise MoCError(f"scene {number} of scenes_json has the time {told!r}: write seconds or HH:MM:SS.mmm.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _frame(value: float, number: int) -> int:
    if not 0 <= value <= MOST_FRAMES:
        raise MoCError(f"scene {number} of scenes_json begins or ends outside of frames 0 to {MOST_FRAMES}.")
    return int(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**63:
        return None
    return value
