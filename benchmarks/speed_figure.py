"""Draw time and memory against tokens, and time against error, from results that are there.

python -m benchmarks.speed_figure

Reads benchmarks/results/attention_h200.json and second_look_h200.json, writes docs/images/speed.png. The first two
panels are per head, so that cases with different numbers of heads share the axes; only head dim 128. Needs Pillow.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
SIZE, TOP, BOTTOM = (2000, 680), 190, 580
FRAMES = ("single-shot 480p", "single-shot 720p", "multi-shot, paper")
LARGE = ("medium tiles, 720p", "medium tiles, 8 shots")
# name of the series: (whose, cases, colour); colours that colour-blind people can tell apart
SERIES = {
    "dense (cuDNN): nothing beside its output": ("dense", FRAMES, "#000000"),
    "dense (FlashAttention 3, bf16), by another hand": ("fa3", FRAMES, "#777777"),
    "MoC, a chunk per frame (paper)": ("moc", FRAMES, "#0072B2"),
    "MoC, large pictures": ("moc", LARGE, "#D55E00"),
    "sol_attn INT8, same share as a chunk per frame": ("sol_attn", FRAMES, "#009E73"),
    "sol_attn INT8, same share as large pictures": ("sol_attn", LARGE, "#CC79A7"),
}
TOKENS = (32760, 75600, 180000)
ERRORS = (0.01, 0.03, 0.1, 0.3)
FONT, BOLD = ImageFont.load_default(17), ImageFont.load_default(20)


@dataclass(frozen=True)
class Panel:
    title: str
    left: int
    right: int
    low: float
    high: float
    ticks: tuple[float, ...]
    across: tuple[float, float] = (26000, 240000)
    marks: tuple[float, ...] = TOKENS
    below: str = "tokens"

    def place(self, tokens: float, value: float) -> tuple[float, float]:
        """Where a point stands in the picture; both axes are logarithmic."""

        def along(value: float, low: float, high: float) -> float:
            return math.log(value / low) / math.log(high / low)

        x, y = along(tokens, *self.across), along(value, self.low, self.high)
        return self.left + x * (self.right - self.left), BOTTOM - y * (BOTTOM - TOP)

    def axes(self, draw: ImageDraw.ImageDraw) -> None:
        draw.text((self.left, TOP - 34), self.title, "black", BOLD)
        for value in self.ticks:
            _, y = self.place(TOKENS[0], value)
            draw.line((self.left, y, self.right, y), "#dddddd")
            draw.text((self.left - 12, y), f"{value:g}", "black", FONT, anchor="rm")
        for mark in self.marks:
            x, _ = self.place(mark, self.low)
            draw.line((x, TOP, x, BOTTOM), "#dddddd")
            draw.text((x, BOTTOM + 10), f"{mark:,}", "black", FONT, anchor="ma")
        draw.text(((self.left + self.right) / 2, BOTTOM + 40), self.below, "black", FONT, anchor="ma")


TIME = Panel("milliseconds per head, same share of pairs", 70, 640, 0.1, 50, (0.1, 0.3, 1, 3, 10, 30))
MEMORY = Panel("MiB per head beside q, k, v and the output", 730, 1290, 10, 400, (10, 30, 100, 300))
QUALITY = Panel(
    "milliseconds at 720p, 40 heads, against error", 1390, 1960, 10, 300, (10, 30, 100, 300),
    (0.008, 0.4), ERRORS, "relative distance from dense attention (further left is nearer)",
)  # fmt: skip


def milliseconds(result: dict, whose: str) -> float:
    return result[f"{whose}_ms"] / result["heads"]


def mebibytes(result: dict, whose: str) -> float:
    return result[f"{whose}_extra_over_qkv"] * 3 * result["tokens"] * result["dim"] * 2 / 2**20


def read(name: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def dot(draw: ImageDraw.ImageDraw, x: float, y: float, colour: str) -> None:
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), colour)


def time_at_equal_error(draw: ImageDraw.ImageDraw, second: dict) -> None:
    """sol_attn in its best order and mode as a line, MoC's rules as points with their names."""
    rows = [r for r in second["equal_error"] if r["film"] == "720p"]
    least = second["sol_attn_least_error_720p"]
    line = [(r["error"], r["sol_attn_ms"]) for r in rows if r["sol_attn_ms"]] + [(least["error"], least["ms"])]
    points = [QUALITY.place(*point) for point in sorted(line)]
    draw.line(points, "#009E73", 3)
    for point in points:
        dot(draw, *point, "#009E73")
    draw.text((points[-1][0] + 8, points[-1][1] + 10), "sol_attn, best order", "#009E73", FONT, anchor="ra")
    x, y = QUALITY.place(ERRORS[0], second["dense"][1]["fa3_ms"])
    draw.line((QUALITY.left, y, QUALITY.right, y), "#777777", 3)
    draw.text((QUALITY.right, y - 4), "dense, FlashAttention 3", "#777777", FONT, anchor="rd")
    names = {
        "own frame + 3 frames": ("paper: frames", "md", (0, -10)), "own chunk + 16 of 450": ("450", "md", (0, -10)),
        "large pictures": ("large pictures", "rm", (-12, 0)), "fast": ("fast", "lm", (12, 0)),
        "recommended": ("recommended", "md", (10, -10)), "own frame + 32 of 8x8, min-max, tail": ("8x8", "ma", (0, 8)),
    }  # fmt: skip
    for r in rows:
        x, y = QUALITY.place(r["error"], r["ms"])
        colour = "#0072B2" if "frames" in r["rule"] else "#D55E00"
        dot(draw, x, y, colour)
        if r["rule"] in names:
            name, anchor, (right, down) = names[r["rule"]]
            draw.text((x + right, y + down), name, colour, FONT, anchor=anchor)


def main() -> None:
    data, second = read("attention_h200"), read("second_look_h200")
    results = {r["case"]: r for r in data["results"]}
    for case, dense in zip(FRAMES, (second["dense"][i] for i in (0, 1, 3)), strict=True):
        results[case] |= {"fa3_ms": dense["fa3_ms"], "fa3_extra_over_qkv": 0.0}
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    title = "Attention on one H200, bf16, head dim 128. Gains over cuDNN; over FlashAttention 3 14 to 18 % less"
    draw.text((20, 14), title, "black", ImageFont.load_default(22))
    for panel in (TIME, MEMORY, QUALITY):
        panel.axes(draw)
    time_at_equal_error(draw, second)
    for number, (name, (whose, cases, colour)) in enumerate(SERIES.items()):
        x, y = 30 + 600 * (number // 2), 62 + 30 * (number % 2)
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
                dot(draw, px, py, colour)
                if panel is TIME and whose == "moc":
                    above = cases is FRAMES and case != cases[0]  # the other line is below
                    spot = (px - 14, py - 8) if above else (px + 12, py + 8)
                    draw.text(spot, f"{results[case]['ratio']:.1f}x", colour, FONT, anchor="rd" if above else "la")
    image.save(ROOT / "docs/images/speed.png", optimize=True)


if __name__ == "__main__":
    main()
