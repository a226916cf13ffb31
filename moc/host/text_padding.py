"""Text padding. A token that no query may see is left out of the sequence, which gives exactly what hiding it gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..chunks.layout import Span, TokenLayout


@dataclass(frozen=True, eq=False)
class Unpadded:
    """layout: the sequence without padding; kept [M]: positions of its tokens in the whole one, None for all."""

    layout: TokenLayout
    kept: Tensor | None

    def take(self, x: Tensor) -> Tensor:
        return x if self.kept is None else x.index_select(-2, self.kept)

    def put(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Back to `shape`. Padding gets zeros, since its output is never read."""
        return x if self.kept is None else x.new_zeros(shape).index_copy(-2, self.kept, x)


def unpad(mask: Tensor, layout: TokenLayout) -> Unpadded | None:
    """What is left of a sequence under a mask; None if the mask does more than hide text from everyone."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    if bool(seen.all()):
        return Unpadded(layout, None)
    rows = seen.reshape(-1, seen.shape[-1])
    one_for_all = mask.ndim > 2 and mask.shape[-2] == 1 and mask.shape[-1] == layout.length
    if not one_for_all or not bool((rows == rows[0]).all()):
        return None
    if mask.dtype != torch.bool and not bool((seen | (mask <= torch.finfo(mask.dtype).min / 2)).all()):
        return None  # weakens some tokens instead of hiding them

    kept = rows[0].cpu().numpy()
    place = np.concatenate([[0], np.cumsum(kept)])  # of every token, and of the end, in the shorter sequence
    text = np.zeros(layout.length, bool)
    for span in layout.spans:
        text[span.start : span.stop] = span.kind == "text"
    if not (kept | text).all():
        return None
    shorter = TokenLayout(
        int(place[-1]),
        layout.grid,
        int(place[layout.video_start]),
        tuple(Span(s.kind, int(place[s.start]), int(place[s.stop])) for s in layout.spans),
        layout.frame_ids,
    )
    with torch.inference_mode(False):  # autograd may keep it
        return Unpadded(shorter, torch.as_tensor(np.flatnonzero(kept)).to(mask.device))
