"""Draws a probe: where the asked routing errs, what it reads of other shots, and what each size of chunk could do."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ...moc.config import RoutingConfig
from ...moc.probe.advice import Advice, ErrorTable
from ...moc.probe.log import ProbeLog
from .heatmap import FAINT, INK, PAPER, SEEN, WIDTH, colours, font, scale_top

# Told apart without full colour vision, and by their marks as well.
LINES = ((0, 90, 160), (200, 80, 0), (0, 130, 100), (150, 60, 140), (110, 110, 110))
MAP_W, MAP_H, TOP = 330, 300, 150
CURVE_TOP, CURVE_H, CURVE_LEFT, CURVE_W = 590, 360, 110, 590


def draw_probe(log: ProbeLog, table: ErrorTable, advice: Advice) -> Image.Image:
    image = Image.new("RGB", (WIDTH, CURVE_TOP + CURVE_H + 90), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((30, 22), "MoC Probe: what the routing as asked would do", INK, font(36))
    steps = [str(step) for step in table.steps]
    _map(image, pen, 90, "Error of the output", "step", steps, table.blocks, table.asked_error.T)
    heads = [str(head) for head in range(table.head_mass.shape[-1])]
    if np.isfinite(table.head_across).any():
        title, recall = "Read of the other shots", _mean_over_steps(table.head_across)
    else:
        title, recall = "Read of all attention", _mean_over_steps(table.head_mass)
    _map(image, pen, 580, title, "head", heads, table.blocks, recall, top=1.0)
    _curves(pen, log, table, advice)
    return image


def _mean_over_steps(values: np.ndarray) -> np.ndarray:
    """[S, B, H] -> [B, H]; NaN where there is none in any step."""
    known = np.isfinite(values)
    return np.where(known.any(0), np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def _map(image, pen, left: int, title: str, across: str, columns, rows, values: np.ndarray, top=None) -> None:
    """values [rows, columns] as coloured cells, with a scale beside them."""
    top = scale_top(values) if top is None else top
    y, x = (np.arange(size) * count // size for size, count in ((MAP_H, values.shape[0]), (MAP_W, values.shape[1])))
    cells = values[np.ix_(y, x)]
    pixels = colours(np.clip(np.nan_to_num(cells), 0, top) / top)
    pixels[np.isnan(cells)] = SEEN
    image.paste(Image.fromarray(pixels), (left, TOP))
    pen.text((left, TOP - 66), title, INK, font(28))
    pen.text((left + MAP_W, TOP - 8), across, FAINT, font(22), anchor="rs")
    pen.text((left - 8, TOP - 8), "block", FAINT, font(22), anchor="rs")
    wide, high = MAP_W / len(columns), MAP_H / len(rows)
    _ticks(pen, columns, [(left + (i + 0.5) * wide, TOP + MAP_H + 6) for i in range(len(columns))], "ma")
    _ticks(pen, rows, [(left - 8, TOP + (i + 0.5) * high) for i in range(len(rows))], "rm")
    if values.size <= 24:
        for (row, column), value in np.ndenumerate(values):
            place = left + (column + 0.5) * wide, TOP + (row + 0.5) * high
            if np.isfinite(value):
                ink = INK if value > 0.55 * top else PAPER
                pen.text(place, f"{value:.0%}" if value >= 0.1 else f"{value:.1%}", ink, font(22), anchor="mm")
    bar = left + MAP_W + 12
    image.paste(Image.fromarray(np.repeat(colours(np.linspace(1, 0, MAP_H))[:, None], 16, 1)), (bar, TOP))
    for part in (0, 1):
        pen.text((bar, TOP + (1 - part) * MAP_H + (6 if not part else -6)), f"{part * top:.0%}", FAINT, font(22),
                 anchor="la" if not part else "ls")  # fmt: skip


def _ticks(pen, labels, places, anchor: str) -> None:
    every = -(-len(labels) // 10)
    for i in range(0, len(labels), every):
        pen.text(places[i], str(labels[i]), FAINT, font(22), anchor=anchor)


def _curves(pen, log: ProbeLog, table: ErrorTable, advice: Advice) -> None:
    """Error against work, both on logarithmic scales, a line for every size of chunk with its better descriptor."""
    weight = np.broadcast_to(table.weight[:, None], table.error.shape[:2])
    error = np.sqrt(
        np.average(table.error**2, axis=(0, 1), weights=np.repeat(weight[..., None], table.error.shape[2], 2))
    )
    work = table.work.mean((0, 1))
    error = np.maximum(error, 1e-4)
    x = _scale(work.min(), max(1.0, work.max()), CURVE_LEFT, CURVE_LEFT + CURVE_W)
    y = _scale(min(error.min(), advice.target), max(error.max(), advice.target), CURVE_TOP + CURVE_H, CURVE_TOP)
    pen.text((30, CURVE_TOP - 62), "Error against work, by size of chunk", INK, font(28))
    pen.rectangle((CURVE_LEFT, CURVE_TOP, CURVE_LEFT + CURVE_W, CURVE_TOP + CURVE_H), outline=FAINT)
    for value in _decades(work.min(), 1.0):
        pen.line((x(value), CURVE_TOP + CURVE_H, x(value), CURVE_TOP + CURVE_H + 8), FAINT, 2)
        pen.text((x(value), CURVE_TOP + CURVE_H + 10), f"{value:.3g}", FAINT, font(22), anchor="ma")
    for value in _decades(min(error.min(), advice.target), max(error.max(), advice.target)):
        pen.line((CURVE_LEFT - 8, y(value), CURVE_LEFT, y(value)), FAINT, 2)
        pen.text((CURVE_LEFT - 12, y(value)), f"{value:.2%}" if value < 0.01 else f"{value:.0%}", FAINT, font(22), "rm")
    below = CURVE_TOP + CURVE_H + 40
    pen.text((CURVE_LEFT + CURVE_W, below), "work, 1 is full attention", FAINT, font(22), anchor="ra")
    level = y(advice.target)
    pen.line((CURVE_LEFT, level, CURVE_LEFT + CURVE_W, level), INK, 2)
    pen.text((CURVE_LEFT + CURVE_W + 10, level), "chosen error", INK, font(22), anchor="lm")

    shapes = dict.fromkeys(r.partition for r in log.options)
    place = CURVE_TOP + 4
    for number, shape in enumerate(shapes):
        members = [i for i, r in enumerate(log.options) if r.partition == shape]
        points = _front(members, work, error)
        colour = LINES[number % len(LINES)]
        pixels = [(x(work[i]), y(error[i])) for i in points]
        if len(pixels) > 1:
            pen.line(pixels, colour, 3)
        for px, py in pixels:
            _mark(pen, px, py, number, colour)
        if abs(place + 14 - level) < 24:
            place = level + 22
        _mark(pen, CURVE_LEFT + CURVE_W + 24, place + 14, number, colour)
        pen.text((CURVE_LEFT + CURVE_W + 42, place), _short(log.options[members[0]]), INK, font(22))
        place += 34
    if advice.routes:
        best = int(np.bincount(advice.choice[advice.choice >= 0]).argmax())
        px, py = x(work[best]), y(error[best])
        pen.ellipse((px - 13, py - 13, px + 13, py + 13), outline=INK, width=3)
        pen.text((30, below), "ringed: the advice", INK, font(22))


def _short(routing: RoutingConfig) -> str:
    return routing.partition.sentence.removesuffix(" tokens")


def _front(members: list[int], work: np.ndarray, error: np.ndarray) -> list[int]:
    """Of settings that cost more and err more than another, none."""
    front: list[int] = []
    for i in sorted(members, key=lambda i: (work[i], error[i])):
        if not front or error[i] < error[front[-1]]:
            front.append(i)
    return front


def _mark(pen, x: float, y: float, number: int, colour) -> None:
    if number % 3 == 0:
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour)
    elif number % 3 == 1:
        pen.rectangle((x - 6, y - 6, x + 6, y + 6), fill=colour)
    else:
        pen.polygon([(x, y - 8), (x - 7, y + 6), (x + 7, y + 6)], fill=colour)


def _scale(low: float, high: float, start: int, stop: int):
    """Value -> pixel, logarithmic, with a little room at both ends."""
    low, high = np.log(low * 0.9), np.log(high * 1.1)
    return lambda value: float(start + (np.log(value) - low) / (high - low) * (stop - start))


def _decades(low: float, high: float) -> list[float]:
    values = [m * 10.0**e for e in range(-4, 1) for m in (1, 2, 5)]
    return [v for v in values if low * 0.95 <= v <= high * 1.05]
