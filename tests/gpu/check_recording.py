"""Does MoC stay out of what newer ComfyUIs record? Since 0.34 they write down what MiniMax H3 and LTX-2 allocate in a
forward pass, block by block, and give the next pass the same places ("Comfy Compiler").

python -m tests.gpu.check_recording --comfyui FOLDER [--aimdo FOLDER ...] [--cold] [--out FILE.json]

Needs comfy-aimdo 0.5.3 or newer; --aimdo takes one from a folder (`pip install --no-deps --target FOLDER
comfy-aimdo==0.6.0`), and may be given more than once. Each is asked in a process of its own, which torch's allocator
backend is set for, and which is ended and counts as failed where it is not through in --most seconds: what is looked
for may be a hang. `test_comfy_compiler.py` asks the same. The model is `check_graph`'s, in a ComfyUI that may be older:
its forward pass and its blocks are recorded here as 0.38 records MiniMax H3. Asked is for the film that comes without
recording, bit for bit, twice, with no more that outlived its block (`rogues`) and no more blocks that allocated
otherwise than before (`breaks`) than the model by itself has; those of the first routed step after dense ones may be
among them.
--cold: no kernel of MoC is compiled yet, and the film that compiles them is recorded as well.
--collecting: garbage is collected where Python likes. --unguarded: without all that the pack does about recording.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks import host
from benchmarks.end_to_end_model import new_model, noise_of
from moc.config import MoCSettings, RoutingConfig, Schedule
from tests.gpu.check_graph import FILM, RULES, SIZE, film

BLOCKS = 4
MOST = 240  # seconds


class Recorder:
    """What ComfyUI's `model_prefetch` and `ldm/minimax/model.py` do around a forward pass and around its blocks.

    record() -> a recording that has begun, as comfy-aimdo makes it.
    """

    def __init__(self, record: Callable[[], Any]) -> None:
        self.record, self.graph, self.active, self.breaks, self.rogues, self.pauses = record, None, False, 0, 0, 0

    def forward(self, run, x: Tensor, *args, **kwargs) -> Tensor:
        out = torch.empty_like(x)
        if self.graph is None:
            self.graph = self.record()
        else:
            self.graph.push()
        self.active = True
        found = run(x, *args, **kwargs)
        out.copy_(found)
        del found
        self.breaks += self.graph.pop()
        self.active = False
        return out

    def block(self, run, x: Tensor, *args, **kwargs) -> Tensor:
        """MiniMax's blocks add to their input in place: nothing of a block is left when the next one begins."""
        self.breaks += self.graph.iterate("block")
        x.copy_(run(x, *args, **kwargs))
        return x

    def head(self, run, *args) -> Tensor:
        """Behind the last block."""
        self.breaks += self.graph.iterate(None)
        return run(*args)

    @contextmanager
    def pause(self) -> Iterator[None]:
        self.pauses += 1
        if self.active:
            self.graph.pause()
        try:
            yield
        finally:
            if self.active:
                self.graph.resume()

    def end(self) -> None:
        """As after a prompt."""
        if self.graph is not None:
            if self.active:
                self.graph.abort()
            self.rogues += self.graph.rogue_count
        self.graph, self.active = None, False


@contextmanager
def recorded(model, record: Callable[[], Any], *, guarded: bool = True, collecting: bool = False) -> Iterator[Recorder]:
    """ComfyUI as if it recorded this model of its Wan class. guarded: and said so."""
    from moc.host import malloc_graph

    recorder, inner = Recorder(record), model.model.diffusion_model
    before = malloc_graph.model_prefetch, malloc_graph.uncollected
    malloc_graph.model_prefetch = SimpleNamespace()
    if collecting or not guarded:
        malloc_graph.uncollected = nullcontext
    if guarded:
        malloc_graph.model_prefetch.pause_malloc_graph = recorder.pause
    inner.forward = partial(recorder.forward, inner.forward)
    for block in inner.blocks:
        block.forward = partial(recorder.block, block.forward)
    inner.head.forward = partial(recorder.head, inner.head.forward)
    try:
        yield recorder
    finally:
        recorder.end()
        malloc_graph.model_prefetch, malloc_graph.uncollected = before
        for module in (inner, *inner.blocks, inner.head):
            del module.forward


def asked() -> dict[str, tuple[MoCSettings, str]]:
    """Settings, and what is traced."""
    always = Schedule(min_tokens=1)
    found = {name: (MoCSettings(routing, always), "routing") for name, routing in RULES.items()}
    frames = RoutingConfig.of(top_k=5, own="shot", causal=True)
    late = replace(always, start_percent=0.5)
    return found | {
        "dense first, then routed": (MoCSettings(frames, late), "routing"),
        "routing and attention traced": (MoCSettings(frames, always), "routing and attention"),
        "top-p": (MoCSettings(frames.changed(rule="top-p", top_p=0.5), always), "routing"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--aimdo", type=host.Path, action="append")
    parser.add_argument("--most", type=int, default=MOST, help="seconds that one comfy-aimdo may take")
    parser.add_argument("--out", type=host.Path)
    for flag in ("--cold", "--collecting", "--unguarded"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        faulthandler.dump_traceback_later(args.most, exit=True)  # needs no lock that a hung thread holds
        ask_all(args)
        return
    runs = [in_a_process(args, folder) for folder in args.aimdo or [None]]
    for run in runs:
        print(f"comfy-aimdo {run.get('comfy_aimdo', '?')}: {run.get('failed') or run['held']}")
    if args.out:
        facts = {"command": host.command("check_recording", "tests.gpu"), "date": time.strftime("%Y-%m-%d")}
        args.out.write_text(json.dumps({**facts, "runs": runs}, indent=1) + "\n")
    raise SystemExit(any("failed" in run for run in runs))


def in_a_process(args: argparse.Namespace, aimdo: host.Path | None) -> dict:
    """What a process of its own has found, with "failed" where not all holds."""
    with tempfile.TemporaryDirectory(prefix="moc_recording_") as place:
        out = host.Path(place, "found.json")
        command = [sys.executable, "-m", "tests.gpu.check_recording", "--child", "--comfyui", str(args.comfyui)]
        command += ["--most", str(args.most), "--out", str(out)]
        command += [f"--{flag}" for flag in ("cold", "collecting", "unguarded") if getattr(args, flag)]
        environment = {"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync", **os.environ}
        if args.cold:
            environment["TRITON_CACHE_DIR"] = str(host.Path(place, "triton"))
        if aimdo is not None:
            path = [str(aimdo.resolve()), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        code, errors = host.watched(command, args.most + 60, environment)
        found = json.loads(out.read_text()) if out.exists() else {}
    if code != 0:
        hung = code is None or "Timeout (" in errors  # faulthandler's word
        failed = f"not through after {args.most} s" if hung else f"ended with {code}"
        return found | {"failed": failed, "errors": errors.splitlines()[:400]}
    return found if found["ok"] else found | {"failed": found["held"]}


def ask_all(args: argparse.Namespace) -> None:
    import comfy_aimdo.control
    import comfy_aimdo.malloc_graph

    assert comfy_aimdo.control.init("cuda") and comfy_aimdo.control.init_device(torch.cuda.current_device())
    version = host.start(args.comfyui, "--highvram")
    from moc.host.patch import apply_moc
    from moc.shots.cuts import Shots
    from moc.trace.trace import Trace

    def record():
        return comfy_aimdo.malloc_graph.record(torch.cuda.current_stream())

    model, noise = new_model(BLOCKS, SIZE, torch.device("cuda"), torch.bfloat16), noise_of(FILM, white=False)
    sample = partial(film, noise=noise)
    under = partial(recorded, model, record, guarded=not args.unguarded, collecting=args.collecting)
    begin, results = time.perf_counter(), []
    facts = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "comfyui": version,
        "comfy_aimdo": importlib.metadata.version("comfy-aimdo"), "python": sys.version.split()[0],
    }  # fmt: skip

    def ask(name: str, patched, holds: Callable[[dict], bool] = lambda row: all(row["same"])) -> dict:
        # what the model keeps of its first film, like workspaces, is not MoC's doing
        with under() if args.cold and patched is not model else nullcontext():
            sample(patched)
        alone = sample(patched)
        with under() as recorder:
            row = {"case": name, "same": [], "breaks": [], "rogues": []}
            for _ in range(2):
                row["same"].append(torch.equal(sample(patched), alone))
                recorder.end()
                row["breaks"].append(recorder.breaks)
                row["rogues"].append(recorder.rogues)
            row["pauses"] = recorder.pauses
        row["ok"] = holds(row)
        results.append(row)
        print(f"{time.perf_counter() - begin:5.1f} s", json.dumps(row), flush=True)
        held, cases = sum(r["ok"] for r in results), len(asked()) + 1
        done = {"ok": held == cases, "held": f"{held} of {cases} hold"}
        args.out.write_text(json.dumps({**facts, **done, "results": results}))  # so far, should the next one hang
        return row

    by_itself = ask("without MoC", model)
    for name, (settings, keep) in asked().items():
        more = BLOCKS if settings.schedule.start_percent > 0 else 0  # of the first routed step, once a film
        most = [n + more * films for films, n in enumerate(by_itself["breaks"], 1)]

        def holds(row: dict, most: list[int] = most) -> bool:
            fewer = all(a <= b for a, b in zip(row["breaks"], most, strict=True))
            return all(row["same"]) and row["rogues"] == by_itself["rogues"] and fewer

        ask(name, apply_moc(model, Shots(even=FILM.shots), settings, Trace(keep=keep)), holds)


if __name__ == "__main__":
    main()
