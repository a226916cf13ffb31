"""VIDEO sockets as footage: files are decoded block by block and never held as a whole."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ..errors import MoCError
from ..shots.detect.footage import VALUES_AT_ONCE, Footage, ImageFootage, Size

Window = tuple[float, float]  # where a trimmed file starts and how long it goes on, in seconds; 0: to its end


def footage_of(video: Any) -> Footage:
    """What a VIDEO socket carries -> Footage. Only files stream; other kinds hold their frames in memory already."""
    window = window_of(video) if isinstance(video, InputImpl.VideoFromFile) else None
    if window is not None:
        return FileFootage(video, window)
    parts = video.get_components()
    return ImageFootage(parts.images, float(parts.frame_rate))


def window_of(video: Any) -> Window | None:
    """None where a ComfyUI has trimmed a file and does not tell from where: several before 0.30.0 do not."""
    if hasattr(video, "get_active_trim_window"):
        return video.get_active_trim_window()
    kind = type(video)
    can_trim = "start_time" in inspect.signature(kind).parameters
    if can_trim and video.get_duration() != kind(video.get_stream_source()).get_duration():
        return None
    return 0.0, 0.0


class FileFootage:
    """The frames that ComfyUI itself would make of a video file, cut to its trim, turned as the file asks."""

    def __init__(self, video: Any, window: Window) -> None:
        self.video, self.window = video, window
        self.fps = float(video.get_frame_rate())
        self.count = video.get_frame_count() or None  # from the file's head: perhaps not exact

    def read(self, size: Size | None = None) -> Iterator[Tensor]:
        block: list[np.ndarray] = []
        for picture in self._pictures(size):
            block.append(picture)
            if len(block) * picture.size >= VALUES_AT_ONCE:
                yield torch.from_numpy(np.stack(block))
                block = []
        if block:
            yield torch.from_numpy(np.stack(block))

    def _pictures(self, size: Size | None) -> Iterator[np.ndarray]:
        start, duration = self.window
        with av.open(self.video.get_stream_source(), mode="r") as container:
            if not container.streams.video:
                raise MoCError("there is no picture in this video: choose another file.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            first = int(start / stream.time_base)
            if first:
                container.seek(first, stream=stream)
            end = int((start + duration) / stream.time_base) if duration else None
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts < first:
                    continue
                if end is not None and frame.pts is not None and frame.pts >= end:
                    break
                yield _picture(frame, size)


def _picture(frame: av.VideoFrame, size: Size | None) -> np.ndarray:
    """RGB uint8 [H, W, 3], upright."""
    turns = round(getattr(frame, "rotation", 0) / 90)
    if size:
        height, width = size if turns % 2 == 0 else size[::-1]
        frame = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
