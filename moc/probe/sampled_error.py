"""What routing would cost and lose, on a few query tokens of one attention call: exact for them, for many settings.

Attention over any set of chunks is a softmax over chunks (log-sum-exp of each) of what every chunk alone would give.
Both are computed once; every setting then is a mask over chunks. B batch, H heads, N tokens, R sampled rows, C chunks,
O settings, D head dim. Everything is in sorted order (`ChunkTable`), in float32, or float64 for float64 inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..chunks.table import NO_SHOT, ChunkTable
from ..config import RoutingConfig
from ..routing.candidates import candidates, kept_shots
from ..routing.descriptors import wide
from ..routing.scores import chunk_means, describe, per_chunk
from ..routing.selection import Selection

BLOCK_ELEMENTS = 2**25  # of logits or of chunk outputs held at a time
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class SampledError:
    """Sums over the batch and the sampled rows, so that looks at the same block can be added.

    error   [O, H]  squared distance of routed from full attention
    size    [H]     squared length of full attention's output
    kept    [O, H]  keys that are read
    mass    [O, H]  share of the softmax that falls on these keys under full attention
    across  [O, H]  the same, of the keys in other shots alone
    abroad  [H]     share of the softmax that falls on other shots
    rows            sampled rows of one head, over the batch
    """

    error: Tensor
    size: Tensor
    kept: Tensor
    mass: Tensor
    across: Tensor
    abroad: Tensor
    rows: int

    def __add__(self, other: SampledError) -> SampledError:
        return self._each(lambda name: getattr(self, name) + getattr(other, name))

    def at(self, option: int) -> SampledError:
        """One setting of them."""
        part = slice(option, option + 1)
        return replace(
            self, error=self.error[part], kept=self.kept[part], mass=self.mass[part], across=self.across[part]
        )

    @staticmethod
    def joined(parts: list[SampledError]) -> SampledError:
        """Other settings on the same rows, one after the other."""

        def cat(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return replace(parts[0], error=cat("error"), kept=cat("kept"), mass=cat("mass"), across=cat("across"))

    def spread(self, heads: list[int], count: int) -> SampledError:
        """As that of some heads of so many; the others' sums are zero."""

        def wider(name: str) -> Tensor:
            part = torch.as_tensor(getattr(self, name))
            if not part.dim():
                return part
            return part.new_zeros(*part.shape[:-1], count).index_copy(-1, torch.tensor(heads, device=part.device), part)

        return replace(self._each(wider), rows=self.rows)

    def with_rows(self, rows: int) -> SampledError:
        return replace(self, rows=rows)

    def cpu(self) -> SampledError:
        return replace(self._each(lambda name: torch.as_tensor(getattr(self, name)).cpu().double()), rows=self.rows)

    def _each(self, value: Callable) -> SampledError:
        return SampledError(**{f.name: value(f.name) for f in fields(self)})


def sample_rows(table: ChunkTable, count: int) -> Tensor:
    """[R]: sorted positions of at most `count` video queries, spread evenly, none twice, always the same ones."""
    video = (table.tensors("cpu").row_frame >= 0).nonzero().flatten()
    return video[spread(len(video), count)]


def spread(total: int, count: int) -> Tensor:
    """At most `count` of the numbers below `total`, as `sample_rows` spreads them."""
    count = min(count, total)
    edge = torch.arange(count + 1) * total // max(count, 1)
    jitter = (torch.arange(count, dtype=torch.float64) * GOLDEN) % 1.0  # not always in the same column of the picture
    return edge[:-1] + (jitter * edge.diff()).long()


@torch.no_grad()
def sampled_error(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: ChunkTable,
    routings: Sequence[RoutingConfig],
    rows: Tensor,
    *,
    scale: float | None = None,
) -> SampledError:
    """q, k, v [B, H, N, D]; routings: settings that cut the sequence into the same chunks; rows [R]: `sample_rows`.

    Lists that a tile shares, training noise and repairs are left out: every row reads exactly what it chose.
    """
    routings = [r.changed(lists="token") for r in routings]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows = rows.to(q.device)
    with without_autocast(q.device):
        described = {name: describe(k, table, name) for name in dict.fromkeys(r.score.descriptor for r in routings)}
        mean_k, mean_v = chunk_means(k, table), chunk_means(v, table)
        shots = {r.candidates.shots_kept: kept_shots(q, k, table, r) for r in routings}
        selections = [
            Selection(q, k, table, r, scale, shots[r.candidates.shots_kept], described[r.score.descriptor], v)
            for r in routings
        ]
        masks = q.shape[0] * q.shape[1] * len(routings) // 8  # of all heads, a byte each
        widest = max(table.length, len(table.chunks) * max(q.shape[-1], 2 * len(routings), masks))
        step = max(1, BLOCK_ELEMENTS // widest)
        total: SampledError | None = None
        for some in rows.split(step):
            asked = q.index_select(-2, some)
            attended, skipped = [], []
            for r, selection in zip(routings, selections, strict=True):
                choice = selection.of(some)
                attended.append(candidates(table, r, some, q.device)[0] | choice.chosen)
                skipped.append((choice.candidate & ~choice.chosen) & (r.tail == "pooled"))
            part = _compare(
                asked,
                k,
                v,
                table,
                torch.stack(attended, 2),
                torch.stack(skipped, 2),
                _summary(asked, mean_k, table, scale),
                mean_v,
                some,
                scale,
            )
            total = part if total is None else total + part
    assert total is not None
    return total


def _summary(q: Tensor, mean_k: Tensor, table: ChunkTable, scale: float) -> Tensor:
    """[B, H, R, C]: logit of a chunk's summary, weighted by its length (the pooled tail)."""
    return wide(q) @ mean_k.mT * scale + table.tensors(q.device).lengths.to(mean_k.dtype).log()


def _compare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: ChunkTable,
    attended: Tensor,
    skipped: Tensor,
    summary: Tensor,
    mean_v: Tensor,
    rows: Tensor,
    scale: float,
) -> SampledError:
    """q, summary [B, H, R, D or C]; attended, skipped [B, H, O, R, C] -> how each setting does on these rows."""
    b, h, count, _ = q.shape
    t = table.tensors(q.device)
    here = t.group_shot[t.row_group[rows]]
    elsewhere = (t.chunk_shot != NO_SHOT) & (t.chunk_shot != here[:, None])  # [R, C]
    lengths = t.lengths.to(summary.dtype)
    heads = []
    for head in range(h):
        sums: list[tuple[Tensor, ...]] = []
        for sample in range(b):
            lse, output = chunk_parts(q[sample, head], k[sample, head], v[sample, head], table, scale)
            seen, pooled = attended[sample, head], skipped[sample, head]
            logits = torch.cat(
                [lse.masked_fill(~seen, -torch.inf), summary[sample, head].masked_fill(~pooled, -torch.inf)], -1
            )
            weight, tail = logits.softmax(-1).split(len(lengths), -1)  # [O, R, C]
            share = lse.softmax(-1)
            dense = torch.einsum("rc,rcd->rd", share, output)
            routed = torch.einsum("orc,rcd->ord", weight, output) + tail @ mean_v[sample, head]
            sums.append(
                (
                    (routed - dense).square().sum((1, 2)),
                    dense.square().sum(),
                    (seen * lengths).sum((1, 2)),
                    (seen * share).sum((1, 2)),
                    (seen * (share * elsewhere)).sum((1, 2)),
                    (share * elsewhere).sum(),
                )
            )
        heads.append([torch.stack(parts).sum(0) for parts in zip(*sums, strict=True)])
    error, size, kept, mass, across, abroad = (torch.stack(parts, -1) for parts in zip(*heads, strict=True))
    return SampledError(error, size, kept, mass, across, abroad, b * count)


def chunk_parts(q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, scale: float) -> tuple[Tensor, Tensor]:
    """q [R, D]; k, v [N, D] -> (log-sum-exp [R, C] of every chunk's logits, attention over that chunk alone [R, C, D]).

    Attention over any chunks is the softmax of their log-sum-exps, applied to their outputs.
    """
    logits = wide(k) @ wide(q).mT * scale  # [N, R]: a chunk is a run of rows
    lse = per_chunk(logits, table, lambda block: block.logsumexp(-2))  # [C, R]
    weight = (logits - lse[table.tensors(q.device).chunk_of]).exp()
    count = q.shape[0]

    def attend(block: Tensor) -> Tensor:  # [chunks, L, R + D] -> [chunks, R * D]
        return (block[..., :count].mT @ block[..., count:]).flatten(-2)

    output = per_chunk(torch.cat([weight, wide(v)], -1), table, attend)
    return lse.mT, output.unflatten(-1, (count, -1)).transpose(0, 1)
