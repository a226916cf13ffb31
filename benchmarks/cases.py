"""What the GPU engine is measured on. Data, no code but the making of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.chunks.table import ChunkTable
from moc.config import PRESETS, RoutingConfig

CELL, CHANNELS, STRENGTH, NOISE = (3, 15, 16), 16, 2.7, 0.45  # of "trained" inputs


@dataclass(frozen=True)
class Case:
    """One shape. least, aim: wanted ratio to dense cuDNN. coherent: how much neighbouring queries ask for like things.

    "trained"  as in the demo model: smooth fields of 16 channels that q and k share, in random directions of the head,
               and noise in all channels. The constants were set so that at the demo's size (18 x 16 x 16) these inputs
               look like the captures (docs/performance.md): 8x8 tiles, 64 rows choose 2.4 times what one does, captured
               2.5; a neighbour makes .88 of the choices too, captured .85; how little neighbouring tokens differ
               (1 - correlation .20, captured .21 to .28) and how far logits spread (3.3, captured 2.1 to 3.0). On the
               small tiles below, whose size was never captured, it is 2.6 to 4.0 times, 3.4 in the mean of four heads.
               A film has many scales where this has one, so routing loses less here than on captures (a third of the
               error with 8x8 tiles): errors on these inputs compare engines at the same kept share, not rules.
    "hard"     fields of their own for q and k, in all channels, with more noise: 64 rows of small tiles choose 8.5
               times what one does, more than under any rule of the demo model.
    ""         independent tokens, which no model has: 23 times.
    """

    name: str
    grid: tuple[int, int, int]
    heads: int
    routing: RoutingConfig
    least: float
    aim: float
    shots: int = 1
    text: int = 0
    dim: int = 128
    coherent: str = ""

    def table(self) -> ChunkTable:
        frames = self.grid[0]
        tokens = self.grid[0] * self.grid[1] * self.grid[2]
        spans = (Span("text", 0, self.text),) if self.text else ()
        layout = TokenLayout(tokens + self.text, self.grid, self.text, spans)
        return build_chunks(layout, tuple(frames * s // self.shots for s in range(self.shots)), self.routing)

    def inputs(
        self, device: str = "cuda", dtype: torch.dtype = torch.bfloat16, seed: int = 0, coherent: str | None = None
    ) -> tuple[Tensor, ...]:
        """q, k, v [1, H, N, D] as models hand them over: [1, N, H, D] in memory. coherent: other than the case's."""
        coherent = self.coherent if coherent is None else coherent
        torch.manual_seed(seed)
        n = self.table().length
        video = slice(n - self.grid[0] * self.grid[1] * self.grid[2], n)
        out = [torch.randn(1, n, self.heads, self.dim, device=device, dtype=dtype) for _ in "qkv"]
        for head in range(self.heads if coherent else 0):
            q, k, v = (x[0, video, head] for x in out)
            if coherent == "hard":
                for x in (q, k):
                    x.copy_(0.4 * x + 1.6 * smooth(self.grid, (2, 10, 10), self.dim, device))
            else:
                field = smooth(self.grid, CELL, CHANNELS, device)
                field /= field.std()
                turn = torch.linalg.qr(torch.randn(self.dim, self.dim))[0][:CHANNELS].to(device)
                shared = field @ turn * (STRENGTH * (self.dim / 128) ** 0.25)  # logits of like size for any head dim
                for x in (q, k):
                    x.copy_(NOISE * x + shared)
                v += field @ torch.randn(CHANNELS, self.dim, device=device) * CHANNELS**-0.5
        return tuple(x.transpose(1, 2) for x in out)


def asked_for(name: str, parts: str) -> bool:
    """Whether a name holds one of some parts, which commas separate; without any all names do."""
    wanted = [part for part in parts.split(",") if part]
    return not wanted or any(part in name for part in wanted)


def smooth(grid: tuple[int, int, int], cell: tuple[int, int, int], channels: int, device: str) -> Tensor:
    """A field [N, channels]: drawn at one point for every `cell` of tokens, edges included, and linear between."""
    size = [max(2, s // step) for s, step in zip(grid, cell, strict=True)]
    points = torch.randn(1, channels, *size, device=device)
    return interpolate(points, grid, mode="trilinear", align_corners=True)[0].flatten(1).T


SMALL = RoutingConfig.of(top_k=32, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled")
MEDIUM = PRESETS["large pictures"].routing
UNION = SMALL.changed(lists="union")
FINE = RoutingConfig.of(top_k=16, chunk_tokens=450, own="chunk")

CASES = (
    Case(
        "multi-shot, paper",
        (120, 30, 50),
        24,
        RoutingConfig.of(top_k=5, own="shot", causal=True),
        5.2,
        6.0,
        shots=8,
        text=512,
    ),
    Case("single-shot 720p", (21, 45, 80), 40, RoutingConfig.of(top_k=3, own="chunk"), 3.9, 4.7),
    Case("fine tiles 720p", (21, 45, 80), 40, FINE, 4.5, 6.5),
    Case("single-shot 480p", (21, 30, 52), 40, RoutingConfig.of(top_k=3, own="chunk"), 3.2, 4.2),
    Case("medium tiles, 720p", (21, 45, 80), 40, MEDIUM, 0, 0, coherent="trained"),
    Case("medium tiles, 8 shots", (120, 30, 50), 24, MEDIUM, 0, 0, shots=8, coherent="trained"),
    Case("small tiles, trained-like", (120, 30, 50), 24, SMALL, 8.0, 15.0, shots=8, coherent="trained"),
    Case("small tiles, trained-like, union", (120, 30, 50), 24, UNION, 10.0, 20.0, shots=8, coherent="trained"),
    Case("small tiles, coherent", (120, 30, 50), 24, SMALL, 8.0, 15.0, shots=8, coherent="hard"),
    Case("small tiles, coherent, union", (120, 30, 50), 24, UNION, 10.0, 20.0, shots=8, coherent="hard"),
    Case("small tiles, random", (120, 30, 50), 24, SMALL, 8.0, 15.0, shots=8),
    Case("recommended, 720p", (21, 45, 80), 40, PRESETS["recommended"].routing, 0, 0, coherent="trained"),
    Case("recommended, 8 shots", (120, 30, 50), 24, PRESETS["recommended"].routing, 0, 0, shots=8, coherent="trained"),
    Case("top-p, 720p", (21, 45, 80), 40, RoutingConfig.of(rule="top-p", top_p=0.13, own="chunk"), 0, 0),
    Case(
        "threshold, medium tiles",
        (21, 45, 80),
        40,
        MEDIUM.changed(rule="threshold", beta=2.0),
        0,
        0,
        coherent="trained",
    ),
    Case("d=64", (31, 34, 60), 32, RoutingConfig.of(top_k=4, own="chunk"), 3.0, 4.0, dim=64),
)
