"""What the GPU engine is measured on. Data, no code but the making of inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from moc.chunks import ChunkTable, build_table
from moc.config import RoutingConfig
from moc.layout import Span, TokenLayout


@dataclass(frozen=True)
class Case:
    """One shape. least, aim: wanted ratio to dense cuDNN. coherent: neighbouring queries ask for like things.

    On coherent inputs 64 rows of small tiles choose 8.5 times the chunks that one does. Rows of trained models choose
    more alike (3.8 to 6.6 times in the demo model, at smaller sizes), so this leans to the hard side. On random inputs,
    which no model has, it is 23 times.
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
    coherent: bool = False

    def table(self) -> ChunkTable:
        frames = self.grid[0]
        tokens = self.grid[0] * self.grid[1] * self.grid[2]
        spans = (Span("text", 0, self.text),) if self.text else ()
        layout = TokenLayout(tokens + self.text, self.grid, self.text, spans)
        return build_table(layout, tuple(frames * s // self.shots for s in range(self.shots)), self.routing)

    def inputs(self, device: str = "cuda", dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> tuple[Tensor, ...]:
        """q, k, v [1, H, N, D] as models hand them over: [1, N, H, D] in memory."""
        torch.manual_seed(seed)
        n = self.table().length
        out = []
        for which in "qkv":
            x = torch.randn(1, n, self.heads, self.dim, device=device, dtype=dtype)
            if self.coherent and which != "v":
                for head in range(self.heads):  # a smooth field, one cell about 2 x 10 x 10 tokens, and a little noise
                    size = [max(2, s // step) for s, step in zip(self.grid, (2, 10, 10), strict=True)]
                    field = interpolate(
                        torch.randn(1, self.dim, *size, device=device), self.grid, mode="trilinear", align_corners=True
                    )
                    field = field[0].flatten(1).T * 1.6
                    x[0, n - len(field) :, head] = 0.4 * x[0, n - len(field) :, head] + field.to(dtype)
            out.append(x.transpose(1, 2))
        return tuple(out)


SMALL = RoutingConfig(top_k=32, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled")
UNION = replace(SMALL, lists="union")
FINE = RoutingConfig(top_k=16, chunk_tokens=450, own="chunk")

CASES = (
    Case(
        "multi-shot, paper",
        (120, 30, 50),
        24,
        RoutingConfig(top_k=5, own="shot", causal=True),
        5.2,
        6.0,
        shots=8,
        text=512,
    ),
    Case("single-shot 720p", (21, 45, 80), 40, RoutingConfig(top_k=3, own="chunk"), 3.9, 4.7),
    Case("fine tiles 720p", (21, 45, 80), 40, FINE, 4.5, 6.5),
    Case("single-shot 480p", (21, 30, 52), 40, RoutingConfig(top_k=3, own="chunk"), 3.2, 4.2),
    Case("small tiles, coherent", (120, 30, 50), 24, SMALL, 8.0, 15.0, shots=8, coherent=True),
    Case("small tiles, coherent, union", (120, 30, 50), 24, UNION, 10.0, 20.0, shots=8, coherent=True),
    Case("small tiles, random", (120, 30, 50), 24, SMALL, 8.0, 15.0, shots=8),
    Case("d=64", (31, 34, 60), 32, RoutingConfig(top_k=4, own="chunk"), 3.0, 4.0, dim=64),
)
