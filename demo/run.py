"""The whole pack in one command: a multi-shot video from a real ComfyUI, without and with MoC, and its heatmap.

    python demo/run.py [--comfyui PATH] [--prompt TEXT] [--seed N] [--steps N] [--only-moc]
    python demo/run.py --shots 24    # a film four times as long, in windows: MoC Windows, and ComfyUI's own

Makes a private environment on the first run (a few minutes, once), starts ComfyUI in it without a window, posts
workflows/demo_multishot.json, and leaves the video, the heatmap and a report in demo/output/.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from demo.film import DEFAULTS, KNOWN, MOC, prompt_of  # noqa: E402
from demo.host import existing, prepare  # noqa: E402
from demo.hosting.common import HostError  # noqa: E402
from demo.server import Progress, Run, Server  # noqa: E402

WORKFLOW = REPO / "workflows" / "demo_multishot.json"
GRAPH = REPO / "demo" / "graph.json"  # the same as a graph; `python -m tests.tools.templates` writes it
NODES = [REPO / "demo" / "comfyui_moc_demo"]
MODELS = {"diffusion_models": REPO / "demo" / "models", "vae": REPO / "demo" / "models"}
OUTPUT = REPO / "demo" / "output"
Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """One sampled video: seconds of the whole sampling, the character's likeness, and where the files are."""

    seconds: float
    likeness: dict[str, float]
    run: Run


class Clock:
    """Prints progress and measures how long the sampler took."""

    def __init__(self, name: str) -> None:
        self.name, self.first, self.last, self.sampled, self.total = name, 0.0, 0.0, 0, 0
        self.began = self.ended = 0.0  # of the sampler's node as a whole

    def __call__(self, progress: Progress) -> None:
        if progress.node_class == "KSampler" and progress.total:
            if not self.first:
                self.first, self.sampled = time.monotonic(), progress.value
            self.last, self.total = time.monotonic(), progress.total
            done = "#" * round(24 * progress.value / progress.total)
            print(f"\r  {self.name}: [{done:24}] step {progress.value}/{progress.total}", end="", flush=True)
        elif progress.node_class and not progress.total:
            if progress.node_class == "KSampler":
                self.began = time.monotonic()
            elif self.began and not self.ended:
                self.ended = time.monotonic()
            print(f"\r  {self.name}: {progress.node_class:50}", end="", flush=True)

    @property
    def seconds(self) -> float:
        """All steps, from the steps between the first and the last report; the node's whole time if none was seen."""
        steps = self.total - self.sampled
        return (self.last - self.first) / steps * self.total if steps > 0 else max(self.ended - self.began, 0.0)


def nodes_of(prompt: Prompt, node_class: str) -> list[str]:
    found = [key for key, node in prompt.items() if node["class_type"] == node_class]
    if not found:
        raise HostError(f"{WORKFLOW.name} has no {node_class} node; the demo needs one.")
    return found


def without_moc(prompt: Prompt) -> Prompt:
    """The same graph with MoC Apply bridged, and what only MoC feeds left out."""
    prompt = copy.deepcopy(prompt)
    apply = nodes_of(prompt, "MoCApply")[0]
    before = prompt.pop(apply)["inputs"]["model"]
    heatmaps = nodes_of(prompt, "MoCRoutingHeatmap")
    gone = {apply}
    for key in heatmaps:
        latent = prompt.pop(key)["inputs"].get("after_sample")
        gone.add(key)
        for node in prompt.values():  # whoever took the latent from the heatmap takes it from the sampler
            for name, value in node["inputs"].items():
                if value == [key, 2]:
                    node["inputs"][name] = latent
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if value == [apply, 0]:
                node["inputs"][name] = before
    while dangling := [k for k, n in prompt.items() if any(is_link(v) and v[0] in gone for v in n["inputs"].values())]:
        gone.update(dangling)
        for key in dangling:
            del prompt[key]
    return prompt


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def prefixed(prompt: Prompt, name: str) -> Prompt:
    """File names of the two runs must differ."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if "filename_prefix" in node["inputs"]:
            node["inputs"]["filename_prefix"] = f"moc_demo/{name}_{node['class_type']}"
    return prompt


def sample(server: Server, name: str, prompt: Prompt) -> Result:
    clock = Clock(name)
    run = server.wait(server.queue(prefixed(prompt, name)), on_progress=clock)
    likeness = json.loads(run.texts[nodes_of(prompt, "MoCDemoSimilarity")[0]])
    print(f"\r  {name}: sampled in {clock.seconds:.1f} s, everything in {run.seconds:.1f} s{'':40}", flush=True)
    return Result(clock.seconds, likeness, run)


def keep(result: Result, name: str) -> list[Path]:
    """Copy what the run wrote into demo/output/."""
    kept = []
    for paths in result.run.files.values():
        for path in paths:
            if path.parent.name != "temp" and path.suffix in (".mp4", ".webp", ".webm", ".png") and path.is_file():
                what = name if path.suffix != ".png" else "heatmap" if name in ("dense", "moc") else f"{name}_sheet"
                kept.append(Path(shutil.copy2(path, OUTPUT / f"{what}{path.suffix}")))
    return kept


def report(moc: Result, dense: Result | None, prompt: Prompt) -> str:
    routing = moc.run.texts[nodes_of(prompt, "MoCRoutingHeatmap")[0]]
    kept = re.search(r"([\d.]+)\s*% of pairs kept", routing)
    rows = [("", "dense", "MoC")] if dense else [("", "MoC")]

    def row(name: str, of_dense: str | None, of_moc: str) -> None:
        rows.append((name, of_dense or "", of_moc) if dense else (name, of_moc))

    row("pairs kept", "100 %", f"{kept[1]} %" if kept else "?")
    row("seconds of sampling", f"{dense.seconds:.1f}" if dense else None, f"{moc.seconds:.1f}" if moc.seconds else "?")
    for key, what in (("between", "character alike between shots"), ("within", "character alike within a shot")):
        row(what, f"{dense.likeness[key]:.3f}" if dense else None, f"{moc.likeness[key]:.3f}")
    tokens = moc.likeness.get("tokens")
    lines = [f"{tokens:,.0f} video tokens."] if tokens else []
    lines += ["  ".join(f"{cell:>{32 if i == 0 else 8}}" for i, cell in enumerate(cells)) for cells in rows]
    return "\n".join([*lines, "", "1 is the same character, 0 an unrelated one.", "", routing])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="use this ComfyUI instead of a private one")
    parser.add_argument("--python", type=Path, help="the interpreter that runs --comfyui")
    parser.add_argument("--prompt", help="another storyboard; shots are separated by [shot cut]")
    parser.add_argument("--seed", type=int, help="another character")
    parser.add_argument("--steps", type=int, help="sampling steps")
    parser.add_argument("--only-moc", action="store_true", help="leave out the run it is compared with")
    parser.add_argument("--shots", type=int, default=KNOWN, help="more than six, a multiple of six: a film in windows")
    parser.add_argument("--open", action="store_true", help="start ComfyUI with the demo's graph in it, to look at")
    options = parser.parse_args()
    try:
        if options.shots < KNOWN or options.shots % KNOWN:
            raise HostError(f"The demo model knows shots by sixes: {options.shots} is no multiple of {KNOWN}.")
        return show(options) if options.open else long_film(options) if options.shots > KNOWN else demo(options)
    except HostError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def show(options: argparse.Namespace) -> int:
    """ComfyUI, until somebody stops it."""
    host = existing(options.comfyui, options.python) if options.comfyui else prepare()
    with Server(host, nodes=NODES, models=MODELS) as server:
        saved = server.folder / "user" / "default" / "workflows" / "MoC demo.json"
        saved.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(GRAPH, saved)
        print(f"ComfyUI is at {server.url}: open the workflow *MoC demo* there. Ctrl+C ends it.", flush=True)
        return server.process.wait() if server.process else 1


def changed(prompt: Prompt, options: argparse.Namespace) -> Prompt:
    """With the sampler's seed and steps that were asked for."""
    for key in nodes_of(prompt, "KSampler"):
        prompt[key]["inputs"] |= {"seed": options.seed} if options.seed is not None else {}
        prompt[key]["inputs"] |= {"steps": options.steps} if options.steps else {}
    return prompt


def long_film(options: argparse.Namespace) -> int:
    """More shots than the model knows, in windows of two."""
    host = existing(options.comfyui, options.python) if options.comfyui else prepare()
    OUTPUT.mkdir(exist_ok=True)
    print(f"Starting ComfyUI {host.version} ...", flush=True)
    lines = [f"{options.shots} shots, 1 is the same character, 0 an unrelated one."]
    with Server(host, nodes=NODES, models=MODELS, args=["--use-pytorch-cross-attention"]) as server:
        for name, windows in [("long_moc", MOC)] + ([] if options.only_moc else [("long_comfyui", DEFAULTS)]):
            found = sample(server, name, changed(prompt_of(windows, options.shots, options.prompt or "", 1), options))
            files = ", ".join(path.name for path in keep(found, name))
            alike = f"alike {found.likeness['between']:.3f} between shots, {found.likeness['within']:.3f} within"
            lines.append(f"{windows}: {alike}; sampled in {found.seconds:.0f} s; {files}")
    text = "\n".join(lines)
    (OUTPUT / "long_report.txt").write_text(text + "\n", "utf-8")
    print(f"\n{text}\n\nIn {OUTPUT}.")
    return 0


def demo(options: argparse.Namespace) -> int:
    started = time.monotonic()
    prompt: Prompt = json.loads(WORKFLOW.read_text("utf-8"))
    for key in nodes_of(prompt, "MoCDemoStoryboard"):
        prompt[key]["inputs"] |= {"prompt": options.prompt} if options.prompt is not None else {}
    changed(prompt, options)
    host = existing(options.comfyui, options.python) if options.comfyui else prepare()
    OUTPUT.mkdir(exist_ok=True)
    print(f"Starting ComfyUI {host.version} ...", flush=True)
    # torch's own attention, the fastest dense one on a CPU, so that the comparison is fair
    args = ["--use-pytorch-cross-attention"]
    with Server(host, nodes=NODES, models=MODELS, args=args) as server:
        dense = None if options.only_moc else sample(server, "dense", without_moc(prompt))
        moc = sample(server, "MoC", prompt)
        files = (keep(dense, "dense") if dense else []) + keep(moc, "moc")
    text = report(moc, dense, prompt)
    (OUTPUT / "report.txt").write_text(text + "\n", "utf-8")
    print(f"\n{text}\n\nIn {OUTPUT}:")
    for path in sorted({*files, OUTPUT / "report.txt"}):
        print(f"  {path.name}")
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
