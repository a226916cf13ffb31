"""The contact sheet of a film: first, middle and last frame of every shot, with its number and frames."""

from __future__ import annotations

from PIL import Image, ImageDraw
from torch import Tensor

from .heatmap import FAINT, INK, PAPER, font

HEIGHT, LABEL, GAP = 90, 22, 8
WIDEST, MOST = 240, 300  # pixels of a thumbnail; shots on one sheet


def frames_of(cuts: tuple[int, ...], length: int) -> list[int]:
    """First, middle and last frame of every shot that the sheet has room for."""
    shots = list(zip((0, *cuts), (*cuts, length), strict=True))[:MOST]
    return [frame for start, end in shots for frame in (start, (start + end - 1) // 2, end - 1)]


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of one picture of a film of that shape."""
    return HEIGHT, min(max(1, round(HEIGHT * width / height)), WIDEST)


def draw_sheet(pictures: Tensor, cuts: tuple[int, ...], length: int, fps: float) -> Image.Image:
    """pictures: uint8 [3 x shots, h, w, 3], the frames of `frames_of`."""
    shots = list(zip((0, *cuts), (*cuts, length), strict=True))
    shown = len(pictures) // 3
    high, wide = pictures.shape[1:3]
    across = 1 if shown <= 6 else 2 if shown <= 24 else 3
    down = -(-shown // across)
    cell = (3 * wide + 2 * GAP, high + LABEL + GAP)
    rest = len(shots) - shown
    sheet = Image.new("RGB", (across * cell[0] + GAP, down * cell[1] + GAP + (LABEL if rest else 0)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (start, end) in enumerate(shots[:shown]):
        x, y = GAP + number // down * cell[0], GAP + number % down * cell[1]
        text = f"{number + 1}:  {start}-{end - 1}  ({(end - start) / fps:.2f} s)"
        pen.text((x, y), text, INK, font(15))
        for place in range(3):
            sheet.paste(Image.fromarray(pictures[3 * number + place].numpy()), (x + place * (wide + 2), y + LABEL))
    if rest:
        pen.text((GAP, sheet.height - LABEL), f"and {rest} more shots", FAINT, font(15))
    return sheet
