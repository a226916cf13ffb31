"""How the video autoencoder of every model family packs frames of the film into latent frames."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from ..errors import MoCError


@dataclass(frozen=True)
class TimeRule:
    """Latent frame l holds pattern[l] frames of the film; behind its end the pattern goes on with its `repeat` part.

    first    frames that each of the first latent frames holds
    repeat   frames that each of the following holds, again and again
    lengths  (step, rest): films of step * n + rest frames fill their latent frames exactly, as the family's nodes
             make them
    """

    first: tuple[int, ...] = (1,)
    repeat: tuple[int, ...] = (4,)
    lengths: tuple[int, int] = (4, 1)

    def __post_init__(self) -> None:
        if not self.repeat or min(self.first + self.repeat) < 1:
            raise MoCError("a latent frame holds at least 1 frame of the video.")

    def frames(self, latents: int) -> int:
        """Frames of the film that the first `latents` latent frames hold."""
        head = self.first[:latents]
        rounds, rest = divmod(max(latents - len(self.first), 0), len(self.repeat))
        return sum(head) + rounds * sum(self.repeat) + sum(self.repeat[:rest])

    def span(self, latent: int) -> tuple[int, int]:
        """[first, one behind the last) frame of the film that a latent frame holds."""
        return self.frames(latent), self.frames(latent + 1)

    def latent_of(self, frame: int) -> int:
        """The latent frame that holds a frame of the film."""
        if frame < 0:
            raise MoCError(f"there is no frame {frame}: frames count from 0.")
        ends = list(accumulate(self.first))
        rounds = 0
        if not ends or frame >= ends[-1]:
            begin = ends[-1] if ends else 0
            rounds, frame = divmod(frame - begin, sum(self.repeat))
            rounds = len(self.first) + rounds * len(self.repeat)
            ends = list(accumulate(self.repeat))
        return rounds + next(i for i, end in enumerate(ends) if frame < end)

    def latents(self, frames: int) -> int:
        """Latent frames that a film of so many frames fills; frames that do not fill one are left over."""
        if frames <= 0:
            return 0
        last = self.latent_of(frames - 1)
        return last + (self.frames(last + 1) == frames)

    def nearest(self, cut: int) -> tuple[int, int]:
        """(latent frame, its first frame of the film) of the border nearest to a cut; ties move back, never to 0."""
        latent = max(self.latent_of(cut), 1)
        start, stop = self.span(latent)
        return (latent, start) if cut - start <= stop - cut else (latent + 1, stop)

    def whole(self, frames: int) -> tuple[int, int]:
        """The nearest lengths up and down that leave no frame over: (at most `frames`, at least `frames`)."""
        step, rest = self.lengths
        below = max((frames - rest) // step, 0) * step + rest
        return below, below if below >= frames else below + step

    @property
    def name(self) -> str:
        """The rule as it is written: 4n+1."""
        step, rest = self.lengths
        return f"{step}n+{rest}" if rest else f"{step}n"


def causal(stride: int) -> TimeRule:
    """The first frame stands alone, then every `stride` frames share a latent frame."""
    return TimeRule((1,), (stride,), (stride, 1 % stride))


EVERY_FRAME = causal(1)
FAMILIES: dict[str, TimeRule] = {
    "Wan": causal(4),
    "HunyuanVideo": causal(4),
    "LTX-Video": causal(8),
    "CogVideoX": causal(4),
    "Mochi": causal(6),
    "Cosmos 1": causal(8),
    "Cosmos-Predict2": causal(4),
    "Kandinsky 5": causal(4),
    "MiniMax H3": TimeRule((), (1, 4, 4, 4, 4), (17, 5)),  # its autoencoder starts anew every 17 frames
    "SeedVR2": causal(4),
    "every frame": EVERY_FRAME,  # AnimateDiff, Stable Video Diffusion: a latent frame for each frame
}

AnyRule = TimeRule | int | tuple[int, ...] | str


def rule_of(rule: AnyRule) -> TimeRule:
    """A family's name, a stride (4 for 4n+1) or a pattern that repeats -> TimeRule."""
    if isinstance(rule, TimeRule):
        return rule
    if isinstance(rule, str):
        if rule not in FAMILIES:
            raise MoCError(f"unknown model family {rule!r}; choose one of: {', '.join(FAMILIES)}.")
        return FAMILIES[rule]
    if isinstance(rule, int):
        return causal(rule)
    return TimeRule((), tuple(rule), (sum(rule), 0))
