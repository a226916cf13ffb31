"""How skewed and how coherent a routing is: what decides which engine suits it.

skewed    do all queries ask for the same few chunks, and does nobody ask for some?
coherent  do neighbouring queries ask for the same ones?

python -m benchmarks.coherence FOLDER [--out benchmarks/results/coherence.json]

FOLDER holds what `benchmarks/capture.py` kept. For comparison the same is measured on tokens drawn independently and,
where FOLDER has them, on captures of random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.capture import Call, blocks_of, load, open_folder
from moc.chunks.table import ChunkTable
from moc.config import RoutingConfig
from moc.routing.candidates import candidates
from moc.routing.rules import select
from moc.routing.scores import describe, scores

RULES = {
    "frames, top-5, own shot": RoutingConfig.of(top_k=5, own="shot"),
    "8x8, top-8, min-max": RoutingConfig.of(top_k=8, own="frame", tile=(1, 8, 8), descriptor="minmax"),
    "4x4, top-20, min-max": RoutingConfig.of(top_k=20, own="frame", tile=(1, 4, 4), descriptor="minmax"),
    "4x4, top-20, mean": RoutingConfig.of(top_k=20, own="frame", tile=(1, 4, 4)),
    "2x2, top-20, min-max": RoutingConfig.of(top_k=20, own="frame", tile=(1, 2, 2), descriptor="minmax"),
}


def choose(
    q: Tensor, k: Tensor, table: ChunkTable, routing: RoutingConfig, rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(chosen [B, H, R, C], candidate and mandatory [R, C]) for q, k [B, H, N, D], all in sorted order; all rows by
    default."""
    rows = torch.arange(table.length, device=q.device) if rows is None else rows
    mandatory, candidate = candidates(table, routing, rows, q.device)
    score = scores(q.index_select(-2, rows), describe(k, table, routing.score.descriptor))
    return select(score, candidate, table.top_k(routing)), candidate, mandatory


@dataclass(frozen=True)
class Measures:
    """All are means over heads.

    gini, entropy   of how often a chunk is chosen, over how often it could be: 0 and 1 where all are equally popular
    never           share of the chunks that no query chose
    top_tenth       share of all choices that falls on the most popular tenth of the chunks
    beside, below, later
                    share of a query's choices that its neighbour (next column, row, frame of the same shot) also made
    union_16/64/128 chunks that 4x4, 8x8 and 8x16 neighbouring queries of a frame choose together, over k
    union_tile      the same of the engine's query tiles: 64 rows in the order of the chunks
    """

    gini: float
    entropy: float
    never: float
    top_tenth: float
    beside: float
    below: float
    later: float
    union_16: float
    union_64: float
    union_128: float
    union_tile: float


def measure(chosen: Tensor, candidate: Tensor, table: ChunkTable) -> Measures:
    """chosen [B, H, N, C] and candidate [N, C] in sorted order; every token of the sequence is video."""
    open_to = candidate.sum(0).clamp(min=1)
    popular = (chosen.sum(2).float() / open_to).flatten(0, 1)  # [heads, C]
    popular = popular[:, candidate.any(0)]
    t, h, w = table.layout.grid
    shot = torch.tensor([0] * t)
    for start in table.starts[1:]:
        shot[start:] += 1
    same = (shot[1:] == shot[:-1]).nonzero().flatten()
    grid = chosen.index_select(2, table.tensors("cpu").inverse).flatten(0, 1).unflatten(1, (t, h, w))
    k = grid.sum(-1).float().clamp(min=1)

    def shared(a: Tensor, b: Tensor, count: Tensor) -> float:
        return float(((a & b).sum(-1) / count).mean())

    def union(rows: int, columns: int) -> float:
        cut = grid[:, :, : h // rows * rows, : w // columns * columns]
        tiles = cut.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).any(5).any(3)
        return float(tiles.sum(-1).float().mean() / k.mean())

    return Measures(
        gini=float(gini(popular).mean()),
        entropy=float(entropy(popular).mean()),
        never=float((popular == 0).float().mean()),
        top_tenth=float(top_share(popular, 0.1).mean()),
        beside=shared(grid[:, :, :, 1:], grid[:, :, :, :-1], k[:, :, :, 1:]),
        below=shared(grid[:, :, 1:], grid[:, :, :-1], k[:, :, 1:]),
        later=shared(grid[:, same + 1], grid[:, same], k[:, same + 1]),
        union_16=union(4, 4),
        union_64=union(8, 8),
        union_128=union(8, 16),
        union_tile=statistics.mean(
            float(chosen[:, :, low:high].any(2).sum(-1).float().mean()) for low, high in table.query_tiles()
        )
        / float(k.mean()),
    )


def gini(x: Tensor) -> Tensor:
    """x [..., C] not negative -> [...]: 0 where all are equal, (C - 1) / C where one has everything."""
    x, n = x.sort(-1).values, x.shape[-1]
    weight = 2 * torch.arange(1, n + 1, device=x.device) - n - 1
    return (x * weight).sum(-1) / (n * x.sum(-1)).clamp(min=1e-12)


def entropy(x: Tensor) -> Tensor:
    """x [..., C] not negative -> [...]: entropy of the shares over its largest value, log C."""
    p = x / x.sum(-1, keepdim=True).clamp(min=1e-12)
    return -(p * p.clamp(min=1e-12).log()).sum(-1) / torch.tensor(float(x.shape[-1])).log()


def top_share(x: Tensor, part: float) -> Tensor:
    """x [..., C] -> [...]: share of the sum in the largest `part` of the entries."""
    count = max(1, round(part * x.shape[-1]))
    return x.topk(count, -1).values.sum(-1) / x.sum(-1).clamp(min=1e-12)


def of_call(call: Call) -> dict[str, dict[str, float]]:
    found = {}
    for name, routing in RULES.items():
        table = call.table(routing)
        q, k = (x.index_select(-2, table.tensors("cpu").order) for x in (call.q, call.k))
        chosen, candidate, _ = choose(q, k, table, routing)
        found[name] = asdict(measure(chosen, candidate, table))
    return found


def independent(call: Call) -> Call:
    """The same shapes, every token drawn on its own."""
    torch.manual_seed(call.block)
    return replace(call, q=torch.randn_like(call.q), k=torch.randn_like(call.k))


def mean_of(paths: list[Path], drawn: bool = False) -> dict[str, dict[str, float]]:
    """Means over all captured calls; `drawn`: over independent tokens in their place."""
    calls = (load(path, block) for path in paths for block in blocks_of(path))
    found = [of_call(independent(call) if drawn else call) for call in calls]
    return {name: {key: round(statistics.mean(f[name][key] for f in found), 3) for key in found[0][name]}
            for name in RULES}  # fmt: skip


def table_of(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown, one table a rule."""
    lines: list[str] = []
    for name in RULES:
        keys = list(next(iter(found.values()))[name])
        lines += ["", f"| {name} | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
        for kind, measures in found.items():
            lines.append(f"| {kind} | " + " | ".join(f"{measures[name][key]:.2f}" for key in keys) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trained, random = open_folder(args.folder)
    found = {"trained": mean_of(trained), "independent tokens": mean_of(trained[:1], drawn=True)}
    if random:
        found["random weights"] = mean_of(random)
    result = {
        "command": "python -m benchmarks.coherence FOLDER",
        "captures": [path.stem for path in (*trained, *random)],
        "facts": load(trained[0], 0).facts,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "coherence": found,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table_of(found))


if __name__ == "__main__":
    main()
