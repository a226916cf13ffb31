"""What `benchmarks.scale` runs: films, rules, and a block of the 14B's shapes with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, scaled_dot_product_attention

from moc.config import PRESETS, RoutingConfig


@dataclass(frozen=True)
class Film:
    grid: tuple[int, int, int]
    shots: int

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def starts(self) -> tuple[int, ...]:
        return tuple(self.grid[0] * s // self.shots for s in range(self.shots))


@dataclass(frozen=True)
class Shape:
    heads: int = 40
    dim: int = 128
    hidden: int = 13824
    text: int = 512
    blocks: int = 40

    @property
    def width(self) -> int:
        return self.heads * self.dim


FILMS = {
    "720p": Film((21, 45, 80), 1),
    "8shots": Film((104, 30, 52), 8),
    "400k": Film((256, 30, 52), 16),
}
DRY = {"720p": Film((5, 4, 6), 1), "8shots": Film((8, 3, 3), 4), "400k": Film((9, 3, 5), 3)}  # tiny ones instead
RULES: dict[str, RoutingConfig | None] = {
    "dense": None,
    "frames": RoutingConfig.of(top_k=3, own="chunk"),
    "paper": RoutingConfig.of(top_k=5, own="shot", causal=True),
    "large pictures": PRESETS["large pictures"].routing,
    "recommended": PRESETS["recommended"].routing,
}


class Block(nn.Module):
    """A Wan-like block: self-attention, text, feed-forward. The caller brings self-attention."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        make = partial(nn.Linear, device=device, dtype=dtype)
        width = shape.width
        self.shape = shape
        self.qkv, self.out = make(width, 3 * width), make(width, width)
        self.to_q, self.to_kv, self.text_out = make(width, width), make(width, 2 * width), make(width, width)
        self.up, self.down = make(width, shape.hidden), make(shape.hidden, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width, device=device, dtype=dtype) for _ in range(3))

    def heads_of(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.shape.heads, self.shape.dim))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self.heads_of(part) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        return q, k, v

    def forward(self, x: Tensor, text: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        x = x + self.out(attend(*self.project(x)).flatten(2))
        q = self.heads_of(self.to_q(self.norms[1](x))).transpose(1, 2)
        k, v = (self.heads_of(part).transpose(1, 2) for part in self.to_kv(text).chunk(2, -1))
        x = x + self.text_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.norms[2](x)), approximate="tanh"))


def dense(q: Tensor, k: Tensor, v: Tensor, heads: slice) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION if q.is_cuda else SDPBackend.MATH):  # the fastest in torch on Hopper
        return scaled_dot_product_attention(q, k, v)
