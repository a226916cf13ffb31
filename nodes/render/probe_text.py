"""What a probe measured and what follows from it, in words and as data. No ComfyUI here: it is tested without."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from ...moc.config import RoutingConfig
from ...moc.errors import MoCError
from ...moc.probe.advice import SCOPES, Advice, ErrorTable
from ...moc.probe.log import ProbeLog
from ...moc.shots.typed import shown
from ...moc.trace.reasons import Reason
from ...moc.trace.trace import Trace
from ..widgets.routing import read_tile, tell_numbers, tell_routing

FRAME = "frame"
LITTLE = 0.15  # of what falls on other shots: less than this is worth a warning


def read_tiles(text: str) -> tuple[tuple[int, int, int] | None, ...]:
    """ "1x2x2, frame" -> ((1, 2, 2), None)."""
    words = [word.strip() for word in re.split(r"[,;\n]+", text) if word.strip()]
    try:
        return tuple(None if word.lower() == FRAME else read_tile(word) for word in words)
    except MoCError:
        told = shown(text)
        raise MoCError(f"tiles is {told!r}: write sizes like 1x2x2, 1x4x4, frame, with commas between.") from None


def tell(log: ProbeLog, trace: Trace, table: ErrorTable, advice: Advice) -> str:
    """The whole report."""
    steps = tell_numbers("step", table.steps.tolist())
    lines = [
        f"MoC Probe looked at {steps} of {log.steps} (counted from 0), {len(table.blocks)} of {log.blocks} blocks, "
        f"{log.tokens} tokens. The video was sampled with full attention.",
        "",
        *_asked(log, table),
        "",
        *_advice(log, table, advice),
    ]
    return "\n".join([*lines, *_rest(trace)])


def tell_nothing(log: ProbeLog, trace: Trace) -> str:
    """For a run in which nothing could be probed."""
    if not log.steps:
        why = "nothing was sampled yet. Connect the sampler's LATENT to after_sample, so that this node runs after it"
    elif not log.chosen:
        why = f"none of the steps asked for is part of this run of {log.steps} steps: change steps"
    else:
        why = "no attention call in the probed steps could be routed"
    return "\n".join([f"MoC Probe: {why}. routing is what was asked, unchanged.", *_rest(trace)])


def _asked(log: ProbeLog, table: ErrorTable) -> list[str]:
    error = _root_mean(table.asked_error, table.weight[:, None])
    worst = np.unravel_index(table.asked_error.argmax(), table.asked_error.shape)
    sampled = _root_mean(table.asked_sampled, table.weight[:, None])
    lines = [
        f"As asked: {tell_routing(log.settings)}",
        f"- The output of a block is off by {_percent(error)} (at worst {_percent(table.asked_error[worst])}: step "
        f"{table.steps[worst[0]]}, block {table.blocks[worst[1]]}); {_percent(table.asked_density.mean())} of pairs "
        f"kept. On the sampled tokens, which the advice is based on, it is {_percent(sampled)}.",
        f"- It reads {_percent(table.head_mass.mean())} of what full attention reads"
        + _across(_mean(table.head_across, table.abroad[..., None]), table.abroad.mean()),
    ]
    if np.isfinite(table.head_across).any():
        low = np.nan_to_num(table.head_across, nan=2.0).mean(0)
        block, head = np.unravel_index(low.argmin(), low.shape)
        lines.append(
            f"- Least across shots: block {table.blocks[block]}, head {head}, with {_percent(low[block, head])}."
        )
    dense, routed = log.dense_seconds, log.routed_seconds
    ideal = dense * float(np.average(table.head_work.mean((1, 2)), weights=table.weight))
    lines.append(
        f"- One attention call: {_time(dense)} in full, {_time(routed)} routed ({_time(ideal)} if time followed work)."
    )
    if routed > dense:
        lines.append(
            "- Routing is slower than full attention here. It pays from about 15,000 tokens on, earlier on GPUs with "
            "Triton; larger chunks help."
        )
    return lines


def _advice(log: ProbeLog, table: ErrorTable, advice: Advice) -> list[str]:
    lines = [f"Advice for an error of at most {_percent(advice.target)} in every routed block:"]
    if not advice.routes:
        least = np.sqrt(np.average(table.error**2, 0, table.weight)).min()
        if advice.wanted and least <= advice.aim:
            why = f"reads {_percent(advice.wanted)} of what falls on other shots within that error"
            what = "lower across, or choose a larger error"
        else:
            why = "stays within that error"
            what = "choose a larger error, or offer smaller tiles or a pooled tail"
        return [
            *lines,
            f"- None of {len(log.options)} settings {why} in any block, so everything should run in full. The smallest "
            f"error was {_percent(least)}: {what}.",
        ]
    lines.append(f"- {tell_routing(advice.settings)}")
    routed = advice.choice >= 0
    worst = int(advice.error.argmax())
    lines.append(
        f"- That is {_percent(advice.work)} of the work of full attention ({_percent(advice.kept)} of pairs kept, the "
        f"routing itself included in the work), with an error of {_percent(advice.error[worst])} in the worst block "
        f"({table.blocks[worst]}). Aimed at {_percent(advice.aim)}, since only some tokens of some steps were seen."
    )
    if not routed.all():
        best = int(np.bincount(advice.choice[routed]).argmax())
        window = slice(advice.first, advice.stop)
        error = np.sqrt(np.average(table.error[window] ** 2, 0, table.weight[window]))[~routed, best]
        named = ", ".join(f"{b} ({_percent(e)})" for b, e in zip(table.blocks[~routed], error, strict=True))
        lines.append(f"- Kept in full, with the error they would have: block {named}.")
    if advice.first or advice.stop < len(table.steps):
        skipped = [*table.steps[: advice.first].tolist(), *table.steps[advice.stop :].tolist()]
        lines.append(
            f"- Kept in full: the parts of the run around {tell_numbers('step', skipped)}, for the same reason."
        )
    for block, routing in advice.settings.blocks:
        lines.append(f"- Block {block}: {routing.choice}.")
    abroad = float(table.abroad.mean())
    lines.append(f"- It reads {_percent(advice.mass)} of what full attention reads" + _across(advice.across, abroad))
    if advice.across < LITTLE and abroad > 0.01:
        lines.append(
            "- Most of what shots read of each other is lost at this error, so characters may look different from shot "
            "to shot: choose a smaller error if that happens."
        )
    if len(advice.rivals) > 1:
        told = "; ".join(
            f"{r.partition.sentence}, {r.budget.sentence} ({r.score.sentence}): {_percent(w)}" for r, w in advice.rivals
        )
        lines.append(f"- The least work within the error, one setting for all blocks, by size of chunk: {told}.")
    return lines


def _across(share: float, abroad: float) -> str:
    if not math.isfinite(share):
        return "."
    return f", and {_percent(share)} of what falls on other shots ({_percent(abroad)} of all)."


def _rest(trace: Trace) -> list[str]:
    """What could not be probed, without the steps that were not asked for."""
    missed = [(n, reason.value) for reason, n in trace.dense.most_common() if reason is not Reason.SCHEDULE]
    return [f"{n} call{'s' * (n > 1)} not looked at: {why}." for n, why in missed] + [
        f"Note: {note}." for note in trace.notes
    ]


def data(log: ProbeLog, trace: Trace, table: ErrorTable, advice: Advice, scope: str) -> dict[str, Any]:
    """Everything as data, for a JSON file. Shares are of 1, times in seconds."""
    return {
        "report": tell(log, trace, table, advice),
        "run": {
            "steps": log.steps,
            "probed_steps": table.steps.tolist(),
            "each_stands_for": table.weight.tolist(),
            "blocks": log.blocks,
            "tokens": log.tokens,
            "rows_per_call": log.rows_asked,
        },
        "asked": {
            "routing": _setting(log.options[0]),
            "blocks": {block: _setting(routing) for block, routing in log.settings.blocks},
            "calls": [
                {
                    "step": int(step),
                    "block": int(block),
                    "error": _number(table.asked_error[i, j]),
                    "density": _number(table.asked_density[i, j]),
                    "error_of_head": _numbers(table.head_error[i, j]),
                    "recall_of_head": _numbers(table.head_mass[i, j]),
                    "recall_across_shots_of_head": _numbers(table.head_across[i, j]),
                    "density_of_head": _numbers(table.head_kept[i, j]),
                    "estimated_seconds_of_head": _numbers(_head_seconds(log, table, i, j)),
                    "dense_seconds": sum(log.calls[step, block].dense_seconds),
                    "routed_seconds": sum(log.calls[step, block].routed_seconds),
                    "attention_on_other_shots": _number(table.abroad[i, j]),
                }
                for i, step in enumerate(table.steps.tolist())
                for j, block in enumerate(table.blocks.tolist())
            ],
        },
        "options": [
            {**_setting(option), "error": _numbers(_by_block(table, o)), "work": _number(table.work[:, :, o].mean())}
            for o, option in enumerate(log.options)
        ],
        "advice": {
            "error": advice.target,
            "aim": advice.aim,
            "scope": scope,
            "routes": advice.routes,
            "routing": _setting(advice.settings.routing),
            "start_percent": advice.settings.schedule.start_percent,
            "end_percent": advice.settings.schedule.end_percent,
            "dense_blocks": list(advice.settings.schedule.dense_blocks) if advice.routes else list(range(log.blocks)),
            "blocks": {block: _setting(routing) for block, routing in advice.settings.blocks},
            "expected_error_of_block": _numbers(advice.error),
            "work": advice.work,
            "density": advice.kept,
            "recall": _number(advice.mass),
            "recall_across_shots": _number(advice.across),
        },
    }


def _head_seconds(log: ProbeLog, table: ErrorTable, step: int, block: int) -> np.ndarray:
    """Full attention's time, shared out evenly among the heads, times the work of each."""
    call = log.calls[int(table.steps[step]), int(table.blocks[block])]
    return table.head_work[step, block] * sum(call.dense_seconds) / table.head_work.shape[-1]


def _by_block(table: ErrorTable, option: int) -> np.ndarray:
    return np.sqrt(np.average(table.error[:, :, option] ** 2, 0, table.weight))


def _setting(routing: RoutingConfig) -> dict[str, Any]:
    settings, usual = routing.settings, RoutingConfig().settings
    shown = {name: value for name, value in settings.items() if value != usual[name]}
    return {**{name: settings[name] for name in ("top_k", "descriptor", "tail", "own")}, **shown}


def _root_mean(values: np.ndarray, weight: np.ndarray) -> float:
    return float(np.sqrt(np.average(values**2, weights=np.broadcast_to(weight, values.shape))))


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    weight = np.broadcast_to(weight, values.shape)
    return float(np.nansum(values * weight) / weight.sum()) if weight.sum() > 0 else math.nan


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(v) for v in values]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}" if share >= 0.00095 else f"{share:.2%}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


__all__ = ["SCOPES", "data", "read_tiles", "tell", "tell_nothing"]
