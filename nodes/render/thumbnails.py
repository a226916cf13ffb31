"""One small picture of every latent frame, all on one sheet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

HEIGHT, ACROSS = 72, 12
FEWEST = 4  # pictures that a VAE joins to one latent frame


def contact_sheet(
    images: Tensor, rows: dict[str, list], films: int = 1, first: int = 0
) -> tuple[Tensor, dict[str, Any]]:
    """images [P, H, W, 3] in 0..1 -> (sheet [1, h, w, 3], where each frame's picture lies on it).

    rows   of a map by frames: the kind and latent frame of each
    films  that were sampled together and stand one behind the other in images; the first is shown
    first  latent frame that the film begins with, behind reference frames; those are cut off before decoding, unless
           there are images enough for them
    A latent frame is shown by its last picture: the first one holds one, every later one as many as the VAE joins.
    """
    images = images[: max(1, len(images) // films)]
    frames = [frame for kind, frame in zip(rows["kind"], rows["frame"], strict=True) if kind == "video"]
    if len(images) > FEWEST * frames[-1]:
        first = 0
    frames = [frame for frame in frames if frame >= first] or frames[-1:]
    apart = (len(images) - 1) / max(frames[-1] - first, 1)
    chosen = images[[round((frame - first) * apart) for frame in frames], ..., :3].permute(0, 3, 1, 2).float()
    width = max(1, round(HEIGHT * images.shape[2] / images.shape[1]))
    small = interpolate(chosen, (HEIGHT, width), mode="area").clamp(0, 1)
    across = min(ACROSS, len(frames))
    down = -(-len(frames) // across)
    small = torch.cat([small, small.new_ones(down * across - len(frames), 3, HEIGHT, width)])
    sheet = small.unflatten(0, (down, across)).permute(0, 3, 1, 4, 2).reshape(1, down * HEIGHT, across * width, 3)
    return sheet, {"frames": frames, "across": across, "width": width, "height": HEIGHT}
