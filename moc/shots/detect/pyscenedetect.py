"""PySceneDetect's detectors on frames in memory, frame for frame what its command line does with a file."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from ...errors import MoCError
from .footage import Footage

DETECTORS = ("content", "adaptive", "histogram", "hash")
THRESHOLDS = {"content": 27.0, "adaptive": 3.0, "histogram": 0.2, "hash": 0.35}  # as of PySceneDetect 0.7
MIN_LENGTH = 15
WIDTH = 256  # it scales frames down to this many pixels on the longer side


def find_cuts(
    footage: Footage, name: str, threshold: float, min_length: int, tick: Callable[[int], None]
) -> tuple[list[int], int]:
    """(first frame of every shot but the first, frames of the film)."""
    cv2, FrameTimecode, detector = _detector(name, threshold, min_length)
    fps = Fraction(footage.fps).limit_denominator(1_000_000)
    seen, cuts, stamp = 0, [], FrameTimecode(0, fps)
    for block in footage.read():
        for frame in block.numpy()[..., ::-1]:  # to BGR
            scale = max(frame.shape[:2]) / WIDTH
            if scale > 1:
                size = (max(1, round(frame.shape[1] / scale)), max(1, round(frame.shape[0] / scale)))
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
            stamp = FrameTimecode(seen, fps)
            cuts += detector.process_frame(stamp, frame.copy())
            seen += 1
        tick(seen)
    if not seen:
        raise MoCError("there are no frames in this video: look at what made it.")
    cuts += detector.post_process(stamp)
    return sorted({cut.frame_num for cut in cuts}), seen


def _detector(name: str, threshold: float, min_length: int) -> tuple[Any, Any, Any]:
    """(OpenCV, PySceneDetect's time stamps, its detector)."""
    try:  # optional: people who have it may use it
        import cv2
        from scenedetect import FrameTimecode, detectors
    except ImportError as error:
        raise MoCError(
            f"the detector {name} needs PySceneDetect, which is not installed ({error}): choose built-in, or install "
            "scenedetect-headless into ComfyUI's Python."
        ) from None
    kinds = {
        "content": lambda: detectors.ContentDetector(threshold, min_length),
        "adaptive": lambda: detectors.AdaptiveDetector(threshold, min_length),
        "histogram": lambda: detectors.HistogramDetector(threshold, min_scene_len=min_length),
        "hash": lambda: detectors.HashDetector(threshold, min_scene_len=min_length),
    }
    if not hasattr(FrameTimecode, "frame_num"):
        raise MoCError(f"the detector {name} needs PySceneDetect 0.7 or newer: update it, or choose built-in.")
    return cv2, FrameTimecode, kinds[name]()
