"""Draw time against tokens from results that are there: python -m benchmarks.speed_figure

Reads benchmarks/results/attention_h100.json, writes docs/images/speed.png. Time is per head, so that cases with
different numbers of heads share the axes; only head dim 128. Needs Pillow.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
SIZE, LEFT, TOP, RIGHT, BOTTOM = (1100, 680), 90, 60, 1060, 600
# name of the series: (what is timed, cases, colour); colours that colour-blind people can tell apart
SERIES = {
    "dense (cuDNN)": ("dense_ms", ("single-shot 480p", "single-shot 720p", "multi-shot, paper"), "#000000"),
    "MoC, a chunk per frame": ("moc_ms", ("single-shot 480p", "single-shot 720p", "multi-shot, paper"), "#0072B2"),
    "MoC, large pictures": ("moc_ms", ("medium tiles, 720p", "medium tiles, 8 shots"), "#D55E00"),
    "sol_attn INT8, density of a chunk per frame": (
        "sol", ("single-shot 480p", "single-shot 720p", "multi-shot, paper"), "#009E73",
    ),
    "sol_attn INT8, density of large pictures": ("sol", ("medium tiles, 720p", "medium tiles, 8 shots"), "#CC79A7"),
}  # fmt: skip
TOKENS, TIMES = (32760, 75600, 180000), (0.1, 0.3, 1, 3, 10, 30)


def place(tokens: float, ms: float) -> tuple[float, float]:
    """Where a point stands in the picture; both axes are logarithmic."""

    def along(value: float, low: float, high: float) -> float:
        return math.log(value / low) / math.log(high / low)

    x, y = along(tokens, 26000, 240000), along(ms, 0.1, 50)
    return LEFT + x * (RIGHT - LEFT), BOTTOM - y * (BOTTOM - TOP)


def per_head(result: dict, which: str) -> float:
    ms = result.get("sol_attn_ms") or result["earlier_run"]["sol_attn_ms"] if which == "sol" else result[which]
    return ms / result["heads"]


def main() -> None:
    data = json.loads((ROOT / "benchmarks/results/attention_h100.json").read_text(encoding="utf-8"))
    results = {r["case"]: r for r in data["results"]}
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font, large = ImageFont.load_default(17), ImageFont.load_default(21)
    draw.text((LEFT, 16), "Attention on one H100, bf16, head dim 128: milliseconds per head", "black", large)
    for ms in TIMES:
        _, y = place(TOKENS[0], ms)
        draw.line((LEFT, y, RIGHT, y), "#dddddd")
        draw.text((LEFT - 12, y), f"{ms:g}", "black", font, anchor="rm")
    for tokens in TOKENS:
        x, _ = place(tokens, 1)
        draw.line((x, TOP, x, BOTTOM), "#dddddd")
        draw.text((x, BOTTOM + 10), f"{tokens:,}", "black", font, anchor="ma")
    draw.text(((LEFT + RIGHT) / 2, BOTTOM + 40), "tokens (logarithmic, both axes)", "black", font, anchor="ma")
    for number, (name, (which, cases, colour)) in enumerate(SERIES.items()):
        points = [place(results[c]["tokens"], per_head(results[c], which)) for c in cases]
        draw.line(points, colour, 3)
        for case, (x, y) in zip(cases, points, strict=True):
            draw.ellipse((x - 6, y - 6, x + 6, y + 6), colour)
            if which == "moc_ms":
                other = next((c for n, (w, cs, _) in SERIES.items() if w == which and n != name for c in cs
                              if results[c]["tokens"] == results[case]["tokens"]), case)  # fmt: skip
                above = per_head(results[case], which) > per_head(results[other], which)  # the two lines nearly meet
                draw.text((x + 10, y - 28 if above else y + 8), f"{results[case]['ratio']:.1f}x", colour, font)
        y = TOP + 14 + 26 * number
        draw.line((LEFT + 20, y, LEFT + 50, y), colour, 3)
        draw.ellipse((LEFT + 29, y - 6, LEFT + 41, y + 6), colour)
        draw.text((LEFT + 60, y), name, "black", font, anchor="lm")
    image.save(ROOT / "docs/images/speed.png", optimize=True)


if __name__ == "__main__":
    main()
