"""Draws a heatmap: numbers in, picture out."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ...moc.trace.cells import JOINED
from ...moc.trace.heatmap import BANK, Heatmap, Line, ranges

# Lightness rises evenly from violet to yellow, so that the order also shows without full colour vision.
RAMP = (
    *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
    *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
)
PAPER, INK, FAINT = (255, 255, 255), (24, 26, 31), (96, 100, 110)
SEEN, HATCH = (214, 216, 222), (120, 124, 134)
WIDTH, LEFT, TOP, PLOT_W, PLOT_H = 1000, 170, 140, 650, 560
SPAN_WIDTH = 80  # room for the word above a text or reference column
SHORT = {"reference": "ref"}


def draw(heat: Heatmap, text: str) -> Image.Image:
    """The whole picture: plot, axes, colour bar, legend and caption."""
    x, y = _edges(heat.columns, PLOT_W), _edges(heat.rows, PLOT_H)
    top = scale_top(heat.chosen_of_open)
    lines = caption(heat, text)
    image = Image.new("RGB", (WIDTH, TOP + PLOT_H + 110 + 38 * len(lines)), PAPER)
    image.paste(Image.fromarray(_plot(heat, x, y, top)), (LEFT, TOP))
    pen = ImageDraw.Draw(image)
    _axes(image, pen, heat, x, y)
    _numbers(pen, heat, x, y, top)
    _colour_bar(image, pen, top, "attention" if heat.view == BANK else "chosen")
    _legend(image, pen, heat)
    for i, line in enumerate(lines):
        pen.text((30, TOP + PLOT_H + 104 + 38 * i), line, INK, font(28))
    return image


def draw_text(text: str) -> Image.Image:
    """A picture for a run without routing: it says why."""
    lines = _wrap(text.splitlines(), font(32), WIDTH - 80)
    image = Image.new("RGB", (WIDTH, 80 + 46 * len(lines)), PAPER)
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        pen.text((40, 40 + 46 * i), line, INK, font(32))
    return image


def as_image(picture: Image.Image) -> torch.Tensor:
    """[1, H, W, 3] in 0..1, what an IMAGE socket carries."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 255.0)[None]


def colours(share: np.ndarray) -> np.ndarray:
    """Values in 0..1 [...] -> RGB [..., 3]."""
    at = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(share, at, channel) for channel in zip(*RAMP, strict=True)], -1).round().astype(np.uint8)


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def scale_top(share: np.ndarray) -> float:
    """Upper end of the colours: the next 1, 2 or 5 of its decade above the largest share."""
    largest = float(np.nanmax(share, initial=0.0)) if share.size else 0.0
    steps = [m * 10.0**e for e in range(-4, 0) for m in (1, 2, 5)]
    return next((s for s in steps if s >= largest - 1e-9), 1.0)


def _edges(lines: tuple[Line, ...], size: int) -> np.ndarray:
    """Pixel borders [n + 1] of rows or columns; what is neither video nor memory gets a fixed width."""
    video = np.array([line.kind in JOINED for line in lines])
    free = max(size - SPAN_WIDTH * int((~video).sum()), size // 2)
    widths = np.where(video, free / max(video.sum(), 1), (size - free) / max((~video).sum(), 1))
    return np.concatenate([[0], np.cumsum(widths)]).round().astype(int)


def _runs(lines: tuple[Line, ...], edges: np.ndarray) -> list[tuple[Line, int, int]]:
    """(first line, from pixel, to pixel) of every shot and of every column that is not video."""
    runs = []
    for _, group in groupby(enumerate(lines), key=lambda p: p[1].shot if p[1].kind == "video" else (p[0],)):
        members = list(group)
        runs.append((members[0][1], int(edges[members[0][0]]), int(edges[members[-1][0] + 1])))
    return runs


def _plot(heat: Heatmap, x: np.ndarray, y: np.ndarray, top: float) -> np.ndarray:
    """The cells as pixels. Hatched grey is seen without being chosen; a hatched corner, in part; plain grey, forbidden;
    white, never met."""
    px, py = np.arange(x[-1]), np.arange(y[-1])
    column, row = np.searchsorted(x, px, "right") - 1, np.searchsorted(y, py, "right") - 1
    share, always = heat.chosen_of_open[np.ix_(row, column)], heat.always[np.ix_(row, column)]
    none = np.isnan(share)
    pixels = colours(np.where(none, 0.0, share) / top)
    pixels[none] = SEEN
    pixels[~heat.met[np.ix_(row, column)]] = PAPER
    u = (px - x[column]) / np.maximum(np.diff(x)[column], 1)
    v = (py - y[row]) / np.maximum(np.diff(y)[row], 1)
    inside = always >= 1  # a corner as large as its part, so that a tenth looks like a tenth
    inside |= (always > 0) & (u[None] + v[:, None] < np.sqrt(2 * np.minimum(always, 0.5)))
    pixels[inside & none] = SEEN
    pixels[inside & ((px[None] + py[:, None]) % 12 < 4)] = HATCH
    for edges, axis in ((x, 1), (y, 0)):
        if np.diff(edges).min() >= 12:
            pixels[(slice(None), edges[1:-1]) if axis else edges[1:-1]] //= 2
    columns, rows = _runs(heat.columns, x), _runs(heat.rows, y)
    half = 2 if min(stop - start for _, start, stop in columns + rows) >= 40 else 1
    for _, start, _ in columns[1:]:
        pixels[:, start - half : start + half + 1] = PAPER
    for _, start, _ in rows[1:]:
        pixels[start - half : start + half + 1] = PAPER
    return pixels


def _axes(image: Image.Image, pen: ImageDraw.ImageDraw, heat: Heatmap, x: np.ndarray, y: np.ndarray) -> None:
    small, large = font(24), font(30)
    title = "What is read in the bank" if heat.view == BANK else f"Who reads whom, by {heat.view[:-1]}"
    pen.text((30, 22), title, INK, font(40))
    pen.text((LEFT + PLOT_W, 66), "what is read", FAINT, font(28), anchor="rs")
    side = Image.new("RGB", (PLOT_H, 40), PAPER)
    ImageDraw.Draw(side).text((PLOT_H, 4), "who reads", FAINT, font(28), anchor="ra")
    image.paste(side.rotate(90, expand=True), (6, TOP))
    free = taken = float(LEFT)
    for line, start, stop in _runs(heat.columns, x):
        label, middle = _label(line, stop - start, large), LEFT + (start + stop) // 2
        if middle - large.getlength(label) / 2 >= taken:
            pen.text((middle, TOP - 12), label, INK, large, anchor="ms")
            taken = middle + large.getlength(label) / 2 + 6
        if line.kind == "video" and LEFT + start >= free:
            pen.text((LEFT + start, TOP + PLOT_H + 8), str(line.frame), FAINT, small)
            free = LEFT + start + pen.textlength(f"{line.frame} ", small)
    pen.text((LEFT - 12, TOP + PLOT_H + 8), "latent frame", FAINT, small, anchor="ra")
    for line, start, stop in _runs(heat.rows, y):
        if stop - start >= 30:
            pen.text((LEFT - 12, TOP + (start + stop) // 2), _label(line, 999, large), INK, large, anchor="rm")
        if stop - start >= 80:
            pen.text((LEFT - 12, TOP + start), str(line.frame), FAINT, small, anchor="ra")


def _label(line: Line, room: int, letters) -> str:
    if line.name:
        return shortened(line.name, room - 6, letters)
    if line.kind != "video":
        return SHORT.get(line.kind, line.kind)
    words = f"shot {line.shot + 1}"
    return words if letters.getlength(words) <= room - 6 else str(line.shot + 1)


def shortened(name: str, room: float, letters) -> str:
    while letters.getlength(name) > room and len(name) > 1:
        name = f"{name.rstrip('…')[:-1]}…"
    return name


def _numbers(pen: ImageDraw.ImageDraw, heat: Heatmap, x: np.ndarray, y: np.ndarray, top: float) -> None:
    """Write the shares into cells that have room for them."""
    roomy = np.logical_and.outer(np.diff(y) >= 40, np.diff(x) >= 84)
    for r, c in np.argwhere(roomy & ~np.isnan(heat.chosen_of_open)):
        share = heat.chosen_of_open[r, c]
        place = LEFT + (x[c] + x[c + 1]) // 2, TOP + (y[r] + y[r + 1]) // 2
        pen.text(place, percent(share), INK if share / top > 0.55 else PAPER, font(28), anchor="mm")


def percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def _colour_bar(image: Image.Image, pen: ImageDraw.ImageDraw, top: float, words: str) -> None:
    left, ramp = LEFT + PLOT_W + 36, colours(np.linspace(1, 0, PLOT_H))
    image.paste(Image.fromarray(np.repeat(ramp[:, None], 36, 1)), (left, TOP))
    for part in (0.0, 0.5, 1.0):
        y = TOP + round((1 - part) * (PLOT_H - 1))
        pen.line((left + 36, y, left + 44, y), INK, 2)
        pen.text((left + 52, y), f"{part * top * 100:g} %", INK, font(26), "lm")
    pen.text((left, TOP - 28), words, INK, font(28), anchor="ls")


def _legend(image: Image.Image, pen: ImageDraw.ImageDraw, heat: Heatmap) -> None:
    y, left = TOP + PLOT_H + 50, LEFT
    stripes = np.add.outer(np.arange(28), np.arange(44)) % 12 < 4
    closed, apart = plain_cells(heat)
    of_bank = heat.view == BANK
    swatches = [(np.where(stripes[..., None], HATCH, SEEN), "always seen, not chosen")] * (not of_bank)
    swatches += [(np.full((28, 44, 3), SEEN), "later shot, not allowed")] * closed
    swatches += [(np.full((28, 44, 3), PAPER), "not read in the bank" if of_bank else "never in one pass")] * apart
    for swatch, text in swatches:
        image.paste(Image.fromarray(swatch.astype(np.uint8)), (left, y))
        pen.rectangle((left, y, left + 43, y + 27), outline=FAINT)
        pen.text((left + 56, y + 14), text, INK, font(26), anchor="lm")
        left += 56 + int(pen.textlength(text, font(26))) + 40


def plain_cells(heat: Heatmap) -> tuple[bool, bool]:
    """Whether the legend has to say what a cell without colour and stripes is: (closed to the row, never met)."""
    closed = np.isnan(heat.chosen_of_open) & (heat.always == 0) & heat.met
    return bool(closed.any()), not heat.met.all()


def caption(heat: Heatmap, text: str) -> list[str]:
    blocks = f"block {heat.blocks[0]}" if len(heat.blocks) == 1 else f"mean of blocks {ranges(list(heat.blocks))}"
    head = "mean of heads" if heat.head < 0 or heat.heads_together else f"head {heat.head}"
    steps = ranges(list(range(heat.steps[0], heat.steps[1] + 1)))
    shown = f"Shown: steps {steps}, {blocks}, {head}"
    kept = f"{heat.density:.1%} of attention in the bank" if heat.view == BANK else f"{heat.density:.1%} of pairs kept"
    shown += "." if kept in text else f"; {kept}."
    if heat.heads_together:
        shown += " Heads were recorded together to save memory."
    return _wrap([*text.splitlines()[:4], shown], font(28), WIDTH - 60)


def _wrap(lines: list[str], letters, room: int) -> list[str]:
    wrapped = []
    for line in lines:
        current = ""
        for word in line.split():
            if current and letters.getlength(f"{current} {word}") > room:
                wrapped.append(current)
                current = word
            else:
                current = f"{current} {word}".strip()
        wrapped.append(current)
    return wrapped
