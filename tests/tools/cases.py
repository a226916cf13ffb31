"""Random layouts for property tests: ragged tiles, one-token chunks, one shot, text and references around the video."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from moc.chunks.layout import Span, TokenLayout
from moc.config import RoutingConfig


class OnGpu(torch.Tensor):
    """A CPU tensor that says it lives on a CUDA device."""

    @property
    def device(self):
        return torch.device("cuda")


@st.composite
def layouts(draw):
    grid = draw(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5)))
    before, after, reference = draw(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4)))
    video = before + reference
    stop = video + grid[0] * grid[1] * grid[2]
    spans = [Span("text", 0, before)] if before else []
    spans += [Span("reference", before, video)] if reference else []
    spans += [Span("text", stop, stop + after)] if after else []
    shift = draw(st.integers(0, 2))  # a context window that starts later, or wraps around
    frames = tuple((f + shift) % grid[0] for f in range(grid[0])) if shift else None
    return TokenLayout(stop + after, grid, video, tuple(spans), frames)


def shot_starts(frames: int):
    return st.sets(st.integers(1, max(frames - 1, 1)), max_size=3).map(
        lambda cuts: (0, *sorted(c for c in cuts if c < frames))
    )


routings = st.builds(
    RoutingConfig.of,
    top_k=st.integers(0, 40),
    tile=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    own=st.sampled_from(["shot", "frame", "chunk"]),
    window=st.integers(0, 2),
    causal=st.booleans(),
    descriptor=st.sampled_from(["mean", "minmax", "mean+max+min"]),
    tail=st.sampled_from(["none", "pooled"]),
    static=st.sampled_from(["none", "first frame", "first tokens"]),
    static_tokens=st.integers(1, 6),
    references=st.sampled_from(["routed", "linked"]),
    shots_kept=st.none() | st.integers(1, 3),
    lists=st.sampled_from(["token", "union"]),
    rule=st.sampled_from(["top-k", "top-p", "threshold", "top-k or top-p"]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 1.0]),
    beta=st.sampled_from([-0.9, 0.3, 0.7, 3.0]),
    head_density=st.just(()) | st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)),
    precision=st.sampled_from(["auto", "8 bits"]),
)


def tiles_of(table) -> list[list[int]]:
    """Tokens of every query tile."""
    return [table.order[start:stop].tolist() for start, stop in table.query_tiles()]


def qkv(layout: TokenLayout, *, batch=2, heads=2, dim=8, dtype=torch.float64, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, heads, layout.length, dim)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad) for _ in range(3)
    ]
