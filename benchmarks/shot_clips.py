"""Generated footage whose cuts are known: textured scenes with a moving camera and moving things, cut, faded,
dissolved, flashed and whipped through. The unit tests and `benchmarks/shots.py` look at the same clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

HEIGHT, WIDTH = 90, 160
KINDS = ("hard", "fade", "dissolve", "flash", "whip", "blink", "lights", "none")


@dataclass(frozen=True)
class Clip:
    """frames uint8 [N, H, W, 3]; cuts: (first frame of the new shot, or the middle of a gradual change; its kind)

    spans  of gradual changes: cut -> (first, last) frame where it may rightly be said to lie
    """

    frames: Tensor
    cuts: tuple[int, ...]
    spans: dict[int, tuple[int, int]]
    events: tuple[tuple[int, str], ...]  # (frame, kind) of all that happens, cut or not


class Scene:
    """An endless wall of colour noise under a drifting camera, with ellipses crossing it. `calm`: how little moves."""

    def __init__(self, seed: int, calm: float = 1.0, noise: float = 0.02) -> None:
        self.random = torch.Generator().manual_seed(seed)
        high, wide = HEIGHT * 2, WIDTH * 6
        wall = torch.zeros(3, high, wide)
        for octave in range(1, 6):
            grid = torch.rand(1, 3, 2**octave, 5 * 2**octave, generator=self.random) - 0.5
            wall += interpolate(grid, (high, wide), mode="bicubic")[0] / octave
        tint = self.draw(3, 1, 1) * 0.8 + 0.1
        self.wall = tint + wall * (0.3 + 0.7 * self.draw())
        self.at = torch.tensor([self.draw() * HEIGHT, self.draw() * WIDTH])
        self.drift = (self.draw(2) - 0.5) * torch.tensor([0.6, 3.0]) / calm
        self.things = [(self.draw(3), self.draw(2), (self.draw(2) - 0.5) * 0.05 / calm) for _ in range(3)]
        self.noise, self.light = noise, 1.0
        self.time = 0.0

    def draw(self, *size: int) -> Tensor:
        return torch.rand(size, generator=self.random)

    def frame(self, push: float = 0.0, blur: int = 1) -> Tensor:
        """The next frame [3, H, W] in 0..1. push: pixels the camera is thrown sideways; blur: width of its smear."""
        self.time += 1
        self.at = self.at + self.drift
        self.at[1] += push
        top, left = (int(there_and_back(at, room)) for at, room in zip(self.at.tolist(), (HEIGHT, WIDTH * 5)))
        view = self.wall[:, top : top + HEIGHT, left : left + WIDTH].clone()
        y, x = torch.linspace(0, 1, HEIGHT)[:, None], torch.linspace(0, 1, WIDTH)[None]
        for colour, start, speed in self.things:
            cy, cx = (start + speed * self.time) % 1
            inside = ((y - cy) / 0.16) ** 2 + ((x - cx) / 0.1) ** 2 < 1
            view = torch.where(inside, colour[:, None, None], view)
        if blur > 1:
            view = avg_pool2d(view[None], (1, 2 * blur + 1), 1, (0, blur), count_include_pad=False)[0]
        return (view * self.light + torch.randn(view.shape, generator=self.random) * self.noise).clamp(0, 1)


def there_and_back(at: float, room: float) -> float:
    """Where a camera stands that turns around at both ends of a wall."""
    return room - abs(at % (2 * room) - room)


class Take:
    """A shot of real footage, uint8 [N, H, W, 3], played to its end, then backwards, and so on."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = interpolate(frames.movedim(-1, 1).float() / 255, (HEIGHT, WIDTH), mode="area")
        self.time, self.light = 0, 1.0

    def frame(self, push: float = 0.0, blur: int = 1) -> Tensor:
        """The next frame [3, H, W] in 0..1. A real camera cannot be thrown: push and blur are a generated scene's."""
        last = max(len(self.frames) - 1, 1)
        here = int(there_and_back(self.time, last))
        self.time += 1
        return (self.frames[min(here, len(self.frames) - 1)] * self.light).clamp(0, 1)


def clip(
    kinds: list[str],
    seed: int,
    length: int = 40,
    calm: float = 1.0,
    noise: float = 0.02,
    takes: Sequence[Tensor] = (),
) -> Clip:
    """A shot, then for every kind what happens next, `length` frames between.

    hard, fade (through black) and dissolve begin a new scene. flash (bright frames), blink (black frames), whip (the
    camera is thrown aside) and lights (the light changes) happen inside one. takes: real shots instead of scenes.
    """
    random = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    def begin(number: int) -> Scene | Take:
        return Take(takes[number % len(takes)]) if takes else Scene(seed * 1000 + number, calm, noise)

    scene = begin(0)
    frames = [scene.frame() for _ in range(length)]
    cuts: list[int] = []
    spans: dict[int, tuple[int, int]] = {}
    events: list[tuple[int, str]] = []
    for number, kind in enumerate(kinds, 1):
        new = begin(number)
        here = len(frames)
        events.append((here, kind))
        if kind == "hard":
            scene = new
            cuts.append(here)
        elif kind == "fade":
            out, black = pick(6, 14), pick(2, 10)
            frames += [scene.frame() * (1 - (i + 1) / (out + 1)) for i in range(out)]
            frames += [torch.zeros(3, HEIGHT, WIDTH) for _ in range(black)]
            scene = new
            frames += [scene.frame() * (i + 1) / (out + 1) for i in range(out)]
            cuts.append(here + out + black // 2)
            spans[cuts[-1]] = (here + out // 2, here + out + black + out // 2)
        elif kind == "dissolve":
            long = pick(10, 24)
            mix = [(i + 1) / (long + 1) for i in range(long)]
            frames += [scene.frame() * (1 - m) + new.frame() * m for m in mix]
            scene = new
            cuts.append(here + long // 2)
            spans[cuts[-1]] = (here, here + long)
        elif kind == "flash":
            gain = [(1.0, 0.9), (0.8,), (0.6, 1.0, 0.7, 0.4, 0.2)][pick(0, 2)]
            frames += [(scene.frame() * (1 - g) + g).clamp(0, 1) for g in gain]
        elif kind == "blink":
            frames += [scene.frame() * 0 for _ in range(pick(1, 3))]
        elif kind == "whip":
            long = pick(6, 10)
            speed = [torch.sin(torch.tensor(3.14159 * (i + 0.5) / long)).item() for i in range(long)]
            far = WIDTH * (0.8 + 0.8 * pick(0, 10) / 10) * 3.14159 / 2 / long
            frames += [scene.frame(push=s * far, blur=max(1, int(s * far / 2))) for s in speed]
        elif kind == "lights":
            scene.light *= 0.6 if scene.light >= 1 else 1.4
        frames += [scene.frame() for _ in range(length)]
    return Clip((torch.stack(frames).movedim(1, -1) * 255).round().to(torch.uint8), tuple(cuts), spans, tuple(events))


def mixed(seed: int, kinds: Sequence[str] = KINDS, times: int = 3, length: int = 30, **more) -> Clip:
    """Every kind so many times, in an order of its own."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(kinds) * times, generator=random).tolist()
    return clip([kinds[i % len(kinds)] for i in order], seed, length, **more)
