"""Draws who reads whom between shots, as arcs: earlier shots are read above the line, later ones below it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ...moc.trace.heatmap import Heatmap, bank_links, links
from .heatmap import FAINT, INK, PAPER, WIDTH, caption, colours, font, percent, scale_top, shortened

FINE = 3  # drawn so many times larger, for smooth arcs
PANEL, LIGHT, BLOCK, MEMORY = (20, 22, 28), (238, 240, 244), (70, 76, 88), (96, 62, 88)
LEFT, TOP, PANEL_W, HALF = 30, 92, 940, 270
BAR = 44  # height of the line of shots
MOST_NUMBERS = 15
DASHES = tuple((angle, angle + 6) for angle in range(0, 180, 10))  # of an arc of the bank, in degrees
Link = tuple[int, int, float, bool]


@dataclass(frozen=True)
class Arc:
    """From the reading shot's place to the read one's, both in pixels; span is how many shots apart they are.

    of_bank: share is part of the attention, through the bank; else of the pairs that were open to choice
    """

    reader: int
    read: int
    share: float
    begin: float
    end: float
    of_bank: bool = False

    @property
    def span(self) -> int:
        return abs(self.reader - self.read)


def film(heat: Heatmap | None, bank: Heatmap | None) -> tuple[list[str], list[Link]]:
    """(names of memories in their order, then "" for every shot; what reads what, by places in this list).

    heat: by shots; bank: by shots and memories. Either may be missing.
    """
    lines = [*(heat.rows if heat else ()), *((*bank.rows, *bank.columns) if bank else ())]
    shots = sorted({line.shot for line in lines if line.kind == "video"})
    names = list(dict.fromkeys(line.name for line in lines if line.name))
    keys: list[int | str] = [*names, *shots]
    place = {key: i for i, key in enumerate(keys)}
    found = [(place[a], place[b], share, False) for a, b, share in links(heat)] if heat else []
    found += [(place[a], place[b], share, True) for a, b, share in bank_links(bank) if a != b] if bank else []
    return [*names, *("" for _ in shots)], found


def arcs(found: list[Link], centres: list[float], room: float) -> list[Arc]:
    """found: (reader, read, share, whether it is of the bank), places counted from 0. Arcs that meet at a place stand
    side by side, outer ones outside, so that they do not cross; weakest first, so that the strongest lies on top."""
    places: dict[tuple[int, int, bool, bool], float] = {}
    for shot, centre in enumerate(centres):
        for above in (True, False):
            there = {(a + b - shot, bank) for a, b, _, bank in found if shot in (a, b) and (a > b) == above}
            ordered = sorted(there, key=lambda one: (one[0] > shot, -one[0], one[1] != (one[0] < shot)))
            for i, (other, bank) in enumerate(ordered):
                places[shot, other, above, bank] = centre + room * ((i + 0.5) / len(ordered) - 0.5)
    return [
        Arc(a, b, share, places[a, b, a > b, bank], places[b, a, a > b, bank], bank)
        for a, b, share, bank in sorted(found, key=lambda link: link[2])
    ]


def draw_flow(heat: Heatmap | None, text: str, bank: Heatmap | None = None) -> Image.Image:
    """heat, bank: see `film`; one of them is there."""
    names, found = film(heat, bank)
    shown = heat or bank
    assert shown is not None
    lines = caption(shown, text)
    height = 2 * HALF + BAR
    image = Image.new("RGB", (WIDTH, TOP + height + 74 + 38 * len(lines)), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((30, 22), "Who reads whom, shot by shot", INK, font(40))
    top = scale_top(np.array([share for _, _, share, _ in found]))
    image.paste(_panel(found, names, top), (LEFT, TOP))
    words, size = "The wider and brighter an arc, the larger the part of a shot", 26
    if bank is not None:
        words, size = "Wider and brighter: a larger part. Dashed: of its attention, in the bank", 22
    pen.text((LEFT, TOP + height + 12), words, FAINT, font(size))
    _bar(image, pen, top, LEFT + PANEL_W - 190, TOP + height + 16)
    for i, line in enumerate(lines):
        pen.text((30, TOP + height + 66 + 38 * i), line, INK, font(28))
    return image


def _panel(found: list[Link], names: list[str], top: float) -> Image.Image:
    count = len(names)
    step = PANEL_W / count
    centres, room = [step * (i + 0.5) for i in range(count)], min(step * 0.72, 90)
    image = Image.new("RGB", (PANEL_W * FINE, (2 * HALF + BAR) * FINE), PANEL)
    pen, drawn = ImageDraw.Draw(image), arcs(found, centres, room)
    tallest = HALF - 34
    middles = {}
    for arc in drawn:
        width = max(2.0, 22 * arc.share / top)
        rise = tallest * arc.span / max(count - 1, 1)
        left, right = sorted((arc.begin, arc.end))
        above = arc.reader > arc.read
        y = HALF if above else HALF + BAR
        box = (left - width / 2, y - rise - width / 2, right + width / 2, y + rise + width / 2)
        colour = tuple(colours(np.array(0.12 + 0.88 * arc.share / top)).tolist())
        first = 180 if above else 0
        for begin, end in DASHES if arc.of_bank else ((0, 180),):
            pen.arc([v * FINE for v in box], first + begin, first + end, fill=colour, width=round(width * FINE))
        middles[arc.reader, arc.read] = (left + right) / 2, y - rise if above else y + rise
    small, large = font(22 * FINE), font(min(26, step * 0.5) * FINE)
    for arc in drawn[-MOST_NUMBERS:]:
        across, down = (v * FINE for v in middles[arc.reader, arc.read])
        pen.text((across, down), percent(arc.share), LIGHT, small, "mm", stroke_width=4 * FINE, stroke_fill=PANEL)
    memories = sum(map(bool, names))
    for i, centre in enumerate(centres):
        box = (centre - step * 0.44, HALF + 4, centre + step * 0.44, HALF + BAR - 4)
        pen.rounded_rectangle([v * FINE for v in box], 6 * FINE, BLOCK if i >= memories else MEMORY)
        shot = i + 1 - memories
        words = shortened(names[i], (step * 0.86) * FINE, large) or (f"shot {shot}" if step >= 110 else str(shot))
        pen.text((centre * FINE, (HALF + BAR / 2) * FINE), words, LIGHT, large, "mm")
    for y, words, anchor in ((14, "reads an earlier shot", "la"), (2 * HALF + BAR - 14, "reads a later shot", "ld")):
        pen.text((16 * FINE, y * FINE), words, (170, 176, 188), small, anchor)
    if not found:
        pen.text((PANEL_W * FINE / 2, HALF * FINE / 2), "No shot reads another.", LIGHT, small, "mm")
    return image.resize((PANEL_W, 2 * HALF + BAR), Image.Resampling.LANCZOS)


def _bar(image: Image.Image, pen: ImageDraw.ImageDraw, top: float, left: int, y: int) -> None:
    ramp = colours(np.linspace(0.12, 1, 110))
    image.paste(Image.fromarray(np.repeat(ramp[None], 20, 0)), (left, y))
    pen.text((left + 118, y + 10), f"{top * 100:g} %", INK, font(24), "lm")
