"""Windows drawn anew: at every step other shots share a window, so that what one shot knows reaches all of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

from .shots import Span, cut

TRIES = 48  # drawings to take the best of
FADE = 0.9  # how much of a meeting counts one step later


class Drawing:
    """Shots in windows, step by step, the same for the same seed.

    Of many random drawings a step takes the one whose pairs have met the least, so that every pair meets as soon as
    possible: like the rounds of a tournament, but with any number of places and shots of any length. Shots longer
    than a window are in no drawing: they have windows of their own in every step.
    """

    def __init__(self, shots: Sequence[Span], length: int, overlap: int, seed: str) -> None:
        """length, overlap: latent frames of a window, and that two windows of one long shot share."""
        self.seed, self.length = seed, length
        self.drawn = [shot for shot in shots if shot[1] - shot[0] <= length]
        self.alone = [window for shot in shots if shot[1] - shot[0] > length for window in cut(shot, length, overlap)]
        self.sizes = [stop - first for first, stop in self.drawn]
        self.met = [[0.0] * len(self.drawn) for _ in self.drawn]
        self.steps: list[list[list[int]]] = []

    @property
    def mixes(self) -> bool:
        """Whether any two shots fit into one window."""
        return sum(sorted(self.sizes)[:2]) <= self.length and len(self.sizes) > 1

    def windows(self, step: int) -> list[list[int]]:
        """Latent frames of every window of a step; those of a window in the order of the film."""
        together = [[f for i in group for f in range(*self.drawn[i])] for group in self.groups(step)]
        return sorted(together + self.alone)

    def groups(self, step: int) -> list[list[int]]:
        """Numbers (in `drawn`) of the shots in every window of a step. Steps depend on those before them."""
        while len(self.steps) <= step:
            self.steps.append(self._next(random.Random(f"{self.seed}/{len(self.steps)}")))
        return self.steps[step]

    def _next(self, rng: random.Random) -> list[list[int]]:
        count = -(-sum(self.sizes) // self.length)
        found: list[list[list[int]]] = []
        while self.sizes and not found:  # shots of unequal lengths may need more windows than their sum
            found = [drawing for _ in range(TRIES) if (drawing := self._draw(rng, count)) is not None]
            count += 1
        best = min(found, key=self._familiar, default=[])
        for row in self.met:
            row[:] = [FADE * met for met in row]
        for a, b in (pair for group in best for pair in combinations(group, 2)):
            self.met[a][b] += 1
            self.met[b][a] += 1
        return best

    def _draw(self, rng: random.Random, count: int) -> list[list[int]] | None:
        """Long shots first, each to the window that it knows least; None where they do not fit into `count` windows."""
        groups: list[list[int]] = [[] for _ in range(count)]
        room = [self.length] * count
        for shot in sorted(rng.sample(range(len(self.sizes)), len(self.sizes)), key=lambda i: -self.sizes[i]):
            fits = [i for i in range(count) if room[i] >= self.sizes[shot]]
            if not fits:
                return None
            to = min(fits, key=lambda i: (sum(self.met[shot][other] for other in groups[i]), -room[i]))
            groups[to].append(shot)
            room[to] -= self.sizes[shot]
        return [sorted(group) for group in groups if group]

    def _familiar(self, groups: list[list[int]]) -> float:
        return sum(self.met[a][b] ** 2 + 2 * self.met[a][b] for group in groups for a, b in combinations(group, 2))
