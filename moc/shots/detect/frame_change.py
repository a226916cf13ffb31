"""How far apart two frames are, on thumbnails: with small motion taken out, or with the light taken out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

SIZE = (27, 48)  # height, width of the thumbnails, whatever the film's shape
TILES = (3, 6)
REACH_Y, REACH_X, STEP = 4, 6, 2  # of the search for where a tile went: pixels up and down, pixels sideways
SHIFT = 4  # of a whole picture against another, pixels each way
AT_ONCE = 512  # pairs of frames: 16 MB a plane


def planes(thumbnails: Tensor) -> Tensor:
    """uint8 RGB [N, 27, 48, 3] -> brightness and two colour differences [N, 3, 27, 48]; brightness is in 0..1."""
    red, green, blue = (thumbnails.float() / 255).unbind(-1)
    light = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    return torch.stack([light, 0.564 * (blue - light), 0.713 * (red - light)], 1)


def apart(first: Tensor, second: Tensor) -> Tensor:
    """Planes [N, C, 27, 48] twice -> [N]: mean difference after every tile went where it fits best.

    Block matching, as video codecs do it: moving things and a moving camera count little, another picture counts.
    """
    if not len(first):
        return first.new_zeros(0)
    return torch.cat([_apart(*pair) for pair in zip(first.split(AT_ONCE), second.split(AT_ONCE))])


def _apart(first: Tensor, second: Tensor) -> Tensor:
    height, width = SIZE
    around = pad(second, (REACH_X, REACH_X, REACH_Y, REACH_Y), mode="replicate")
    best: Tensor | None = None
    for y in range(0, 2 * REACH_Y + 1, STEP):
        for x in range(0, 2 * REACH_X + 1, STEP):
            there = (first - around[:, :, y : y + height, x : x + width]).abs().sum(1)
            tiles = there.unflatten(2, (TILES[1], -1)).unflatten(1, (TILES[0], -1)).mean((2, 4))
            best = tiles if best is None else torch.minimum(best, tiles)
    assert best is not None
    return best.mean((1, 2))


def tint(frames: Tensor) -> Tensor:
    """Planes [N, 3, 27, 48] -> [N, 2]: the picture's colour, whatever the light."""
    return (frames[:, 1:] / (frames[:, :1] + 0.1)).mean((2, 3))


def contrast(frames: Tensor) -> Tensor:
    """Planes [N, 3, 27, 48] -> spread of the brightness [N]; an even picture has 0."""
    return frames[:, 0].std((1, 2), unbiased=False)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Planes [N, C, 27, 48] twice -> [N]: correlation of the brightness where the pictures overlap best, in -1..1.

    It does not see how bright or how contrasty they are: the same picture under another light has nearly 1.
    """
    if not len(first):
        return first.new_zeros(0)
    return torch.cat([_correlation(*pair) for pair in zip(first.split(AT_ONCE), second.split(AT_ONCE))])


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    height, width = SIZE
    best = first.new_full((len(first),), -1.0)
    for y in range(-SHIFT, SHIFT + 1):
        for x in range(-SHIFT, SHIFT + 1):
            one = first[:, 0, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)].flatten(1)
            two = second[:, 0, max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)].flatten(1)
            one, two = one - one.mean(1, keepdim=True), two - two.mean(1, keepdim=True)
            best = torch.maximum(best, (one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1) + 1e-3))
    return best
