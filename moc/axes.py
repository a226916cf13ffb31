"""What the rows and columns of a record are: frames that read, chunks that are read, and what they see anyway."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .chunks import ChunkTable

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
    absolute, column = table.layout.frames, column_of_chunk(table)
    columns: list[Column] = []
    for index, chunk in zip(column, table.chunks, strict=True):
        if index == len(columns):
            frame = absolute[chunk.frame] if chunk.frame >= 0 else -1
            columns.append(Column(chunk.kind, chunk.shot, frame, chunk.linked, chunk.length))
        else:
            columns[-1] = replace(columns[-1], tokens=columns[-1].tokens + chunk.length)
    lengths = np.array([c.length for c in table.chunks])
    linked, routable = (np.array([getattr(c, name) for c in table.chunks]) for name in ("linked", "routable"))
    shot, place = np.array([c.shot for c in table.chunks]), np.arange(len(lengths))
    always, able = np.zeros((2, len(absolute), len(lengths)))  # pairs
    frame_shot = [0] * len(absolute)
    for group in table.groups:
        if not group.routed:
            continue
        seen = linked | ((place >= group.own[0]) & (place < group.own[1]))
        free = routable & ~seen & ((shot <= group.shot) | (not causal))
        frames, rows = np.unique(table.frames[group.start : group.stop], return_counts=True)
        always[frames] += rows[:, None] * (seen * lengths)
        able[frames] += rows[:, None] * (free * lengths)
        for frame in frames:
            frame_shot[frame] = group.shot
    firsts = np.flatnonzero(np.diff(column, prepend=-1))
    pairs = table.layout.frame_tokens * np.add.reduceat(lengths, firsts)
    parts = (torch.from_numpy(np.add.reduceat(x, firsts, axis=1) / pairs).float() for x in (always, able))
    return Axes(absolute, tuple(frame_shot), tuple(columns), *parts)


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
