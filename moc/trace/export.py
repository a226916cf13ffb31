"""A heatmap as plain data: small enough for one message per step, and whole as a file."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np

from .heatmap import Heatmap, Line
from .trace import Trace

PARTS = 10_000  # shares travel as whole numbers of this
MOST_LINES = {"frames": 140, "shots": 100, "chunks": 140}  # of the film that a browser is sent at once; more are joined
COLUMN = ("kind", "shot", "frame", "tokens")


def of_heatmap(heat: Heatmap) -> dict[str, Any]:
    """share, always, open, mass: rows of whole numbers of 1 / PARTS; -1 where there is nothing (NaN, never met)."""
    return {
        "view": heat.view,
        "rows": _lines(heat.rows),
        "columns": _lines(heat.columns),
        "share": _whole(heat.chosen_of_open),
        "always": _whole(heat.always),
        "open": _whole(np.where(heat.met, heat.open, np.nan)),
        "mass": None if heat.mass is None else _whole(heat.mass),
        "density": heat.density,
        "steps": heat.steps,
        "blocks": heat.blocks,
        "head": heat.head,
        "heads_together": heat.heads_together,
        "parts": PARTS,
    }


def of_trace(trace: Trace) -> dict[str, Any]:
    """What a browser shows beside the map, and what its sliders may be set to."""
    records = list(trace.records)
    return {
        "trace": trace.id,
        "node": trace.node,
        "keep": trace.keep,
        "status": trace.status(),
        "summary": trace.summary(),
        "steps": trace.steps,
        "recorded_steps": sorted({r.step for r in records}),
        "recorded_blocks": sorted({r.block for r in records}),
        "heads": max((r.chosen.shape[0] for r in records), default=0),
    }


def npz(trace: Trace) -> bytes:
    """Every record in NumPy's format. Calls with the same axes are stacked; i counts the stacks.

    share_i, mass_i [calls, heads or 1, frames, columns]; step_i, block_i, density_i [calls]
    always_i, open_i [frames, columns]; frames_i, shots_i [frames]
    column_kind_i, column_shot_i, column_frame_i, column_tokens_i [columns]
    """

    def alike(record):
        return id(record.axes), record.chosen.shape[0], record.mass is not None

    arrays: dict[str, np.ndarray] = {}
    for i, (_, group) in enumerate(groupby(sorted(trace.records, key=alike), key=alike)):
        calls = list(group)
        axes = calls[0].axes
        parts = {
            "share": [r.chosen.numpy() for r in calls],
            "mass": [r.mass.numpy() for r in calls if r.mass is not None],
            **{name: [getattr(r, name) for r in calls] for name in ("step", "block", "density")},
            **{"frames": axes.frames, "shots": axes.shots, "always": axes.always.numpy(), "open": axes.open.numpy()},
            **{
                f"column_{name}": [getattr(c, name) for c in axes.columns]
                for name in ("kind", "shot", "frame", "tokens")
            },
        }
        arrays |= {f"{name}_{i}": np.array(part) for name, part in parts.items() if len(part)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none of them is called allow_pickle
    return file.getvalue()


def _lines(lines: Iterable[Line]) -> dict[str, list]:
    lines = list(lines)
    return {name: [getattr(line, name) for line in lines] for name in ("kind", "shot", "frame", "last_shot")}


def _whole(values: np.ndarray) -> list[list[int]]:
    return np.where(np.isnan(values), -1, np.round(values * PARTS)).astype(int).tolist()
