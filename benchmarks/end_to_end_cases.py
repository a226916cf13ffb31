"""What `benchmarks/end_to_end.py` measures: films, and rules for each. Data."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.attention import SDPBackend

from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.chunks.table import ChunkTable
from moc.config import PRESETS, RoutingConfig


@dataclass(frozen=True)
class Film:
    """latent (T, H, W) before patches of 1x2x2; aim: wanted ratio (paper's settings, fine tiles)."""

    title: str
    latent: tuple[int, int, int]
    shots: int
    aim: tuple[float, float]

    @property
    def grid(self) -> tuple[int, int, int]:
        t, h, w = self.latent
        return t, h // 2, w // 2

    @property
    def tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w

    @property
    def starts(self) -> tuple[int, ...]:
        return tuple(self.latent[0] * s // self.shots for s in range(self.shots))

    def table(self, routing: RoutingConfig) -> ChunkTable:
        return build_chunks(TokenLayout(self.tokens, self.grid), self.starts, routing)


@dataclass(frozen=True)
class Rule:
    """routing None: dense, by `backend` (None: what ComfyUI takes by itself).

    full: a step with all blocks too. white: independent tokens. trace: what the node's trace keeps.
    """

    name: str
    routing: RoutingConfig | None = None
    backend: SDPBackend | None = None
    full: bool = True
    white: bool = False
    trace: str = "off"


DENSE = "dense, cuDNN"  # what gains are relative to
SMALL = RoutingConfig.of(top_k=32, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled")
MEDIUM = PRESETS["large pictures"].routing
FRAMES = RoutingConfig.of(top_k=3, own="chunk")
OF_450 = RoutingConfig.of(top_k=16, chunk_tokens=450, own="chunk")
SHOT = RoutingConfig.of(top_k=5, own="shot", causal=True)
UNION = SMALL.changed(lists="union")
CUDNN = Rule(DENSE, backend=SDPBackend.CUDNN_ATTENTION)
DEFAULT = Rule("dense, ComfyUI's default", full=False)
RECOMMENDED = Rule("preset: recommended", PRESETS["recommended"].routing)
FAST = Rule("preset: fast", PRESETS["fast"].routing)

FILMS = {
    "720p": Film("1280x720, 81 frames", (21, 90, 160), 1, (2.2, 2.5)),
    "8shots": Film("8 shots, 832x480, 413 frames", (104, 60, 104), 8, (3.2, 4.5)),
}
TINY = {
    "720p": Film("tiny", (6, 24, 32), 1, (1, 1)),
    "8shots": Film("tiny, 8 shots", (16, 24, 32), 8, (1, 1)),
}
# What takes longest comes last: it is the first to go where time is short.
RULES = {
    "720p": (
        Rule("paper: own frame + 3 frames", FRAMES),
        Rule("fine: own chunk + 16 of 450 tokens", OF_450),
        Rule("fine: own frame + 8 of 250 tokens, min-max, tail", MEDIUM),
        RECOMMENDED,
        FAST,
        CUDNN,
        Rule("the paper's, with trace", FRAMES, trace="routing"),
        Rule("fine: own frame + 32 of 8x8, min-max, tail", SMALL, full=False),
        Rule("fine: the same, union lists", UNION, full=False),
        DEFAULT,
    ),
    "8shots": (
        Rule("paper: own shot + 5 frames, causal", SHOT),
        Rule("fine: own frame + 32 of 8x8, min-max, tail", SMALL),
        Rule("fine: the same, union lists", UNION),
        Rule("fine: own chunk + 16 of 450 tokens", OF_450),
        Rule("fine: own frame + 8 of 250 tokens, min-max, tail", MEDIUM),
        Rule("fine: 8x8 union lists, independent tokens", UNION, full=False, white=True),
        RECOMMENDED,
        FAST,
        CUDNN,
        DEFAULT,
    ),
}  # fmt: skip
