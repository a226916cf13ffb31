"""What the rows and columns of a record are: frames that read, chunks that are read, and what they see anyway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..chunks.table import ChunkTable

MOST_COLUMNS = 512


@dataclass(frozen=True)
class Column:
    """One column of a record: a chunk, or the chunks of one frame group where there are too many."""

    kind: str
    shot: int
    frame: int  # absolute latent frame it begins in, -1 outside the video
    linked: bool
    tokens: int = 1


@dataclass(frozen=True)
class Axes:
    """rows: absolute latent frame and shot of every query frame; columns.

    always, open [F, K]: part of the (query, key) pairs that is seen without being chosen, and that may be chosen. What
    is missing to 1 causality forbids.
    """

    frames: tuple[int, ...]
    shots: tuple[int, ...]
    columns: tuple[Column, ...]
    always: Tensor
    open: Tensor


def axes_of(table: ChunkTable, causal: bool = False) -> Axes:
    """Row and column labels of a table's records."""
    absolute, chunks = table.layout.frames, table.chunks
    firsts = np.flatnonzero(np.diff(column_of_chunk(table), prepend=-1))
    lengths = np.array([c.length for c in chunks])
    tokens = np.add.reduceat(lengths, firsts)
    columns = []
    for chunk, count in zip((chunks[i] for i in firsts), tokens.tolist(), strict=True):
        frame = absolute[chunk.frame] if chunk.frame >= 0 else -1
        columns.append(Column(chunk.kind, chunk.shot, frame, chunk.linked, count))

    linked, routable = (np.array([getattr(c, name) for c in chunks]) for name in ("linked", "routable"))
    groups = [g for g in table.groups if g.routed]
    group = np.repeat(np.arange(len(groups)), [g.stop - g.start for g in groups])
    frame_of = np.concatenate([table.frames[g.start : g.stop] for g in groups] or [np.zeros(0, int)])
    entry, rows = np.unique(group * len(absolute) + frame_of, return_counts=True)  # rows of one group and one frame
    group, frame_of = np.divmod(entry, len(absolute))
    own = np.array([g.own for g in groups]).reshape(-1, 2)[group]
    # rows of every frame whose own part a chunk belongs to: +rows where it begins, -rows behind its end, added up
    of_own = np.zeros((len(absolute), len(chunks) + 1), int)
    for place, sign in ((own[:, 0], 1), (own[:, 1], -1)):
        np.add.at(of_own, (frame_of, place), sign * rows)
    of_own = of_own[:, :-1].cumsum(1)
    of_frame = np.bincount(frame_of, rows, len(absolute))[:, None]
    shots = np.zeros(len(absolute), int)
    shots[frame_of] = np.array([g.shot for g in groups], int)[group]
    visible = np.array([c.shot for c in chunks]) <= shots[:, None] if causal else True
    always = np.where(linked, of_frame, of_own) * lengths  # pairs
    able = (of_frame * visible - of_own) * (routable & ~linked) * lengths
    pairs = table.layout.frame_tokens * tokens
    parts = (torch.from_numpy(np.add.reduceat(x, firsts, axis=1) / pairs).float() for x in (always, able))
    return Axes(absolute, tuple(shots.tolist()), tuple(columns), *parts)


def column_of_chunk(table: ChunkTable) -> list[int]:
    """Column of every chunk: itself, or with too many chunks the frame group (or span) it belongs to."""
    if len(table.chunks) <= MOST_COLUMNS:
        return list(range(len(table.chunks)))
    columns: list[int] = []
    last = None
    for chunk in table.chunks:
        key = (chunk.kind, chunk.start) if chunk.frame < 0 else (chunk.kind, chunk.frame)
        columns.append(columns[-1] + (key != last) if columns else 0)
        last = key
    return columns
