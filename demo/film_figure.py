"""The README's picture of the long film, of the two sheets that `python demo/run.py --shots 24` leaves.

python demo/film_figure.py [--out docs/images/long_film.png]    # needs Pillow
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

REPO = Path(__file__).resolve().parent.parent
SHEETS = {"MoC Windows, bank": "long_moc_sheet.png", "ComfyUI's default windows": "long_comfyui_sheet.png"}
WIDTH, CAPTION = 864, 22


def figure(sheets: dict[str, Image.Image]) -> Image.Image:
    """Sheets below each other, each under its caption."""
    small = {
        said: sheet.convert("RGB").resize((WIDTH, sheet.height * WIDTH // sheet.width), Image.Resampling.LANCZOS)
        for said, sheet in sheets.items()
    }
    out = Image.new("RGB", (WIDTH, sum(CAPTION + sheet.height for sheet in small.values())), "white")
    y = 0
    for said, sheet in small.items():
        ImageDraw.Draw(out).text((4, y + 4), said, "black", ImageFont.load_default(14))
        out.paste(sheet, (0, y + CAPTION))
        y += CAPTION + sheet.height
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheets", type=Path, default=REPO / "demo" / "output", help="their folder")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "images" / "long_film.png")
    args = parser.parse_args()
    figure({said: Image.open(args.sheets / name) for said, name in SHEETS.items()}).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
