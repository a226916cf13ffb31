"""Writes workflows/NAME.jpg, what the template browser shows: python -m tests.tools.thumbnails [NAME ...]

Real results: every graph is run with the pack's small demo model in place of its files, where that model can take their
place (text to video, Wan's kind). Minutes on a CPU. Other templates have no thumbnail.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from demo.host import NEWEST, prepare
from demo.run import MODELS, NODES
from demo.server import Server
from tests.tools.templates import FOLDER
from tests.workflow import checker

SHOWN = (
    *("wan22_t2v", "wan22_t2v_multishot", "holocine_multishot", "wan22_long_windows", "wan_compare"),
    *("wan_t2v_multishot", "wan_t2v_probe"),
)
SIDE, LINE = 480, 26
SAID = "drawn by the pack's small demo model"
STORY = "story"
NUMBERS = {"cfg": 1.0, "steps": 8, "sampler_name": "euler", "scheduler": "simple", "fps": 12.0, "shift": 5.0}
HALFWAY = {"end_at_step": 4, "start_at_step": 4}
Prompt = dict[str, dict[str, Any]]


def with_demo_model(prompt: Prompt) -> Prompt:
    """The same graph with the demo's model, its autoencoder, its storyboard for text, and its size."""
    demo = json.loads((FOLDER / "demo_multishot.json").read_text("utf-8"))
    of = {node["class_type"]: node for node in demo.values()}
    made, moved = {STORY: of["MoCDemoStoryboard"]}, dict[tuple[str, int], list[Any]]()
    for number, node in prompt.items():
        kind, inputs = node["class_type"], dict(node["inputs"])
        if kind in ("UNETLoader", "VAELoader"):
            inputs = of[kind]["inputs"]
        elif kind == "MoCShots":
            inputs = of[kind]["inputs"] | {"times": [STORY, 4]}
            moved[number, 2] = [STORY, 3]
        elif kind == "MoCWindows":
            inputs |= {"length": 21, "overlap": 0}  # two shots
        elif kind == "CLIPTextEncode":
            moved[number, 0] = [STORY, 0]
            continue
        elif kind == "MoCShotConditioning":
            moved |= {(number, 0): inputs["model"], (number, 1): [STORY, 0]}
            continue
        elif kind == "EmptyHunyuanLatentVideo":
            moved[number, 0] = [STORY, 1]
            continue
        elif kind == "CLIPLoader":
            continue
        inputs |= {name: value for name, value in NUMBERS.items() if name in inputs}
        inputs |= {name: value for name, value in HALFWAY.items() if inputs.get(name) == 10}
        made[number] = {"class_type": kind, "inputs": inputs}
    for node in made.values():
        for name, value in node["inputs"].items():
            while isinstance(value, list) and tuple(value) in moved:
                value = node["inputs"][name] = moved[tuple(value)]
    return made


def thumbnail(server: Server, name: str, info: dict[str, Any]) -> Image.Image:
    saved = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    prompt = with_demo_model(checker.to_prompt(saved, info))
    films = [n for n, node in prompt.items() if node["class_type"] == "VAEDecode"]
    pictures = {n: 0 for n, node in prompt.items() if node["class_type"] == "MoCRoutingHeatmap"}
    pictures |= {n: 1 for n, node in prompt.items() if node["class_type"] == "MoCProbeReport"}
    for film in films:
        asked = {"frames": [film, 0], "storyboard": [STORY, 3]}
        prompt[f"{film}-alike"] = {"class_type": "MoCDemoSimilarity", "inputs": asked}
        prompt[f"{film}-saved"] = _saved([f"{film}-alike", 3])
    prompt |= {f"{n}-saved": _saved([n, slot]) for n, slot in pictures.items()}
    run = server.wait(server.queue(prompt), timeout=1500)
    rows = [Image.open(run.files[f"{film}-saved"][0]) for film in films]
    (*_, picture) = (Image.open(run.files[f"{n}-saved"][0]) for n in pictures)
    return composed(rows, picture)


def _saved(images: list[Any]) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": images, "filename_prefix": "thumbnails/one"}}


def composed(rows: list[Image.Image], picture: Image.Image) -> Image.Image:
    """The films' shots above, what was routed below."""
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    top = 0
    for row in rows:
        row = row.convert("RGB").resize((SIDE, round(row.height * SIDE / row.width)), Image.Resampling.LANCZOS)
        sheet.paste(row, (0, top))
        top += row.height + 4
    room = (SIDE, SIDE - top - LINE)
    picture = picture.convert("RGB")
    picture.thumbnail(room, Image.Resampling.LANCZOS)
    sheet.paste(picture, ((SIDE - picture.width) // 2, top))
    font = ImageFont.load_default(16)
    ImageDraw.Draw(sheet).text((SIDE // 2, SIDE - LINE // 2), SAID, "#555", font, anchor="mm")
    return sheet


def main() -> None:
    with Server(prepare(NEWEST, tools=True), nodes=NODES, models=MODELS, cpu=True) as server:
        info = server.object_info()
        for name in sys.argv[1:] or SHOWN:
            thumbnail(server, name, info).save(path := FOLDER / f"{name}.jpg", quality=82, optimize=True)
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
