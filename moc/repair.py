"""A routed result corrected by what full attention gives on a few rows (SparsePR, arXiv 2608.18484)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .autocast import without_autocast
from .chunks.table import ChunkTable
from .config import RoutingConfig
from .probe.sampled_error import spread
from .routing.descriptors import wide

RIDGE = 0.1
SMALL = 1e-5  # of a channel's spread


def repaired(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float
) -> Tensor:
    """out, q, k, v [B, H, N, D] in the model's order -> out with every video row corrected.

    On rows spread evenly over the video, what full attention adds to `out` is fitted as an affine function of it by
    ridge regression, per head, in as many directions as `repair_rank` says: those in which most is missing. The fit has
    no gradient; the rows themselves get the exact result.
    """
    repair, layout = routing.repair, table.layout
    video = slice(layout.video_start, layout.video_stop)
    rows = (video.start + spread(video.stop - video.start, repair.repair_rows)).to(q.device)
    with without_autocast(q.device):
        exact = scaled_dot_product_attention(q[:, :, rows], k, v, scale=scale)
        result = wide(out).clone()
        add = correction(result[:, :, rows].detach(), wide(exact).detach(), result[:, :, video], repair.repair_rank)
        result[:, :, video] += add
        result[:, :, rows] = wide(exact)
    return result.to(out.dtype)


def correction(mine: Tensor, exact: Tensor, asked: Tensor, rank: int) -> Tensor:
    """mine, exact [..., M, D], of the same rows -> what to add to asked [..., R, D]."""
    missing = exact - mine
    middle, centre = mine.mean(-2, keepdim=True), missing.mean(-2, keepdim=True)
    spread = (mine - middle).square().mean(-2, keepdim=True).sqrt().clamp(min=SMALL)
    x, y = (mine - middle) / spread, missing - centre
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    fit = torch.linalg.solve(x.mT @ x + RIDGE * identity, x.mT @ y)
    most = torch.linalg.eigh(y.mT @ y).eigenvectors[..., -rank:]
    return (asked - middle) / spread @ (fit @ most) @ most.mT + centre
