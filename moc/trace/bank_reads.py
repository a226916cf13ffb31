"""What rows read of keys without queries: how much of a frame's attention lies in each kept frame of a bank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..chunks.layout import TokenLayout
from ..routing.descriptors import wide
from .cells import Line

ROWS = 8  # query tokens of a frame whose attention is told apart by kept frames


@dataclass(frozen=True)
class BankAxes:
    """rows: frames that read; columns: frames that are kept, of the film or of a named memory."""

    rows: tuple[Line, ...]
    columns: tuple[Line, ...]


@dataclass(frozen=True)
class BankRecord:
    """One attention call.

    mass [H or 1, F, K]: part of the frame's attention that falls on the kept frame, mean over the batch; NaN where it
                         does not read it
    """

    step: int
    block: int
    axes: BankAxes
    mass: Tensor


class BankCounts:
    """Collects one attention call on its device.

    lead: so many frames of the layout, the first ones, are another window's and say nothing
    """

    def __init__(
        self, axes: BankAxes, layout: TokenLayout, lead: int, batch: int, heads: int, device: torch.device
    ) -> None:
        self.axes, self.layout, self.lead = axes, layout, lead
        self._place = {line.frame: i for i, line in enumerate(axes.columns)}
        shape = batch, heads, len(axes.rows), len(axes.columns)
        self._mass = torch.full(shape, torch.nan, device=device)

    def watch(self, prompt: int, rows: slice, parts: Sequence[dict[int, int]]) -> Watch | None:
        """Of one prompt of the batch and neighbouring rows. parts: kept frames that these rows read -> tokens of each.
        None where the rows hold no frame."""
        layout = self.layout
        begin, size = layout.video_start, layout.frame_tokens
        start, stop, _ = rows.indices(layout.length)
        frames = [i for i in range(layout.grid[0]) if start <= begin + i * size < stop]
        if not frames or not parts:
            return None
        columns = [self._place[frame] for some in parts for frame in some]
        into = self._mass[prompt, :, frames[0] : frames[-1] + 1]
        return Watch(into, columns, [[*some.values()] for some in parts], begin + frames[0] * size - start, size)

    def result(self) -> Tensor:
        """[H, F, K], still on the device."""
        mass = self._mass.nanmean(0)
        mass[:, : self.lead] = torch.nan
        return mass


class Watch:
    """Looks on while rows of some frames read a bank.

    How much of it all they read follows from the log-sum-exps for every row; which of the kept frames it is, from the
    scores of a few rows of every frame.
    """

    def __init__(
        self, into: Tensor, columns: Sequence[int], tokens: Sequence[list[int]], begin: int, size: int
    ) -> None:
        """into [H, F, K]: what to fill, in these columns; tokens: of every kept frame, part by part; the tokens of the
        frames that read are the rows from `begin` on, `size` of each."""
        self._into, self._columns, self._tokens = into, columns, tokens
        heads, frames = into.shape[:2]
        inside = torch.linspace(0, size - 1, min(ROWS, size)).round().long()
        self._rows = (begin + torch.arange(frames)[:, None] * size + inside).to(into.device, non_blocking=True)
        self._span = slice(begin, begin + frames * size)
        self._firsts = [0, *accumulate(map(len, tokens))]
        self._lse = into.new_empty(heads, self._rows.numel(), len(columns))

    def see(self, heads: slice, q: Tensor, part: int, keys: Tensor, weight: float, scale: float) -> None:
        """q [1, heads, N, D]; keys [1, heads, J, D] of all frames of a part, each of which counts `weight` times."""
        with without_autocast(q.device):
            some = wide(q[0].index_select(-2, self._rows.flatten())) * scale
            for number, of_frame in enumerate(keys[0].split(self._tokens[part], -2), self._firsts[part]):
                self._lse[heads, :, number] = ((some @ wide(of_frame).mT).logsumexp(-1) + math.log(weight)).float()

    def done(self, share: Tensor) -> None:
        """share [1, H, N]: how much of what every row reads lies in the bank."""
        frames = self._rows.shape[0]
        of_frame = share[0, :, self._span].unflatten(-1, (frames, -1)).mean(-1)  # [H, F]
        of_row = share[0].index_select(-1, self._rows.flatten())[..., None] * self._lse.softmax(-1)
        split = of_row.unflatten(1, (frames, -1)).sum(2)  # [H, F, kept frames]
        split = split / split.sum(-1, keepdim=True).clamp_min(torch.finfo(split.dtype).tiny)
        self._into[..., self._columns] = split * of_frame[..., None]
