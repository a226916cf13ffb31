"""Time, memory and exchange of one model step on several GPUs, without ComfyUI.

torchrun --standalone --nproc-per-node 2 -m benchmarks.scale [--films 720p,8shots,400k] [--rules dense,paper]
    [--ranks 1,2] [--groups 4] [--out FILE.json] [--dry]

The model has the 14B's shapes (40 blocks, 40 heads of 128, feed-forward 13,824, 512 tokens of text, bf16, random
weights; all blocks share one block's, so that memory is activations). Tokens are spread over the ranks; only
self-attention needs all of them (`moc.parallel`). --ranks lists how many of the started processes work together;
the others wait. A step is `--blocks` blocks, scaled to 40 where fewer run. For every film and rule:

step_s       seconds of a step: the slowest rank, median of the runs
attention_ms a block's self-attention with its exchanges; local_ms: the same heads with all tokens at hand
exposed_ms   attention_ms - local_ms: packing, exchange and whatever of it attention does not hide
same_bits    the sharded output equals one process's, head by head (checked where ranks > 1, on one block's input)

--dry: tiny, on CPUs with gloo, to see that everything runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, scaled_dot_product_attention

from moc.chunks.layout import TokenLayout
from moc.config import PRESETS, RoutingConfig
from moc.parallel import GROUPS, Routed, heads_of_rank, ulysses_attention


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
DRY = {"dry": Film((5, 4, 6), 2)}
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


class Bench:
    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype, ranks: int, group, runs: int) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype
        self.ranks, self.group, self.runs = ranks, group, runs
        torch.manual_seed(0)
        self.block = Block(shape, device, dtype).requires_grad_(False)

    def rows(self, name: str, film: Film, rule: str, groups: int) -> dict:
        routing, rank = RULES[rule], dist.get_rank(self.group)
        layout = TokenLayout(film.tokens, film.grid)
        attend = dense if routing is None else Routed(layout, film.starts, routing, self.shape.heads)
        n = -(-film.tokens // self.ranks)
        torch.manual_seed(1)
        whole = torch.randn(1, film.tokens, self.shape.width, device=self.device, dtype=self.dtype)
        whole = nn.functional.pad(whole, (0, 0, 0, n * self.ranks - film.tokens))
        x = whole[:, rank * n : (rank + 1) * n].clone()
        del whole
        text = torch.randn(1, self.shape.text, self.shape.width, device=self.device, dtype=self.dtype)
        sharded = partial(ulysses_attention, attend=attend, length=film.tokens, group=self.group, groups=groups)

        def step() -> None:
            y = x
            for _ in range(self.shape.blocks):
                y = self.block(y, text, sharded)

        row: dict = {"film": name, "tokens": film.tokens, "rule": rule, "ranks": self.ranks, "groups": groups}
        row["blocks"] = self.shape.blocks
        with torch.no_grad():
            q, k, v = self.block.project(x)
            row["same_bits"] = self.same_bits(q, k, v, attend, sharded, film.tokens) if self.ranks > 1 else None
            self.reset_peak()
            row["step_s"] = round(self.time(step, self.runs) * Shape.blocks / self.shape.blocks, 4)
            row["peak_gib"] = self.peak()
            attention = self.time(lambda: sharded(q, k, v), 2 * self.runs)
            heads = heads_of_rank(self.shape.heads, rank, self.ranks)
            own = [torch.randn(1, film.tokens, heads.stop - heads.start, self.shape.dim, device=self.device,
                               dtype=self.dtype).transpose(1, 2) for _ in "qkv"]  # fmt: skip
            local = self.time(lambda: attend(*own, heads), 2 * self.runs)
        row["attention_ms"], row["local_ms"] = round(1e3 * attention, 2), round(1e3 * local, 2)
        row["exposed_ms"] = round(1e3 * (attention - local), 2)
        return row

    def same_bits(self, q: Tensor, k: Tensor, v: Tensor, attend, sharded, length: int) -> bool:
        """One rank's heads on all tokens, gathered the plain way, against what comes back from the exchanges."""
        out = self.gathered(sharded(q, k, v))[:, :length]
        q, k, v = (self.gathered(x)[:, :length].transpose(1, 2) for x in (q, k, v))
        same = True
        for head in range(0, self.shape.heads, max(1, self.shape.heads // 4)):
            some = slice(head, head + 1)
            alone = attend(q[:, some], k[:, some], v[:, some], some)
            same &= torch.equal(alone.transpose(1, 2), out[:, :, some])
        return same

    def gathered(self, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.ranks)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, 1)

    def time(self, call: Callable[[], object], runs: int) -> float:
        """Seconds of a call, the slowest rank's: median over the runs, after one that is not counted."""
        call()
        found = []
        for _ in range(runs):
            dist.barrier(self.group)
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            took = torch.tensor(time.perf_counter() - begin, device=self.device)
            dist.all_reduce(took, dist.ReduceOp.MAX, group=self.group)
            found.append(took.item())
        return statistics.median(found)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device.type == "cuda" else None


def facts(device: torch.device) -> dict:
    versions = {"torch": torch.__version__, "nccl": None, "gpu": "CPU (dry run)", "date": time.strftime("%Y-%m-%d")}
    if device.type == "cuda":
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        versions |= {"nccl": nccl, "gpu": torch.cuda.get_device_name(device)}
    return versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", default="720p,8shots,400k")
    parser.add_argument("--rules", default="dense,paper,large pictures")
    parser.add_argument("--ranks", default="", help="group sizes, by default 1 and all processes")
    parser.add_argument("--groups", type=int, nargs="+", default=[GROUPS], help="of heads, exchanged one by one")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further row after so many")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    rank, all_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cpu") if args.dry else torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if not args.dry:
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if args.dry else "nccl", device_id=None if args.dry else device)
    shape = Shape(heads=4, dim=16, hidden=64, text=8, blocks=2) if args.dry else Shape(blocks=args.blocks)
    films = DRY if args.dry else {name: FILMS[name] for name in args.films.split(",")}
    results, begin = [], time.perf_counter()
    for ranks in sorted({int(n) for n in args.ranks.split(",") if n} or {1, all_ranks}, reverse=True):
        group = dist.new_group(list(range(ranks)))
        if rank < ranks:
            bench = Bench(shape, device, torch.float32 if args.dry else torch.bfloat16, ranks, group, args.runs)
            for name, film in films.items():
                for rule, groups in product(args.rules.split(","), args.groups if ranks > 1 else [1]):
                    late = torch.tensor(time.perf_counter() - begin > args.seconds, device=device, dtype=torch.int)
                    dist.all_reduce(late, dist.ReduceOp.MAX, group=group)
                    if late.item():
                        continue
                    row = bench.rows(name, film, rule, groups)
                    if rank == 0:
                        results.append(row)
                        print(f"{time.perf_counter() - begin:6.1f} s", json.dumps(row), flush=True)
                        if args.out:
                            args.out.write_text(json.dumps({**facts(device), "results": results}, indent=1) + "\n")
            del bench
        if device.type == "cuda":
            torch.cuda.empty_cache()
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
