"""Footage: frames that come block by block, so that a film of any length fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...errors import MoCError

VALUES_AT_ONCE = 2**24  # of a block of frames: 64 MB as float32
Size = tuple[int, int]
Tick = Callable[[int], None]  # how many frames have been looked at so far; what it raises ends it


class Footage(Protocol):
    """A film to look at, as often as needed.

    count  frames, None where only reading will tell
    fps    frames per second
    """

    @property
    def count(self) -> int | None: ...

    @property
    def fps(self) -> float: ...

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
        self.images, self.fps = images, fps
        self.count: int = len(images)

    def read(self, size: Size | None = None) -> Iterator[Tensor]:
        per_block = max(1, VALUES_AT_ONCE // self.images[0].numel())
        for start in range(0, len(self.images), per_block):
            yield self.block(start, start + per_block, size)

    def block(self, start: int, end: int, size: Size | None = None) -> Tensor:
        block = self.images[start:end, ..., :3].float()
        if not block.sum().isfinite() and not (fine := block.flatten(1).isfinite().all(1)).all():  # the sum is quick
            bad = start + int((~fine).nonzero()[0])
            raise MoCError(f"frame {bad} holds values that are no numbers (NaN or infinite): look at what made it.")
        if size and size != tuple(block.shape[1:3]):
            block = interpolate(block.movedim(-1, 1), size, mode="area").movedim(1, -1)
        return (block * 255).add_(0.5).clamp_(0, 255).to(torch.uint8).expand(-1, -1, -1, 3).cpu()


def pick(footage: Footage, frames: Sequence[int], size: Size, tick: Tick = lambda seen: None) -> Tensor:
    """These frames of the film, uint8 [len(frames), height, width, 3]; behind its end, its last one."""
    if isinstance(footage, ImageFootage):  # no need to read what lies between
        last = footage.count - 1
        picked = [footage.block(at, at + 1, size) for at in (min(frame, last) for frame in frames)]
        tick(footage.count)
        return torch.cat(picked)
    found: dict[int, Tensor] = {}
    missing, seen, block = sorted(set(frames), reverse=True), 0, torch.empty(0)
    for block in footage.read(size):
        seen += len(block)
        while missing and missing[-1] < seen:
            frame = missing.pop()
            found[frame] = block[frame - seen].clone()
        tick(seen)
        if not missing:
            break
    return torch.stack([found.get(frame, block[-1]) for frame in frames])
