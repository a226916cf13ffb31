"""Mixture of Contexts as one masked dense attention: no faster than dense, but quick on a GPU whatever the rule.

The routing itself is the `moc` library's; only the sums are done the plain way, so that many rules can be compared
and trained with. ``check`` compares with the library's own result.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moc.attention import moc_attention  # noqa: E402
from moc.chunks.build import build_chunks  # noqa: E402
from moc.chunks.layout import TokenLayout  # noqa: E402
from moc.config import RoutingConfig  # noqa: E402
from moc.routing.candidates import candidates  # noqa: E402
from moc.routing.rules import select  # noqa: E402
from moc.routing.scores import chunk_means, describe, scores


class Masked:
    """attend(q, k, v, block) for one rule.

    shared   (how, side): one list for all rows of a side x side query tile instead of one a row; how is "mean query"
             (by the tile's mean query) or "union" (of what its rows choose)
    """

    def __init__(self, routing, grid, starts, shared=None):
        length = grid[0] * grid[1] * grid[2]
        self.routing, self.shared = routing, shared
        self.table = build_chunks(TokenLayout(length, grid), starts, routing)
        self.kept, self.calls = 0.0, 0
        self.measure = False
        if shared:
            side = shared[1]
            t, h, w = (torch.arange(n) for n in grid)
            tile = (t[:, None, None] * 1000 + h[:, None] // side) * 1000 + w // side
            self.tile = torch.unique(tile.flatten()[torch.from_numpy(self.table.order)], return_inverse=True)[1]

    def choose(self, q, k):
        """(chosen, mandatory, candidate) chunks of every row, in sorted order."""
        table, routing = self.table, self.routing
        mandatory, candidate = candidates(table, routing, slice(0, table.length), q.device)
        if self.shared:
            tile = self.tile.to(q.device)
            member = F.one_hot(tile).to(torch.float32).T  # (tiles, rows)
        if self.shared and self.shared[0] == "mean query":
            q = ((member @ q.float()) / member.sum(1, keepdim=True))[:, :, tile]
        chosen = select(scores(q, describe(k, table, routing.score.descriptor)), candidate, table.top_k(routing))
        if self.shared and self.shared[0] == "union":
            chosen = ((member @ chosen.float()) > 0)[:, :, tile]
        return chosen, mandatory, candidate

    def __call__(self, q, k, v, block=0):
        table = self.table
        t = table.tensors(q.device)
        if not table.identity:
            q, k, v = (x.index_select(-2, t.order) for x in (q, k, v))
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            chosen, mandatory, candidate = self.choose(q, k)
            seen = (chosen | mandatory)[..., t.chunk_of]
            if self.measure:
                self.kept += seen.float().mean().item()
                self.calls += 1
        if self.routing.tail == "pooled":
            with torch.no_grad():
                low = torch.finfo(q.dtype).min
                bias = torch.where(seen, 0.0, low).to(q.dtype)
                tail = torch.where(candidate & ~chosen, t.lengths.float().log(), low).to(q.dtype)
                pad = -(bias.shape[-1] + tail.shape[-1]) % 8
                bias = torch.cat((bias, tail, tail.new_full((*tail.shape[:-1], pad), low)), -1)
            k, v = (torch.cat((x, F.pad(chunk_means(x, table).to(x.dtype), (0, 0, 0, pad))), 2) for x in (k, v))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return out if table.identity else out.index_select(-2, t.inverse)


class Library:
    """attend(q, k, v, block) through the library itself."""

    def __init__(self, routing, grid, starts, training=False):
        self.routing, self.training = routing, training
        self.table = build_chunks(TokenLayout(grid[0] * grid[1] * grid[2], grid), starts, routing)

    def __call__(self, q, k, v, block=0):
        with torch.autocast(q.device.type, enabled=False):
            return moc_attention(q, k, v, self.table, self.routing, backend="eager", training=self.training)


def check(device="cpu", grid=(6, 4, 4), starts=(0, 2, 4), dim=32):
    """Largest relative difference between Masked and the library, over a few rules."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, grid[0] * grid[1] * grid[2], dim, generator=generator).to(device) for _ in range(3))
    worst = 0.0
    for routing in (
        RoutingConfig.of(top_k=2),
        RoutingConfig.of(top_k=2, causal=True),
        RoutingConfig.of(top_k=0, static="first frame"),
        RoutingConfig.of(top_k=5, tile=(1, 2, 2), own="frame", descriptor="minmax", tail="pooled"),
        RoutingConfig.of(top_k=5, tile=(1, 2, 2), own="frame", window=1),
    ):
        got, want = (kind(routing, grid, starts)(q, k, v) for kind in (Masked, Library))
        worst = max(worst, ((got - want).abs().max() / want.abs().max()).item())
    return worst


if __name__ == "__main__":
    print("difference from the library:", check())
