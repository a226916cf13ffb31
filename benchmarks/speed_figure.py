"""Draw time and memory against tokens from results that are there: python -m benchmarks.speed_figure

Reads benchmarks/results/attention_h200.json, writes docs/images/speed.png. Both are per head, so that cases with
different numbers of heads share the axes; only head dim 128. Needs Pillow.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
SIZE, TOP, BOTTOM = (1500, 650), 150, 570
FRAMES = ("single-shot 480p", "single-shot 720p", "multi-shot, paper")
LARGE = ("medium tiles, 720p", "medium tiles, 8 shots")
# name of the series: (whose, cases, colour); colours that colour-blind people can tell apart
SERIES = {
    "dense (cuDNN): nothing beside its output": ("dense", FRAMES, "#000000"),
    "MoC, a chunk per frame (paper)": ("moc", FRAMES, "#0072B2"),
    "MoC, large pictures": ("moc", LARGE, "#D55E00"),
    "sol_attn INT8, same share as a chunk per frame": ("sol_attn", FRAMES, "#009E73"),
    "sol_attn INT8, same share as large pictures": ("sol_attn", LARGE, "#CC79A7"),
}
TOKENS = (32760, 75600, 180000)
FONT, BOLD = ImageFont.load_default(17), ImageFont.load_default(20)


@dataclass(frozen=True)
class Panel:
    title: str
    left: int
    right: int
    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, tokens: float, value: float) -> tuple[float, float]:
        """Where a point stands in the picture; both axes are logarithmic."""

        def along(value: float, low: float, high: float) -> float:
            return math.log(value / low) / math.log(high / low)

        x, y = along(tokens, 26000, 240000), along(value, self.low, self.high)
        return self.left + x * (self.right - self.left), BOTTOM - y * (BOTTOM - TOP)

    def axes(self, draw: ImageDraw.ImageDraw) -> None:
        draw.text((self.left, TOP - 34), self.title, "black", BOLD)
        for value in self.ticks:
            _, y = self.place(TOKENS[0], value)
            draw.line((self.left, y, self.right, y), "#dddddd")
            draw.text((self.left - 12, y), f"{value:g}", "black", FONT, anchor="rm")
        for tokens in TOKENS:
            x, _ = self.place(tokens, self.low)
            draw.line((x, TOP, x, BOTTOM), "#dddddd")
            draw.text((x, BOTTOM + 10), f"{tokens:,}", "black", FONT, anchor="ma")
        draw.text(((self.left + self.right) / 2, BOTTOM + 40), "tokens", "black", FONT, anchor="ma")


TIME = Panel("milliseconds per head", 70, 720, 0.1, 50, (0.1, 0.3, 1, 3, 10, 30))
MEMORY = Panel("MiB per head beside q, k, v and the output", 830, 1470, 10, 400, (10, 30, 100, 300))


def milliseconds(result: dict, whose: str) -> float:
    return result[f"{whose}_ms"] / result["heads"]


def mebibytes(result: dict, whose: str) -> float:
    return result[f"{whose}_extra_over_qkv"] * 3 * result["tokens"] * result["dim"] * 2 / 2**20


def main() -> None:
    data = json.loads((ROOT / "benchmarks/results/attention_h200.json").read_text(encoding="utf-8"))
    results = {r["case"]: r for r in data["results"]}
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    draw.text((20, 14), "Attention on one H200, bf16, head dim 128", "black", ImageFont.load_default(22))
    for panel in (TIME, MEMORY):
        panel.axes(draw)
    for number, (name, (whose, cases, colour)) in enumerate(SERIES.items()):
        x, y = 30 + 480 * (number // 2), 58 + 28 * (number % 2)
        draw.line((x, y, x + 30, y), colour, 3)
        draw.ellipse((x + 9, y - 6, x + 21, y + 6), colour)
        draw.text((x + 40, y), name, "black", FONT, anchor="lm")
        for panel, measure in ((TIME, milliseconds), (MEMORY, mebibytes)):
            values = [measure(results[c], whose) for c in cases]
            if min(values) <= 0:
                continue
            points = [panel.place(results[c]["tokens"], value) for c, value in zip(cases, values, strict=True)]
            draw.line(points, colour, 3)
            for case, (px, py) in zip(cases, points, strict=True):
                draw.ellipse((px - 6, py - 6, px + 6, py + 6), colour)
                if panel is TIME and whose == "moc":
                    above = cases is FRAMES and case != cases[0]  # the other line is below
                    spot = (px - 14, py - 8) if above else (px + 12, py + 8)
                    draw.text(spot, f"{results[case]['ratio']:.1f}x", colour, FONT, anchor="rd" if above else "la")
    image.save(ROOT / "docs/images/speed.png", optimize=True)


if __name__ == "__main__":
    main()
