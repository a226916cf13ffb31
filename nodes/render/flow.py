"""Draws who reads whom between shots, as arcs: earlier shots are read above the line, later ones below it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ...moc.trace.heatmap import Heatmap, links
from .heatmap import FAINT, INK, PAPER, WIDTH, caption, colours, font, percent, scale_top

FINE = 3  # drawn so many times larger, for smooth arcs
PANEL, LIGHT, BLOCK = (20, 22, 28), (238, 240, 244), (70, 76, 88)
LEFT, TOP, PANEL_W, HALF = 30, 92, 940, 270
BAR = 44  # height of the line of shots
MOST_NUMBERS = 15


@dataclass(frozen=True)
class Arc:
    """From the reading shot's place to the read one's, both in pixels; span is how many shots apart they are."""

    reader: int
    read: int
    share: float
    begin: float
    end: float

    @property
    def span(self) -> int:
        return abs(self.reader - self.read)


def arcs(found: list[tuple[int, int, float]], centres: list[float], room: float) -> list[Arc]:
    """found: (reader, read, share), shots counted from 0. Arcs that meet at a shot stand side by side, outer ones
    outside, so that they do not cross; weakest first, so that the strongest lies on top."""
    places: dict[tuple[int, int, bool], float] = {}
    for shot, centre in enumerate(centres):
        for above in (True, False):
            others = {a if b == shot else b for a, b, _ in found if shot in (a, b) and (a > b) == above}
            ordered = sorted((o for o in others if o < shot), reverse=True)
            ordered += sorted((o for o in others if o > shot), reverse=True)
            for i, other in enumerate(ordered):
                places[shot, other, above] = centre + room * ((i + 0.5) / len(ordered) - 0.5)
    return [Arc(a, b, s, places[a, b, a > b], places[b, a, a > b]) for a, b, s in sorted(found, key=lambda f: f[2])]


def draw_flow(heat: Heatmap, text: str) -> Image.Image:
    """heat: by shots."""
    shots = [line.shot for line in heat.rows if line.kind == "video"]
    place = {shot: i for i, shot in enumerate(shots)}
    found = [(place[a], place[b], share) for a, b, share in links(heat) if a in place and b in place]
    lines = caption(heat, text)
    height = 2 * HALF + BAR
    image = Image.new("RGB", (WIDTH, TOP + height + 74 + 38 * len(lines)), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((30, 22), "Who reads whom, shot by shot", INK, font(40))
    top = scale_top(np.array([share for *_, share in found]))
    image.paste(_panel(found, len(shots), top), (LEFT, TOP))
    pen.text((LEFT, TOP + height + 12), "The wider and brighter an arc, the larger the part of a shot", FAINT, font(26))
    _bar(image, pen, top, LEFT + PANEL_W - 190, TOP + height + 16)
    for i, line in enumerate(lines):
        pen.text((30, TOP + height + 66 + 38 * i), line, INK, font(28))
    return image


def _panel(found: list[tuple[int, int, float]], count: int, top: float) -> Image.Image:
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
        angles = (180, 360) if above else (0, 180)
        pen.arc([v * FINE for v in box], *angles, fill=colour, width=round(width * FINE))
        middles[arc.reader, arc.read] = (left + right) / 2, y - rise if above else y + rise
    small, large = font(22 * FINE), font(min(26, step * 0.5) * FINE)
    for arc in drawn[-MOST_NUMBERS:]:
        across, down = (v * FINE for v in middles[arc.reader, arc.read])
        pen.text((across, down), percent(arc.share), LIGHT, small, "mm", stroke_width=4 * FINE, stroke_fill=PANEL)
    for i, centre in enumerate(centres):
        box = (centre - step * 0.44, HALF + 4, centre + step * 0.44, HALF + BAR - 4)
        pen.rounded_rectangle([v * FINE for v in box], 6 * FINE, BLOCK)
        words = f"shot {i + 1}" if step >= 110 else str(i + 1)
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
