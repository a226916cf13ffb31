"""What the demo model is told: a storyboard of six shots, as boxes, a control latent and hashed words.

Shared by the demo's nodes and by its training. It says where the character is in every frame and what the
background looks like, never what the character looks like. Tensors of a batch of storyboards are batch first.
"""

import hashlib
import math
import random
import re

import torch

SHOTS, LATENTS_PER_SHOT, SIZE, CELLS = 6, 3, 256, 6
LATENT_FRAMES = SHOTS * LATENTS_PER_SHOT
FRAMES = 4 * LATENT_FRAMES - 3
CUTS = [4 * LATENTS_PER_SHOT * i - 3 for i in range(1, SHOTS)]  # first frame of shots 2 to 6
SHOT_OF_FRAME = [sum(f >= cut for cut in CUTS) for f in range(FRAMES)]
STEP = 8  # pixels: a latent pixel. At the end of every latent frame the box lies on this grid
MARGIN = STEP  # pixels between a box and the edge of the picture, at least
OUTLINE = 0.25  # the character's dark outline, in cells, outside its box

COLOURS = {
    "black": (0.08, 0.08, 0.11),
    "white": (0.94, 0.94, 0.92),
    "grey": (0.52, 0.54, 0.57),
    "red": (0.80, 0.17, 0.17),
    "orange": (0.95, 0.55, 0.15),
    "yellow": (0.96, 0.86, 0.35),
    "green": (0.25, 0.62, 0.28),
    "teal": (0.15, 0.60, 0.60),
    "blue": (0.20, 0.38, 0.82),
    "navy": (0.10, 0.13, 0.38),
    "purple": (0.50, 0.26, 0.66),
    "pink": (0.95, 0.62, 0.75),
}
SCENES = ["gradient", "hills", "city", "stripes", "sea", "moon"]
VIEWS = {"wide": 16, "close": 24}  # pixels a cell
HEADINGS = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}
PATHS = ["straight", "turn", "hop"]
FILLERS = {"a", "an", "and", "at", "from", "in", "of", "on", "over", "shot", "sky", "the", "to", "view", "with"}
VOCABULARY = [*COLOURS, *SCENES, *VIEWS, *HEADINGS, *PATHS]
SHOT_CUT = re.compile(r"\[\s*shot\s+cut\s*\]", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------- storyboards


def parse(prompt, seed):
    """One storyboard from a prompt, its shots separated by ``[shot cut]``.

    A shot may name two colours (above, below), a scene, a view, a heading and a path; whatever it leaves out is
    drawn from the seed. Returns (shots, words that were not understood); a shot is a dict of numbers.
    """
    texts = SHOT_CUT.split(prompt) if prompt.strip() else []
    if len(texts) > SHOTS:
        raise ValueError(
            f"The demo model knows {SHOTS} shots, the prompt has {len(texts)}: "
            f"use at most {SHOTS - 1} [shot cut] marks."
        )
    rng, shots, unknown = random.Random(seed), [], []
    for i in range(SHOTS):
        words = re.findall(r"[a-z]+", texts[i].lower()) if i < len(texts) else []
        words = [{"gray": "grey", "hops": "hop", "hopping": "hop", "closeup": "close"}.get(w, w) for w in words]
        unknown += [w for w in words if w not in VOCABULARY and w not in FILLERS]

        def pick(options, used=(), words=words):
            named = [w for w in words if w in options and w not in used]
            free = [w for w in options if w not in used]
            choice = rng.choice(free)  # drawn even when a word decides: other shots then stay as they were
            return named[0] if named else choice

        upper = pick(list(COLOURS))
        lower = pick(list(COLOURS), (upper,))
        scene, view = pick(SCENES), pick(list(VIEWS))
        heading, path = pick(list(HEADINGS)), pick(PATHS)
        shots.append(draw_shot(rng, upper, lower, scene, VIEWS[view], HEADINGS[heading], path))
    return shots, unknown


def draw_shot(rng, upper, lower, scene, cell, heading, path):
    """One shot: its steps from latent frame to latent frame and a start from which they stay inside the picture."""
    speed, side = rng.choice((1, 2)), rng.choice((-1, 1))
    along = [speed * h for h in heading]
    across = (0, -1) if path == "hop" and heading[0] else (side * heading[1], side * heading[0])
    drift = rng.choice((0, 1)) if path == "straight" else 1
    share = {"straight": (drift, drift, drift), "hop": (1, 0, -1), "turn": (0, 1, 2)}[path]
    forward = (1, 1, 0) if path == "turn" else (1, 1, 1)
    steps = [[f * a + s * c for a, c in zip(along, across)] for f, s in zip(forward, share)]
    start = []
    for axis in (0, 1):
        track = [sum(step[axis] for step in steps[:i]) for i in range(LATENTS_PER_SHOT + 1)]
        first, last = MARGIN // STEP, (SIZE - MARGIN - CELLS * cell) // STEP
        start.append(rng.randint(first - min(track), last - max(track)))
    return dict(upper=upper, lower=lower, scene=scene, cell=cell, start=start, steps=steps)


def random_storyboard(rng):
    shots = []
    for _ in range(SHOTS):
        upper, lower = rng.sample(list(COLOURS), 2)
        shots.append(
            draw_shot(
                rng,
                upper,
                lower,
                rng.choice(SCENES),
                rng.choice(list(VIEWS.values())),
                rng.choice(list(HEADINGS.values())),
                rng.choice(PATHS),
            )
        )
    return shots


def boxes(shots):
    """The character's box in every frame: (FRAMES, 3) of left, top and cell size in pixels."""
    rows = []
    for shot in shots:
        place = shot["start"]
        for step in shot["steps"]:
            for quarter in (1, 2, 3, 4):
                rows.append([(p + quarter / 4 * d) * STEP for p, d in zip(place, step)] + [shot["cell"]])
            place = [p + d for p, d in zip(place, step)]
    return torch.tensor(rows[3:], dtype=torch.float32)  # the first latent frame holds one video frame


# The Wan 2.1 latent format subtracts the first from a LATENT and divides by the second before the model sees it.
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- conditioning


def control_latent(box):
    """(batch, FRAMES, 3) boxes -> (batch, 16, LATENT_FRAMES, SIZE / 8, SIZE / 8), in the model's own unit scale.

    For the first and the last of a latent frame's video frames: how much of the latent pixel the box covers and
    where in the box it lies; for the last also the place as waves of two and four cells; then the shot's number.
    """
    side = SIZE // 8
    centre = torch.arange(side, device=box.device) * 8 + 4.0
    last = box[:, 0::4]
    first = torch.cat((box[:, :1], box[:, 1::4]), 1)

    def place(b):
        left, top, cell = (v[:, :, None, None] for v in b.unbind(-1))
        u = ((centre[None, None, None, :] - left) / cell).expand(-1, -1, side, -1)
        v = ((centre[None, None, :, None] - top) / cell).expand(-1, -1, -1, side)
        cover = 1.0
        for w in (u, v):
            inside = torch.minimum(w, CELLS - w) * cell / 8 + 0.5  # share of the 8 pixels inside, along one axis
            cover = cover * inside.clamp(0, 1)
        return u, v, cover

    channels = []
    for b, fine in ((first, False), (last, True)):
        u, v, cover = place(b)
        channels += [2 * cover, *((w * 2 / CELLS - 1) * 1.5 * cover for w in (u, v))]
        if fine:
            channels += [f(math.pi * w / 2) * cover for w in (u, v) for f in (torch.sin, torch.cos)]
    shot = torch.arange(LATENT_FRAMES, device=box.device) // LATENTS_PER_SHOT
    for i in range(SHOTS):
        channels.append((2.0 * (shot == i))[None, :, None, None].expand(box.shape[0], -1, side, side))
    return torch.stack(channels, 1)


def joined(parts):
    """Several times six shots as one film: boxes (FRAMES, 3) of each -> boxes of all frames, and the control LATENT.

    The first latent frame of a film holds one video frame, that of a later six four: the box stands still in it.
    """
    box = torch.cat([parts[0], *(part for b in parts[1:] for part in (b[:1].expand(3, -1), b))])
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (LATENT_MEAN, LATENT_STD))
    return box, torch.cat([control_latent(part[None]) for part in parts], 2) * std + mean


def first_frames(shots, every=1):
    """First video frame of every shot of a film but the first; or of every second, third ... shot."""
    return [4 * LATENTS_PER_SHOT * i - 3 for i in range(every, shots, every)]


def word_vector(word):
    """A fixed vector of 4,096 signs for a word, the same on every machine."""
    digest = hashlib.shake_256(word.encode()).digest(512)
    bits = torch.tensor(list(digest), dtype=torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten().float() * 2 - 1


_TABLES = {}


def word_table():
    """(roles x words) vectors and shot vectors: a token is word + role, then + shot."""
    if not _TABLES:
        _TABLES["word"] = {
            (role, w): word_vector(w) + word_vector("role " + role)
            for role, words in (("upper", COLOURS), ("lower", COLOURS), ("scene", SCENES))
            for w in words
        }
        _TABLES["shot"] = [word_vector(f"shot {i + 1}") for i in range(SHOTS)]
    return _TABLES


def context(shots):
    """Three hashed words a shot: (1, 3 * SHOTS, 4096)."""
    table = word_table()
    rows = [
        (table["word"][role, shot[role]] + table["shot"][i]) / 3**0.5
        for i, shot in enumerate(shots)
        for role in ("upper", "lower", "scene")
    ]
    return torch.stack(rows)[None]


# ------------------------------------------------------------------------------------------------ measurement


def cell_colours(frames, box, shift=(0.0, 0.0)):
    """Mean colour of every cell of the character: frames (F, H, W, 3), box (F, 3) -> (F, CELLS * CELLS - 4, 3).

    Nine samples around each cell's centre; the four corner cells are not part of the character.
    """
    offset = (
        torch.tensor([-0.25, 0.0, 0.25], device=frames.device)[None]
        + torch.arange(CELLS, device=frames.device)[:, None]
        + 0.5
    ).flatten()
    x = box[:, 0, None] + shift[0] + offset * box[:, 2, None]
    y = box[:, 1, None] + shift[1] + offset * box[:, 2, None]
    height, width = frames.shape[1:3]
    grid = torch.stack(
        (
            x[:, None, :].expand(-1, len(offset), -1) * 2 / width - 1,
            y[:, :, None].expand(-1, -1, len(offset)) * 2 / height - 1,
        ),
        -1,
    )
    got = torch.nn.functional.grid_sample(
        frames.movedim(-1, 1).float(), grid.to(frames.device), align_corners=False, padding_mode="border"
    )
    cells = torch.nn.functional.avg_pool2d(got, 3).flatten(2).transpose(1, 2)
    keep = torch.ones(CELLS, CELLS, dtype=torch.bool)
    keep[0, 0] = keep[0, -1] = keep[-1, 0] = keep[-1, -1] = False
    return cells[:, keep.flatten().to(cells.device)]


def describe(cells):
    """Cells (F, cells, 3) -> unit vectors (F, 3 * cells) with each frame's mean colour removed."""
    cells = cells - cells.mean(1, keepdim=True)
    return torch.nn.functional.normalize(cells.flatten(1), dim=1)


def similarity(frames, box, shot_of_frame=None):
    """How alike the character is: decoded frames (F, H, W, 3) in 0..1 and its boxes (F, 3).

    Returns ``between`` (mean cosine over pairs of frames of different shots), ``within`` (over pairs of one shot)
    and ``matrix`` (SHOTS x SHOTS means, as lists). Unrelated characters score about 0, the same one about 1.
    """
    frames = torch.as_tensor(frames)
    box = torch.as_tensor(box, dtype=torch.float32).to(frames.device)
    shot = torch.tensor(SHOT_OF_FRAME if shot_of_frame is None else shot_of_frame, device=frames.device)
    if not len(frames) == len(box) == len(shot):
        raise ValueError(
            f"similarity needs one box and one shot for every frame: got {len(frames)} frames, "
            f"{len(box)} boxes and {len(shot)} shots."
        )
    d = describe(cell_colours(frames, box))
    cosine = d @ d.T
    same = shot[:, None] == shot[None]
    other = ~torch.eye(len(shot), dtype=torch.bool, device=frames.device)
    member = torch.nn.functional.one_hot(shot).to(cosine)
    pairs = member.T @ other.to(cosine) @ member
    matrix = member.T @ (cosine * other) @ member / pairs.clamp(min=1)
    return {
        "between": cosine[~same].mean().item(),
        "within": cosine[same & other].mean().item(),
        "matrix": [[round(v, 4) for v in row] for row in matrix.tolist()],
    }


def sheet(frames, shot_of_frame, across=12):
    """Middle frame of every shot at half size: (F, H, W, 3) -> (1, rows * H / 2, across * W / 2, 3), the rest white."""
    shot = torch.tensor(shot_of_frame)
    middle = [(found[0] + found[-1]).item() // 2 for i in shot.unique() for found in [(shot == i).nonzero()[:, 0]]]
    small = torch.nn.functional.avg_pool2d(frames[middle].movedim(-1, 1).float(), 2)
    across = min(across, len(middle))
    small = torch.cat([small, small.new_ones(-len(middle) % across, *small.shape[1:])])
    return small.unflatten(0, (-1, across)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[None]
