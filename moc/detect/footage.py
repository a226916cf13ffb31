"""Footage: frames that come block by block, so that a film of any length fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import MoCError

VALUES_AT_ONCE = 2**24  # of a block of frames: 64 MB as float32
Size = tuple[int, int]


class Footage(Protocol):
    """A film to look at, as often as needed.

    count  frames, None where only reading will tell
    fps    frames per second
    """

    count: int | None
    fps: float

    def read(self, size: Size | None = None) -> Iterator[Tensor]:
        """Blocks of RGB frames in order, uint8 [n, H, W, 3]; scaled to size (height, width) where it is given."""


class ImageFootage:
    """images  [frames, H, W, channels] in 0..1; one channel is grey, a fourth one is left out"""

    def __init__(self, images: Tensor, fps: float) -> None:
        if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
            raise MoCError(
                f"the images have the shape {tuple(images.shape)}; expected [frames, height, width, 1 or 3 or 4]."
            )
        if 0 in images.shape:
            raise MoCError("there are no frames in the images: connect a batch with at least one.")
        self.images, self.fps, self.count = images, fps, len(images)

    def read(self, size: Size | None = None) -> Iterator[Tensor]:
        per_block = max(1, VALUES_AT_ONCE // self.images[0].numel())
        for start in range(0, len(self.images), per_block):
            yield self.block(start, start + per_block, size)

    def block(self, start: int, end: int, size: Size | None = None) -> Tensor:
        block = self.images[start:end, ..., :3].float()
        if not block.isfinite().all():
            bad = start + int((~block.flatten(1).isfinite().all(1)).nonzero()[0])
            raise MoCError(f"frame {bad} holds values that are no numbers (NaN or infinite): look at what made it.")
        if size and size != tuple(block.shape[1:3]):
            block = interpolate(block.movedim(-1, 1), size, mode="area").movedim(1, -1)
        return (block.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, -1, -1, 3).cpu()


def pick(footage: Footage, frames: Sequence[int], size: Size) -> Tensor:
    """These frames of the film, uint8 [len(frames), height, width, 3]. Frames may repeat."""
    if isinstance(footage, ImageFootage):  # no need to read what lies between
        return torch.cat([footage.block(frame, frame + 1, size) for frame in frames])
    found, start = {}, 0
    for block in footage.read(size):
        for frame in frames:
            if start <= frame < start + len(block):
                found[frame] = block[frame - start]
        start += len(block)
    return torch.stack([found[frame] for frame in frames])
