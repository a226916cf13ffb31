"""What a person chose in the widgets -> MoCSettings. No ComfyUI here, so that it is tested without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ...moc.config import AUTO, PRESETS, RULES, MoCSettings, RoutingConfig, Schedule
from ...moc.errors import MoCError
from ...moc.methods import METHODS
from ...moc.shots.typed import DIGITS, shown
from ...moc.trace.heatmap import ranges

PRESET = "preset"
BUDGETS = (PRESET, "top-k", "density")
CHUNKING = (PRESET, "frame", "tokens", "tile")
OUTER_LOOP = (PRESET, "all shots", "best shots")
SCHEDULE = (PRESET, "custom")
MOST_NUMBERED = 999
SIZE = f"[{DIGITS}]{{1,6}}"


def read_tile(text: str) -> tuple[int, int, int]:
    """ "1x4x4" -> (1, 4, 4)."""
    sizes = re.split(r"[x×*,\s]+", text.strip().lower())
    if len(sizes) != 3 or not all(re.fullmatch(SIZE, size) and int(size) > 0 for size in sizes):
        raise MoCError(f"tile is {shown(text)!r}: write three sizes of 1 or more, frames x rows x columns, like 1x4x4.")
    frames, rows, columns = map(int, sizes)
    return frames, rows, columns


def read_any_tile(text: str) -> tuple[int, int, int] | Literal["auto"]:
    """As `read_tile`, or "auto"."""
    return AUTO if text.strip().lower() == AUTO else read_tile(text)


def read_blocks(text: str) -> tuple[int, ...]:
    """ "0, 3-5" -> (0, 3, 4, 5)."""
    return read_numbers(text, 0, "blocks of the model")


def read_numbers(text: str, first: int, what: str) -> tuple[int, ...]:
    """ "1, 4-6" -> (1, 4, 5, 6), none below `first`. what: they number, for the error."""
    numbers: set[int] = set()
    for part in filter(None, re.split(r"[,;\s]+", text.strip())):
        ends = re.fullmatch(f"({SIZE})(?:-({SIZE}))?", part)
        low, high = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
        if not first <= low <= high <= MOST_NUMBERED:
            example = f"numbers from {first} on, like {first}, {first + 3}-{first + 5}"
            raise MoCError(f"{shown(part)!r} names no {what}: write {example}.")
        numbers |= set(range(low, high + 1))
    return tuple(sorted(numbers))


def read_block_tiles(text: str) -> dict[int, tuple[int, int, int] | None]:
    """ "0-1: 1x2x2; 7: frame" -> {0: (1, 2, 2), 1: (1, 2, 2), 7: None}."""
    tiles: dict[int, tuple[int, int, int] | None] = {}
    for part in filter(None, (part.strip() for part in re.split(r"[;\n]+", text))):
        blocks, colon, size = part.partition(":")
        if not colon or not blocks.strip() or not size.strip():
            told = shown(part)
            raise MoCError(f"block_tiles has {told!r}: write blocks, a colon and a size, like 0-1: 1x2x2; 7: frame.")
        tile = None if size.strip().lower() == "frame" else read_tile(size.strip())
        tiles |= dict.fromkeys(read_blocks(blocks), tile)
    return tiles


def read_densities(text: str) -> tuple[float, ...]:
    """ "0.1, 0.3" -> (0.1, 0.3)."""
    try:
        return tuple(float(word) for word in re.split(r"[,;\s]+", text.strip()) if word)
    except ValueError:
        told = shown(text)
        raise MoCError(f"head_density is {told!r}: write one share for every head, like 0.1, 0.3, 0.1.") from None


def read_routing(
    *,
    preset: str,
    budget: str = PRESET,
    top_k: int = 20,
    density: float = 0.2,
    chunking: str = PRESET,
    chunk_tokens: int = 1280,
    tile: str = "1x4x4",
    own: str = PRESET,
    window: int = 0,
    causal: str = PRESET,
    descriptor: str = PRESET,
    tail: str = PRESET,
    memory: str = PRESET,
    memory_tokens: int = 64,
    references: str = PRESET,
    outer_loop: str = PRESET,
    shots_kept: int = 2,
    schedule: str = PRESET,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    dense_first: int = 0,
    dense_last: int = 0,
    min_tokens: int = 0,
    drop_off: float = 0.0,
    drop_in: float = 0.0,
    drop_seed: int = 0,
    rule: str = PRESET,
    top_p: float = 0.9,
    beta: float = 1.0,
    head_density: str = "",
    lists: str = PRESET,
    dense_blocks: str = "",
    block_tiles: str = "",
    break_even: str = "estimated",
    curve: str = "constant",
    dense_above: float = 1.0,
    method: str = PRESET,
    precision: str = "auto",
    choosing: str = PRESET,
) -> MoCSettings:
    """The preset, or the method in its place, with everything replaced that is not left at "preset" or empty."""
    for name, value, known in (("preset", preset, PRESETS), ("method", method, (PRESET, *METHODS))):
        if value not in known:
            raise MoCError(f"{name} is {value!r}; choose one of: {', '.join(known)}.")
    base = PRESETS[preset] if method == PRESET else METHODS[method].settings
    changes: dict[str, object] = {"drop_off": drop_off, "drop_in": drop_in, "seed": drop_seed, "precision": precision}
    if budget != PRESET:
        changes |= {"top_k": top_k, "density": None} if budget == "top-k" else {"density": density}
    if chunking != PRESET:
        changes |= {
            "chunk_tokens": chunk_tokens if chunking == "tokens" else None,
            "tile": read_any_tile(tile) if chunking == "tile" else None,
            "order": "tiles",
        }
    links = base.routing.links
    own = links.own if own == PRESET else own
    changes |= {"own": own, "window": (window or links.window) if own == "frame" else 0}
    if causal != PRESET:
        changes["causal"] = causal == "on"
    if memory != PRESET:
        changes |= {"static": memory, "static_tokens": memory_tokens}
    if outer_loop != PRESET:
        changes["shots_kept"] = shots_kept if outer_loop == "best shots" else None
    same_name = {"descriptor": descriptor, "tail": tail, "references": references, "lists": lists}
    changes |= {name: value for name, value in same_name.items() if value != PRESET}
    if rule != PRESET:
        changes |= {"rule": rule, "top_p": top_p, "beta": beta}
    if head_density.strip():
        changes["head_density"] = read_densities(head_density)
    settings = base.with_routing(**changes)
    if schedule != PRESET:
        settings = replace(settings, schedule=Schedule(start_percent, end_percent, dense_first, dense_last, min_tokens))
    choosing = base.schedule.choosing if choosing == PRESET else choosing
    own_tiles = read_block_tiles(block_tiles)
    blocks = tuple(
        (b, settings.routing.changed(tile=t, chunk_tokens=None, order="tiles")) for b, t in own_tiles.items()
    )
    return replace(settings, blocks=blocks).with_schedule(
        dense_blocks=read_blocks(dense_blocks),
        break_even=break_even,
        curve=curve,
        dense_above=dense_above,
        choosing=choosing,
    )


def check_routing(
    top_k: int | None,
    density: float | None,
    tile: str | None,
    start_percent: float | None,
    end_percent: float | None,
    head_density: str | None = None,
    dense_blocks: str | None = None,
    block_tiles: str | None = None,
) -> None:
    """Raise what can be said of the values before anything runs; None is a value that another node will give."""
    if tile is not None:
        read_any_tile(tile)
    read_blocks(dense_blocks or "")
    read_block_tiles(block_tiles or "")
    RoutingConfig.of(top_k=top_k or 0, density=density, head_density=read_densities(head_density or ""))
    Schedule(start_percent or 0.0, 1.0 if end_percent is None else end_percent)


def tell_routing(settings: MoCSettings) -> str:
    """The settings in one sentence."""
    s, parts = settings.schedule, [f"Every token sees {settings.routing.sentence}"]
    if (s.start_percent, s.end_percent) != (0.0, 1.0):
        parts.append(f"from {s.start_percent:.0%} to {s.end_percent:.0%} of the sampling")
    if s.dense_above < 1.0:
        parts.append(f"dense above a noise of {s.dense_above:g}")
    if s.curve != "constant":
        rule = settings.routing.budget.rule
        follows = "top_k" in RULES[rule].parameters
        parts.append(f"the budget {s.curve} with the noise" if follows else f"{rule} the same at every noise")
    if s.dense_first or s.dense_last:
        parts.append(f"first {s.dense_first} and last {s.dense_last} blocks dense")
    if s.dense_blocks:
        parts.append(f"dense in {tell_numbers('block', s.dense_blocks)}")
    if settings.turns:
        parts.append(f"blocks in turn with {' and '.join(r.partition.sentence for r in settings.turns)} as well")
    if s.break_even == "measured":
        parts.append("where that is measured to be faster")
    if s.choosing != "every step":
        parts.append(f"chosen {'in ' * (s.choosing != 'twice')}{s.choosing}")
    if settings.blocks:
        parts.append(f"with settings of their own in {tell_numbers('block', [b for b, _ in settings.blocks])}")
    return ", ".join(parts) + "."


def tell_numbers(what: str, numbers: Sequence[int]) -> str:
    """ "block 3", "blocks 0-2, 7"."""
    return f"{what}{'s' if len(numbers) > 1 else ''} {ranges(sorted(numbers))}"
