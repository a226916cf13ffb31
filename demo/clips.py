"""Procedurally generated multi-shot clips: one never-seen character in six shots, for training the demo model.

Each clip has a random symmetric character of 6x6 cells in four random colours; each shot has a background of its
own (two named colours and a scene), a scale and a path. ``recipe`` draws a clip's numbers from its seed, ``render``
paints a batch of recipes on any device.
"""

import colorsys
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent / "comfyui_moc_demo"))
import storyboard as sb  # noqa: E402

EVALUATION_SEEDS = 10_000_000  # training uses smaller seeds only


def character(rng):
    """(CELLS, CELLS, 3) texture: mirrored random cells from four colours, with a pair of light eyes."""
    palette = [colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.35, 1), rng.uniform(0.25, 1)) for _ in range(4)]
    side = sb.CELLS // 2
    half = [[palette[rng.randrange(4)] for _ in range(side)] for _ in range(sb.CELLS)]
    half[rng.randrange(1, side)][rng.randrange(1, side)] = (0.97, 0.97, 0.97)
    return [row + row[::-1] for row in half]


def recipe(seed, board=None):
    """All numbers of one clip, as small float32 arrays. A given storyboard replaces the random one."""
    rng = random.Random(seed)
    board = sb.random_storyboard(rng) if board is None else board
    colours = [
        [[c + rng.gauss(0, 0.02) for c in sb.COLOURS[shot[role]]] for role in ("upper", "lower")] for shot in board
    ]
    names = list(sb.COLOURS)
    parts = {
        "colours": colours,
        "texture": character(rng),
        "draws": [[rng.random() for _ in range(20)] for _ in board],
        "words": [[names.index(s["upper"]), names.index(s["lower"]), sb.SCENES.index(s["scene"])] for s in board],
    }
    return {"box": sb.boxes(board).numpy(), **{k: np.array(v, np.float32) for k, v in parts.items()}}


def stack(recipes, device="cpu"):
    return {k: torch.from_numpy(np.stack([r[k] for r in recipes])).to(device) for k in recipes[0]}


def contexts(words):
    """The hashed words of a batch, (n, 3 * shots, 4096), from the recipes' word numbers (n, shots, 3)."""
    lists = ("upper", list(sb.COLOURS)), ("lower", list(sb.COLOURS)), ("scene", sb.SCENES)
    key = str(words.device)
    if key not in _TABLES:
        table = sb.word_table()
        rows = [torch.stack([table["word"][role, w] for w in options]) for role, options in lists]
        _TABLES[key] = [r.to(words.device) for r in (*rows, torch.stack(table["shot"]))]
    *roles, shots = _TABLES[key]
    tokens = torch.stack([table[words[..., i].long()] for i, table in enumerate(roles)], 2)
    return ((tokens + shots[:, None]) / 3**0.5).flatten(1, 2)


_TABLES = {}


def backgrounds(batch):
    """(n, shots, 3, SIZE, SIZE): the scene of every shot; what no word tells (phases, heights, places) was drawn."""
    colours, draws = batch["colours"].clamp(0, 1), batch["draws"]
    device = draws.device
    upper, lower = colours[..., None, None].unbind(2)
    a, b, c, d = draws[..., :4, None, None].unbind(2)
    heights = draws[..., None, 4:].repeat_interleave(sb.SIZE // 16, -1)
    axis = (torch.arange(sb.SIZE, device=device) + 0.5) / sb.SIZE
    y, x = axis[:, None] + 0 * axis, axis + 0 * axis[:, None]

    def edge(distance):  # a soft step of about one pixel
        return (distance * sb.SIZE + 0.5).clamp(0, 1)

    def grid(draw, first, count, size=8):  # a place on the latent grid, as a share of the picture
        return (first + (draw * count).floor()) * size / sb.SIZE

    horizon = grid(a, 12, 10)
    wave = torch.sin(6.2832 * (x * (1 + (c * 2).floor()) + (d * 4).floor() / 4))
    stripe = torch.where(b < 0.5, x, y) * 8 + (c * 2).floor()
    disc = 24 / sb.SIZE - ((x - grid(c, 6, 21)) ** 2 + (y - grid(d, 5, 6)) ** 2).sqrt()
    sky = 1 - 0.15 * (1 - y) + 0 * a
    looks = {  # share of the lower colour, shade
        "gradient": ((y * (0.8 + 0.4 * a)).clamp(0, 1), 0 * a + 1),
        "hills": (edge(y - horizon - 0.06 * wave), 1 - 0.25 * edge(y - horizon - 0.14 + 0.05 * wave)),
        "city": (edge(y - horizon + grid(heights, 0, 8)), sky),
        "stripes": (edge((0.5 - (stripe % 2 - 1).abs()) / 8), sky),
        "sea": (edge(y - horizon), 1 - 0.15 * ((y * 16) % 1 < 0.5) * edge(y - horizon)),
        "moon": (torch.maximum(edge(disc), edge(y - grid(a, 25, 4))), sky),
    }
    out = 0
    for i, name in enumerate(sb.SCENES):
        share, shade = (v[:, :, None] for v in looks[name])
        chosen = (batch["words"][..., 2] == i)[..., None, None, None]
        out = out + chosen * (upper * (1 - share) + lower * share) * shade
    return out.clamp(0, 1)


def draw(texture, ground, box):
    """textures (n, CELLS, CELLS, 3), backgrounds (n, shots, 3, H, W), boxes (n, F, 3) -> video (n, F, 3, H, W)."""
    n, frames = box.shape[:2]
    shot = torch.tensor(sb.SHOT_OF_FRAME, device=box.device)
    at = torch.arange(sb.SIZE, device=box.device) + 0.5
    left, top, cell = box.flatten(0, 1)[..., None].unbind(1)
    u, v = (at - left) / cell, (at - top) / cell  # (n F, SIZE): place in cells
    half = sb.CELLS / 2

    def sharp(w):  # where to read the texture so that cells are flat with edges one pixel wide
        base = (w - 0.5).floor()
        return base + 0.5 + ((w - base - 1) * cell + 0.5).clamp(0, 1)

    grid = torch.stack(
        (
            (sharp(u) / half - 1)[:, None, :].expand(-1, sb.SIZE, -1),
            (sharp(v) / half - 1)[:, :, None].expand(-1, -1, sb.SIZE),
        ),
        -1,
    )
    skin = F.grid_sample(
        texture.movedim(-1, 1).repeat_interleave(frames, 0), grid, padding_mode="border", align_corners=False
    )

    def outside(width, height):  # signed distance, in cells, to a centred rectangle
        p, q = (u - half).abs()[:, None, :] - width / 2, (v - half).abs()[:, :, None] - height / 2
        return (p.clamp(min=0) ** 2 + q.clamp(min=0) ** 2).sqrt() + torch.maximum(p, q).clamp(max=0)

    distance = torch.minimum(outside(sb.CELLS, sb.CELLS - 2), outside(sb.CELLS - 2, sb.CELLS))[:, None]
    line = ((sb.OUTLINE - distance) * cell[:, :, None, None] + 0.5).clamp(0, 1)
    body = (-distance * cell[:, :, None, None] + 0.5).clamp(0, 1)
    video = ground[:, shot].flatten(0, 1)
    video = video * (1 - line) + line * 0.06
    video = video * (1 - body) + body * skin
    return video.view(n, frames, 3, sb.SIZE, sb.SIZE)


def render(batch):
    """Stacked recipes -> video (n, FRAMES, 3, SIZE, SIZE) in 0..1."""
    return draw(batch["texture"], backgrounds(batch), batch["box"])


def sheet(videos, per_shot=3):
    """One row a clip, `per_shot` frames of every shot: (n, F, 3, H, W) in 0..1 -> PIL image."""
    from PIL import Image

    starts, ends = [0, *sb.CUTS], [*sb.CUTS, sb.FRAMES]
    pick = [s + round(i * (e - 1 - s) / (per_shot - 1)) for s, e in zip(starts, ends) for i in range(per_shot)]
    rows = [
        F.interpolate(video[pick].float(), scale_factor=0.5, mode="area").permute(2, 0, 3, 1).flatten(1, 2)
        for video in videos
    ]
    return Image.fromarray((torch.cat(rows).clamp(0, 1) * 255).byte().cpu().numpy())
