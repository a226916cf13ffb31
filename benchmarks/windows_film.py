"""Films of any number of shots for the demo model, and what is measured on them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TRAINING = Path(__file__).resolve().parent.parent / "demo" / "training"
sys.path += [str(TRAINING), str(TRAINING.parent)]
import clips  # noqa: E402
import evaluate  # noqa: E402

sb = clips.sb


@dataclass(frozen=True)
class Film:
    """A held-out film. The model tells six shots apart, so that after every six their numbers begin again.

    box [frames, 3]; control [1, 16, latent frames, h, w] as a LATENT; words: of every six, [1, 18, 4096]; parts: the
    recipes of every six, of which a film uses the backgrounds and the character's places, never its looks.
    """

    shots: int
    seed: int
    box: Tensor
    control: Tensor
    words: list[Tensor]
    parts: list[dict[str, Tensor]]

    @property
    def latents(self) -> int:
        return self.shots * sb.LATENTS_PER_SHOT

    def cuts(self, every: int = 1) -> tuple[int, ...]:
        """First latent frame of every shot but the first; or of every second, third ... shot."""
        step = every * sb.LATENTS_PER_SHOT
        return tuple(range(step, self.latents, step))


def film(shots: int, clip: int) -> Film:
    sixes, rest = divmod(shots, sb.SHOTS)
    if rest:
        raise ValueError(f"the demo model knows shots by sixes, and {shots} is no multiple of six")
    seed = clips.EVALUATION_SEEDS + clip
    parts = [clips.stack([clips.recipe(seed + 1_000_000 * part)]) for part in range(sixes)]
    box, control = sb.joined([part["box"][0] for part in parts])
    return Film(shots, seed, box, control, [clips.contexts(part["words"]) for part in parts], parts)


def chain(clip: int, count: int) -> list[Film]:
    """So many films of six shots, one after another, in which the same character is to be seen."""
    whole = film(count * sb.SHOTS, clip)
    controls = whole.control.split(sb.LATENT_FRAMES, 2)
    return [
        Film(sb.SHOTS, whole.seed + number, part["box"][0], control, [words], [part])
        for number, (part, control, words) in enumerate(zip(whole.parts, controls, whole.words, strict=True))
    ]


def looks_of(film: Film, video: Tensor) -> Tensor:
    """Of the character in every frame: unit vectors [frames, channels], whose products are likeness."""
    return sb.describe(sb.cell_colours(video, film.box))


def measure(film: Film, video: Tensor, together: int) -> dict[str, float]:
    """video [frames, H, W, 3] in 0..1; together: neighbouring shots that a window of the forgetful kind holds.

    across, inside  likeness of the character over pairs of shots in different windows, and in one
    within          over pairs of frames of one shot
    contrast        spread of the character's cells around their mean colour
    off, colour, flicker   as `demo/training/evaluate.py` has them, means over every six shots
    """
    cells = sb.cell_colours(video, film.box)
    contrast = float((cells - cells.mean(1, keepdim=True)).square().mean((1, 2)).sqrt().mean())
    looks = sb.describe(cells)
    cosine, shot = looks @ looks.T, (torch.arange(len(video)) + 3) // (4 * sb.LATENTS_PER_SHOT)
    same_shot = shot[:, None] == shot
    same_window = shot[:, None] // together == shot // together
    others = ~torch.eye(len(video), dtype=torch.bool)
    found = {
        "across": cosine[~same_window].mean(),
        "inside": cosine[same_window & ~same_shot].mean(),
        "within": cosine[same_shot & others].mean(),
    }
    found = {name: float(value) for name, value in found.items()} | {"contrast": contrast}
    sixes: list[dict[str, float]] = []
    for number, part in enumerate(film.parts):
        begin = number * (sb.FRAMES + 3)
        some, box = video[begin : begin + sb.FRAMES].movedim(-1, 1), part["box"][0]
        sixes.append(
            {
                "off": float(evaluate.motion(some, box)[1]),
                "colour": float(evaluate.sky(some, clips.render(part)[0], box, part["words"][0])),
                "flicker": float(evaluate.flicker(some, box)),
            }
        )
    found |= {name: sum(six[name] for six in sixes) / len(sixes) for name in sixes[0]}
    return {name: round(value, 5) for name, value in found.items()}
