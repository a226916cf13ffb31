"""A heatmap as plain data: small enough for one message per step, and whole as a file."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np

from .bank_reads import BankAxes, BankRecord
from .heatmap import Heatmap, Line
from .trace import Trace

PARTS = 10_000  # shares travel as whole numbers of this
# of the film that a browser is sent at once; more are joined
MOST_LINES = {"frames": 140, "shots": 100, "chunks": 140, "bank": 100}
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
    records, reads = list(trace.records), list(trace.reads)
    return {
        "trace": trace.id,
        "node": trace.node,
        "keep": trace.keep,
        "status": trace.status(),
        "summary": trace.summary(),
        "steps": trace.steps,
        "recorded_steps": sorted({r.step for r in records} | {r.step for r in reads}),
        "recorded_blocks": sorted({r.block for r in records} | {r.block for r in reads}),
        "heads": max((*(r.chosen.shape[0] for r in records), *(r.mass.shape[0] for r in reads)), default=0),
    }


def npz(trace: Trace) -> bytes:
    """Every record in NumPy's format. Calls with the same axes are stacked; i counts the stacks.

    share_i, mass_i [calls, heads or 1, frames, columns]; step_i, block_i, density_i [calls]
    always_i, open_i [frames, columns]; frames_i, shots_i [frames]
    column_kind_i, column_shot_i, column_frame_i, column_tokens_i [columns]
    Of what was read of a bank, the same with bank_ before it: bank_mass_i is NaN where a frame did not read another;
    bank_frames_i and bank_shots_i read, bank_column_shot_i, bank_column_frame_i and bank_column_name_i are read.
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
    arrays |= _of_bank(trace)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none of them is called allow_pickle
    return file.getvalue()


def _of_bank(trace: Trace) -> dict[str, np.ndarray]:
    stacks: dict[tuple[BankAxes, int], list[BankRecord]] = {}
    for record in trace.reads:
        stacks.setdefault((record.axes, record.mass.shape[0]), []).append(record)
    arrays: dict[str, np.ndarray] = {}
    for i, ((axes, _), calls) in enumerate(stacks.items()):
        parts = {
            "mass": [r.mass.numpy() for r in calls],
            **{name: [getattr(r, name) for r in calls] for name in ("step", "block")},
            **{f"{name}s": [getattr(line, name) for line in axes.rows] for name in ("frame", "shot")},
            **{f"column_{n}": [getattr(line, n) for line in axes.columns] for n in ("kind", "shot", "frame", "name")},
        }
        arrays |= {f"bank_{name}_{i}": np.array(part) for name, part in parts.items()}
    return arrays


def _lines(lines: Iterable[Line]) -> dict[str, list]:
    lines = list(lines)
    names = ("kind", "shot", "frame", "last_shot", *(["name"] if any(line.name for line in lines) else []))
    return {name: [getattr(line, name) for line in lines] for name in names}


def _whole(values: np.ndarray) -> list[list[int]]:
    return np.where(np.isnan(values), -1, np.round(values * PARTS)).astype(int).tolist()
