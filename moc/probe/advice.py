"""From what a probe saw to settings: the least work that keeps every routed block within a chosen error.

S probed steps, B blocks, O settings (`ProbeLog.options`), H heads. All of it is arithmetic on the probe's numbers:
the same numbers always give the same advice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ..config import DESCRIPTORS, MoCSettings, RoutingConfig, Schedule
from ..errors import MoCError
from . import head_mixes
from .log import ProbeLog

SCOPES = ("one setting for all blocks", "a setting for every block", "a setting for every block and head")
# Aim lower than asked: errors are measured on some tokens of some steps of one film. Where every block takes its own
# cheapest setting all of them end close to the limit, and the worst of many misses counts (docs/routing.md).
MARGINS = dict(zip(SCOPES, (0.8, 0.7, 0.7), strict=True))


def choosing(routing: RoutingConfig) -> float:
    """Work that choosing costs, as a share of full attention's, for one chunk per token.

    The paper (section 3.3) counts 2NCD for choosing and 4NmD for reading, against 4N^2 D. Other descriptors take more
    products, and a pooled tail reads one more key and value per chunk.
    """
    return DESCRIPTORS[routing.score.descriptor].products / 2 + (routing.tail == "pooled")


@dataclass(frozen=True, eq=False)
class ErrorTable:
    """The probe's sums as shares. steps [S], weight [S]: how many steps of the run each stands for; blocks [B].

    error [S, B, O]: relative error of a block's output; work [S, B, O]; kept, mass, across [S, B, O]: shares of keys,
    of attention, and of the attention on other shots (NaN where there is none); abroad [S, B]: share on other shots.
    asked_error, asked_density, head_error [.., H]: of the asked routing, over all video tokens; the
    other head_..: on the sampled ones, and so is asked_sampled, to compare with asked_error.
    mixes: for every column of error, work, ... after those of the options, the routing of every block.
    """

    steps: np.ndarray
    weight: np.ndarray
    blocks: np.ndarray
    error: np.ndarray
    work: np.ndarray
    kept: np.ndarray
    mass: np.ndarray
    across: np.ndarray
    abroad: np.ndarray
    asked_error: np.ndarray
    asked_density: np.ndarray
    asked_sampled: np.ndarray
    head_error: np.ndarray  # [S, B, H]
    head_mass: np.ndarray
    head_across: np.ndarray
    head_kept: np.ndarray
    head_work: np.ndarray
    mixes: tuple[list[RoutingConfig], ...] = ()


def tabulate(log: ProbeLog, heads: bool = False) -> ErrorTable:
    """Raises MoCError where the probe saw nothing. heads: with mixes that give every head its own density."""
    if not log.calls:
        raise MoCError("no attention call in the probed steps could be routed: the notes of MoC Probe say why.")
    steps, blocks = (np.array(sorted({key[i] for key in log.calls})) for i in (0, 1))
    blocks = np.array([b for b in blocks if all((s, b) in log.calls for s in steps)])
    if not len(blocks):
        raise MoCError("no block was probed in all of the probed steps: probe again with other steps.")
    calls = [[log.calls[s, b] for b in blocks] for s in steps]

    def each(value) -> np.ndarray:  # [S, B, ...]
        return np.stack([np.stack([np.asarray(value(call), float) for call in row]) for row in calls])

    rows = each(lambda c: c.look.rows)[..., None, None]
    error = each(lambda c: c.look.error / c.look.size.sum())  # [S, B, O, H]: parts of the block's relative error
    kept = each(lambda c: c.look.kept / log.tokens) / rows
    mass, across = (each(lambda c, n=name: getattr(c.look, n)) / rows for name in ("mass", "across"))
    abroad = each(lambda c: c.look.abroad) / rows[..., 0]
    extra = np.array([choosing(option) for option in log.options]) * log.chunk_share
    weight, mixes = _stands_for(steps, log.steps), []
    for members in head_mixes.families(log.options) if heads else ():
        picks = head_mixes.mix(error[:, :, : len(log.options)], kept, weight, members)
        error, kept, mass, across = (
            np.concatenate([x, head_mixes.take(x, picks)], 2) for x in (error, kept, mass, across)
        )
        extra = np.concatenate([extra, extra[members[:1]].repeat(len(picks))])
        mixes += [head_mixes.mixed(pick, log.options, log.density) for pick in picks]
    asked, asked_size = each(lambda c: c.error), each(lambda c: c.size)
    head_kept = each(lambda c: c.asked.kept[0] / log.tokens / c.asked.rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ErrorTable(
            steps=steps,
            weight=weight,
            blocks=blocks,
            error=np.sqrt(error.sum(-1)),
            work=kept.mean(-1) + extra,
            kept=kept.mean(-1),
            mass=mass.mean(-1),
            across=across.sum(-1) / abroad.sum(-1)[..., None],
            abroad=abroad.mean(-1),
            asked_error=np.sqrt(asked.sum(-1) / asked_size.sum(-1)),
            asked_density=each(lambda c: np.mean(c.density)),
            asked_sampled=each(lambda c: (c.asked.error.sum() / c.asked.size.sum()).sqrt()),
            head_error=np.sqrt(asked / asked_size),
            head_mass=each(lambda c: c.asked.mass[0] / c.asked.rows),
            head_across=each(lambda c: c.asked.across[0] / c.asked.rows) / abroad,
            head_kept=head_kept,
            head_work=head_kept + each(lambda c: choosing(c.routing) * c.chunk_share)[..., None],
            mixes=tuple(mixes),
        )


def _stands_for(steps: np.ndarray, total: int) -> np.ndarray:
    edges = _edges(steps, total)
    return np.diff(edges).astype(float)


def _edges(steps: np.ndarray, total: int) -> np.ndarray:
    """First step of the stretch that each probed step stands for, and the end of the run [S + 1]."""
    return np.array([0, *((a + b + 1) // 2 for a, b in zip(steps[:-1], steps[1:], strict=True)), total])


@dataclass(frozen=True, eq=False)
class Advice:
    """settings   what to use
    target, aim   the chosen error, and what was aimed at
    wanted        share of the attention on other shots that was asked for
    first, stop   probed steps [first, stop) that are routed
    choice        for every probed block a column of the table, -1 where it stays dense
    table         what it was chosen from
    error         [B] of the probed blocks over the routed steps; 0 where dense
    work, kept    of the whole run, as shares of full attention's
    mass, across  of what is routed: share of full attention that is read, in all and of what falls on other shots
    rivals        the least work within the error of every chunking on its own: (its best setting, work), least first
    """

    settings: MoCSettings
    target: float
    aim: float
    wanted: float
    first: int
    stop: int
    choice: np.ndarray
    error: np.ndarray
    work: float
    kept: float
    mass: float
    across: float
    rivals: tuple[tuple[RoutingConfig, float], ...]
    table: ErrorTable

    @property
    def routes(self) -> bool:
        return bool((self.choice >= 0).any())


def advise(log: ProbeLog, target: float, scope: str = SCOPES[0], across: float = 0.0) -> Advice:
    """The least work at which the output of every routed block is off by at most `target` (relative, over the steps).

    across  at least this share of what full attention reads in other shots is to be read in every routed block
    Blocks for which a setting is too coarse stay dense, and so may steps at either end: whatever costs least. Equal
    costs: fewer dense blocks, then more routed steps, then the earlier option.
    """
    if not 0.0 < target < 1.0:
        raise MoCError(f"the error is {target}; it is a share of the output: use more than 0 and less than 1.")
    if scope not in SCOPES:
        raise MoCError(f"scope is {scope!r}; choose one of: {', '.join(SCOPES)}.")
    if not 0.0 <= across <= 1.0:
        raise MoCError(f"across is {across}; it is a share: use 0 to 1.")
    table, aim = tabulate(log, heads=scope == SCOPES[2]), target * MARGINS[scope]
    _, (first, stop, choice) = min(
        (_plans(table, aim, scope, across)), key=lambda plan: plan[0], default=((1.0,), (0, 0, None))
    )
    if choice is None:
        choice = np.full(len(table.blocks), -1)
    error = _error(table, first, stop)
    place = np.arange(len(table.blocks))
    return Advice(
        settings=_settings(log, table, first, stop, choice),
        target=target,
        aim=aim,
        wanted=across,
        first=first,
        stop=stop,
        choice=choice,
        error=np.where(choice >= 0, error[place, choice], 0.0),
        work=_share(table, table.work, first, stop, choice),
        kept=_share(table, table.kept, first, stop, choice),
        mass=_recall(table, table.mass, np.ones_like(table.abroad), first, stop, choice),
        across=_recall(table, np.nan_to_num(table.across), table.abroad, first, stop, choice),
        rivals=_rivals(table, log, target * MARGINS[SCOPES[0]], across),
        table=table,
    )


def _plans(table: ErrorTable, aim: float, scope: str, across: float, only: np.ndarray | None = None):
    """Every plan worth a comparison: (what to minimise, (first step, end, choice of every block))."""
    steps, options = len(table.steps), np.arange(table.error.shape[2]) if only is None else only
    for first in range(steps):
        for stop in range(first + 1, steps + 1):
            read = np.average(np.nan_to_num(table.across[first:stop], nan=1.0), 0, table.weight[first:stop])
            within = (_error(table, first, stop) <= aim) & (read >= across)  # [B, O]
            if scope != SCOPES[0]:
                cost = np.einsum("s,sbo->bo", table.weight[first:stop], table.work[first:stop])
                cost = np.where(within, cost, np.inf)[:, options]
                choices = [np.where(np.isfinite(cost).any(1), options[cost.argmin(1)], -1)]
            else:
                choices = [np.where(within[:, option], option, -1) for option in options]
            for choice in choices:
                if (choice >= 0).any():
                    share = round(_share(table, table.work, first, stop, choice), 9)
                    dense = int((choice < 0).sum())
                    yield (share, dense, first - stop, first, int(choice.max())), (first, stop, choice)


def _error(table: ErrorTable, first: int, stop: int) -> np.ndarray:
    """[B, O]: root mean square over the steps."""
    if first == stop:
        return np.zeros(table.error.shape[1:])
    return np.sqrt(np.average(table.error[first:stop] ** 2, 0, table.weight[first:stop]))


def _share(table: ErrorTable, values: np.ndarray, first: int, stop: int, choice: np.ndarray) -> float:
    """Mean over the run of values [S, B, O], 1 where it runs dense."""
    chosen = np.take_along_axis(values, np.maximum(choice, 0)[None, :, None], 2)[..., 0]
    steps = np.arange(len(table.steps))[:, None]
    chosen = np.where((choice < 0) | (steps < first) | (steps >= stop), 1.0, chosen)
    return float(np.average(chosen.mean(1), weights=table.weight))


def _recall(
    table: ErrorTable, values: np.ndarray, mass: np.ndarray, first: int, stop: int, choice: np.ndarray
) -> float:
    """Mean of values [S, B, O] over the routed calls, each counting by its mass [S, B]; NaN without any."""
    chosen = np.take_along_axis(values, np.maximum(choice, 0)[None, :, None], 2)[..., 0]
    weight = (mass * table.weight[:, None])[first:stop, choice >= 0]
    return float((chosen[first:stop, choice >= 0] * weight).sum() / weight.sum()) if weight.sum() > 0 else float("nan")


def _rivals(table: ErrorTable, log: ProbeLog, aim: float, across: float) -> tuple[tuple[RoutingConfig, float], ...]:
    found = []
    shapes = [r.partition for r in log.options]
    for shape in dict.fromkeys(shapes):
        only = np.array([i for i, other in enumerate(shapes) if other == shape])
        plans = list(_plans(table, aim, SCOPES[0], across, only))
        if plans:
            best, (_, _, choice) = min(plans, key=lambda plan: plan[0])
            found.append((log.options[int(choice.max())], best[0]))
    return tuple(sorted(found, key=lambda rival: rival[1]))


def _settings(log: ProbeLog, table: ErrorTable, first: int, stop: int, choice: np.ndarray) -> MoCSettings:
    old = log.settings.schedule
    dense = tuple(int(b) for b, option in zip(table.blocks, choice, strict=True) if option < 0)
    if len(dense) == len(table.blocks):
        return replace(log.settings, schedule=replace(old, dense_first=max(log.blocks, 1)), blocks=())
    edges = _edges(table.steps, log.steps)
    schedule = Schedule(
        log.percent[edges[first]], log.percent[edges[stop]], 0, 0, old.min_tokens, dense, old.break_even
    )
    count = len(log.options)
    own = [
        (int(block), log.options[o] if o < count else table.mixes[o - count][place])
        for place, (block, o) in enumerate(zip(table.blocks, choice, strict=True))
        if o >= 0
    ]
    common = Counter(routing for _, routing in own).most_common(1)[0][0]
    return MoCSettings(common, schedule, tuple((block, routing) for block, routing in own if routing != common))
