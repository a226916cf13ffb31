"""Time, memory and exchange of one model step on several GPUs, without ComfyUI: all of it in one call.

torchrun --standalone --nproc-per-node 8 -m benchmarks.scale --seconds 500 --out FILE.json
    [--films 720p,8shots,400k] [--rules dense,paper,...] [--ranks 1,2,4,8] [--groups 1 2 4] [--dry]

The model has the 14B's shapes (40 blocks, 40 heads of 128, feed-forward 13,824, 512 tokens of text, bf16, random
weights; all blocks share one block's, so that memory is activations). Tokens are spread over the ranks; only
self-attention needs all of them (`moc.parallel`). --ranks lists how many of the started processes work together, by
default 1, 2, 4 and so on to all of them; the others wait. For every film, rule and number of GPUs:

step_s        seconds of a step of 40 blocks, scaled from `--blocks`: the slowest rank, median of the runs; by our own
              exchange, with as many groups of heads as attention was fastest with
peak_gib      of that, the rank that takes most
attention_ms  a block's self-attention with its exchanges: ours by number of groups, and yunchang's where it is found
local_ms      the same heads with all tokens at hand
exposed_ms    the fastest of ours - local_ms: packing, exchange and whatever of it attention does not hide
same_bits     the output equals one process's, head by head, on one block's input
gain          step_s of one GPU / step_s, in `gains`

Kernels are compiled before anything is timed, each by one rank, into a folder that all of them read (TRITON_CACHE_DIR).
--dry: tiny, on CPUs with gloo, to see that everything runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.scale_model import DRY, FILMS, RULES, Block, Film, Shape, dense
from moc.chunks.layout import TokenLayout
from moc.parallel import AttnProcessor, Routed, heads_of_rank, ulysses_attention
from moc.parallel.together import Attend

LONG = 2.0  # seconds; a call that takes longer is timed once, its first time
YUNCHANG = importlib.util.find_spec("yunchang") is not None


def attention_of(film: Film, rule: str, heads: int) -> Attend:
    routing = RULES[rule]
    layout = TokenLayout(film.tokens, film.grid)
    return dense if routing is None else Routed(layout, film.starts, routing, heads)


def by_yunchang(attend: Attend, group: dist.ProcessGroup, tokens: int, heads: int) -> Callable:
    """The same attention inside yunchang's exchange, for q, k, v [B, n, H, D]."""
    from yunchang import LongContextAttention

    own = heads_of_rank(heads, dist.get_rank(group), dist.get_world_size(group))

    def plain(q: Tensor, k: Tensor, v: Tensor, **how) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(q)
        out[:, :tokens] = attend(*(x[:, :tokens].transpose(1, 2) for x in (q, k, v)), own).transpose(1, 2)
        return out, q.new_zeros(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)

    processor = AttnProcessor(attend, group) if isinstance(attend, Routed) else plain
    return LongContextAttention(attn_type=None, attn_processor=processor)


class Bench:
    """Of the ranks of a group."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype, ranks: int, group, runs: int) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype
        self.ranks, self.group, self.runs = ranks, group, runs
        torch.manual_seed(0)
        self.block = Block(shape, device, dtype).requires_grad_(False)

    @torch.no_grad()
    def row(self, name: str, film: Film, rule: str, groups: list[int]) -> dict:
        rank, tokens, attend = dist.get_rank(self.group), film.tokens, attention_of(film, rule, self.shape.heads)
        n = -(-tokens // self.ranks)
        torch.manual_seed(1)
        whole = torch.randn(1, tokens, self.shape.width, device=self.device, dtype=self.dtype)
        whole = nn.functional.pad(whole, (0, 0, 0, n * self.ranks - tokens))
        x = whole[:, rank * n : (rank + 1) * n].clone()
        del whole
        text = torch.randn(1, self.shape.text, self.shape.width, device=self.device, dtype=self.dtype)
        ours = partial(ulysses_attention, attend=attend, length=tokens, group=self.group)
        ways: dict[str, Callable] = {
            str(g): partial(ours, groups=g) for g in (groups if self.ranks > 1 else groups[:1])
        }
        if YUNCHANG and self.ranks > 1:
            ways["yunchang"] = by_yunchang(attend, self.group, tokens, self.shape.heads)

        q, k, v = self.block.project(x)
        attention = {way: self.time(partial(call, q, k, v), 2 * self.runs) for way, call in ways.items()}
        best = min((way for way in ways if way != "yunchang"), key=attention.__getitem__)
        row: dict = {"film": name, "tokens": tokens, "rule": rule, "ranks": self.ranks, "blocks": self.shape.blocks}
        row["same_bits"] = None
        if self.ranks > 1:
            checked = [ways[way] for way in (best, "yunchang") if way in ways]
            row["same_bits"] = self.same_bits(q, k, v, attend, checked, tokens)
        heads = heads_of_rank(self.shape.heads, rank, self.ranks)
        local = self.time(partial(attend, *self.qkv(tokens, heads.stop - heads.start), heads), 2 * self.runs)
        del q, k, v

        def step() -> None:
            y = x
            for _ in range(self.shape.blocks):
                y = self.block(y, text, ways[best])

        self.reset_peak()
        row["step_s"] = round(self.time(step, self.runs) * Shape.blocks / self.shape.blocks, 4)
        row["peak_gib"] = self.peak()
        row["attention_ms"] = {way: round(1e3 * seconds, 2) for way, seconds in attention.items()}
        row["local_ms"], row["groups"] = round(1e3 * local, 2), int(best)
        row["exposed_ms"] = round(1e3 * (attention[best] - local), 2)
        return row

    def qkv(self, tokens: int, heads: int) -> list[Tensor]:
        """Random ones [1, heads, tokens, D], strided as they come out of an exchange."""
        whole = torch.randn(tokens, 3, 1, heads, self.shape.dim, device=self.device, dtype=self.dtype)
        return [x.permute(1, 2, 0, 3) for x in whole.unbind(1)]

    def same_bits(self, q: Tensor, k: Tensor, v: Tensor, attend: Attend, calls: list[Callable], length: int) -> bool:
        """Some heads on all tokens, gathered the plain way, against what comes back from the exchanges."""
        outs = [self.gathered(call(q, k, v))[:, :length] for call in calls]
        q, k, v = (self.gathered(x)[:, :length].transpose(1, 2) for x in (q, k, v))
        same = True
        for head in range(0, self.shape.heads, max(1, self.shape.heads // 4)):
            some = slice(head, head + 1)
            alone = attend(q[:, some], k[:, some], v[:, some], some).transpose(1, 2)
            same &= all(torch.equal(alone, out[:, :, some]) for out in outs)
        return self.worst(not same) == 0

    def gathered(self, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.ranks)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, 1)

    def time(self, call: Callable[[], object], runs: int) -> float:
        """Seconds of a call, the slowest rank's: median over the runs, after one that counts only if it is LONG."""
        found: list[float] = []
        while len(found) <= runs and (not found or found[0] < LONG):
            dist.barrier(self.group)
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            found.append(self.worst(time.perf_counter() - begin))
        return statistics.median(found[1:] or found)

    def worst(self, value: float) -> float:
        """The largest of all ranks."""
        told = torch.tensor(float(value), device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group)
        return told.item()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        return round(self.worst(torch.cuda.max_memory_allocated() / 2**30), 2) if self.device.type == "cuda" else None

    def compile(self, films: dict[str, Film], rules: list[str]) -> None:
        """All kernels of all rows: every film and rule by one rank, then by the others out of the common folder."""
        jobs = [(film, rule) for film, rule in product(films.values(), rules) if RULES[rule] is not None]
        for others in (False, True):
            for i, (film, rule) in enumerate(jobs):
                if (i % self.ranks == dist.get_rank(self.group)) != others:
                    for heads in (1, 2):  # kernels are compiled anew for a single head
                        q, k, v = self.qkv(film.tokens, heads)
                        attend = attention_of(film, rule, self.shape.heads)
                        for x in ((q, k, v), [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]):
                            attend(*x, slice(0, heads))
            self.wait()
            dist.barrier(self.group)


def gains(rows: list[dict]) -> list[dict]:
    """Of every film and rule: how many times as fast on several GPUs as on one."""
    alone = {(row["film"], row["rule"]): row["step_s"] for row in rows if row["ranks"] == 1}
    several = [row for row in rows if row["ranks"] > 1 and (row["film"], row["rule"]) in alone]
    return [
        {**{key: row[key] for key in ("film", "rule", "ranks")},
         "gain": round(alone[row["film"], row["rule"]] / row["step_s"], 3)} for row in several
    ]  # fmt: skip


def facts(device: torch.device) -> dict:
    versions = {"torch": torch.__version__, "nccl": None, "gpu": "CPU (dry run)", "date": time.strftime("%Y-%m-%d")}
    if device.type == "cuda":
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        versions |= {"nccl": nccl, "gpu": torch.cuda.get_device_name(device)}
    return versions | {"yunchang": importlib.metadata.version("yunchang") if YUNCHANG else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", default="720p,8shots,400k")
    parser.add_argument("--rules", default="dense,paper,large pictures")
    parser.add_argument("--ranks", default="", help="group sizes")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2, 4], help="of heads, exchanged one by one")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further row after so many")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir()) / "moc-scale-kernels"))
    rank, all_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cpu") if args.dry else torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if not args.dry:
        torch.cuda.set_device(device)
    begin = time.perf_counter()
    dist.init_process_group("gloo" if args.dry else "nccl", device_id=None if args.dry else device)
    shape = Shape(heads=8, dim=16, hidden=64, text=8, blocks=2) if args.dry else Shape(blocks=args.blocks)
    dtype = torch.float32 if args.dry else torch.bfloat16
    films = {name: (DRY if args.dry else FILMS)[name] for name in args.films.split(",")}
    rules = args.rules.split(",")
    Bench(shape, device, dtype, all_ranks, None, args.runs).compile(films, rules)
    say = partial(print, flush=True) if rank == 0 else lambda *_: None
    say(f"{time.perf_counter() - begin:6.1f} s: kernels compiled")
    results: list[dict] = []
    sizes = [int(n) for n in args.ranks.split(",") if n] or [n for n in (1, 2, 4, 8, 16) if all_ranks % n == 0]
    for ranks in sorted(sizes, reverse=True):
        group = dist.new_group(list(range(ranks)))
        if YUNCHANG and ranks > 1:
            from yunchang import set_seq_parallel_pg

            set_seq_parallel_pg(ranks, 1, rank, all_ranks)
        if rank < ranks:
            bench = Bench(shape, device, dtype, ranks, group, args.runs)
            for (name, film), rule in product(films.items(), rules):
                if bench.worst(time.perf_counter() - begin) > args.seconds:
                    say(f"{name}, {rule}, {ranks} GPUs: left out, no time")
                    continue
                row = bench.row(name, film, rule, args.groups)
                results.append(row)
                say(f"{time.perf_counter() - begin:6.1f} s:", json.dumps(row))
                if rank == 0 and args.out:
                    told = {**facts(device), "gains": gains(results), "results": results}
                    args.out.write_text(json.dumps(told, indent=1) + "\n")
            del bench
        if device.type == "cuda":
            torch.cuda.empty_cache()
        dist.barrier()
    for gain in gains(results):
        say(json.dumps(gain))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
