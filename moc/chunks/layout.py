"""Where the tokens of one forward pass stand: the video grid and everything around it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MoCError

KINDS = ("text", "reference", "audio", "other")


@dataclass(frozen=True)
class Span:
    """Tokens [start, stop) that are not video. Every query sees "text" and "audio"; the others may be routed."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class TokenLayout:
    """One attention sequence of `length` tokens.

    grid         (T, H, W): video tokens per axis after patchifying, t-major, H*W tokens a latent frame
    video_start  position of the first video token
    spans        every other token, in order, none missing and none twice
    frame_ids    absolute latent frame of each grid frame [T]; None means 0..T-1 (differs in context windows)
    """

    length: int
    grid: tuple[int, int, int]
    video_start: int = 0
    spans: tuple[Span, ...] = ()
    frame_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        t, h, w = self.grid
        if min(self.grid) < 1:
            raise MoCError(f"the video grid {t}x{h}x{w} is empty.")
        if self.frame_ids is not None and len(self.frame_ids) != t:
            raise MoCError(f"{len(self.frame_ids)} frame numbers for {t} latent frames.")
        pieces = sorted([(s.start, s.stop) for s in self.spans] + [(self.video_start, self.video_stop)])
        joined = [0, *(edge for piece in pieces for edge in piece), self.length]
        if any(joined[i] != joined[i + 1] for i in range(0, len(joined), 2)) or any(a > b for a, b in pieces):
            raise MoCError(f"the token spans {pieces} do not tile a sequence of {self.length} tokens.")
        for span in self.spans:
            if span.kind not in KINDS:
                raise MoCError(f"unknown kind of token {span.kind!r}; known: {', '.join(KINDS)}.")

    @property
    def frame_tokens(self) -> int:
        return self.grid[1] * self.grid[2]

    @property
    def video_stop(self) -> int:
        t, h, w = self.grid
        return self.video_start + t * h * w

    @property
    def frames(self) -> tuple[int, ...]:
        """Absolute latent frame of each grid frame."""
        return self.frame_ids if self.frame_ids is not None else tuple(range(self.grid[0]))
