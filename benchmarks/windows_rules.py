"""The rules that `benchmarks.windows` compares, each through the nodes that a person would put into a graph."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import host
from benchmarks.windows_film import Film, sb

PACK = "mixture_of_contexts"
RULES = ("dense", "forgetful", "ComfyUI's defaults", "shots", "drawn anew", "drawn by chance")
RULES += ("bank", "bank, all shots", "bank, all frames", "bank, 4 bit", "bank, from a third", "bank, routed")
RULES += ("bank, the window's", "drawn anew + bank")
Model = Any


def load_pack() -> None:
    """As ComfyUI loads it: its folder `nodes` is not ComfyUI's module of that name."""
    init = host.REPO / "__init__.py"
    spec = importlib.util.spec_from_file_location(PACK, init, submodule_search_locations=[str(host.REPO)])
    assert spec is not None and spec.loader is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def pack(module: str) -> Any:
    return importlib.import_module(f"{PACK}.{module}")


def video_frames(latents: int) -> int:
    return 4 * latents - 3


def rules() -> dict[str, Callable[[Model, Film, int], Model]]:
    """name, as in RULES -> (model, film, shots in a window) -> model."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode, WanContextWindowsManualNode

    shots = pack("moc.shots.cuts").Shots
    node = pack("nodes.windows").MoCWindows

    def forgetful(model, film, together):
        length = together * sb.LATENTS_PER_SHOT
        return ContextWindowsManualNode.execute(
            model, length, 0, "batched", 1, False, "pyramid", dim=2, freenoise=False, causal_window_fix=False
        ).args[0]

    def defaults(model, film, together):
        length = video_frames(together * sb.LATENTS_PER_SHOT)
        return WanContextWindowsManualNode.execute(
            model, length, 4 * together, "standard_uniform", 1, False, "pyramid", True
        ).args[0]

    def ours(follow, **more):
        def windows(model, film, together):
            cuts = shots(cuts=film.cuts(), unit="latent")
            return node.execute(model, cuts, follow, video_frames(together * sb.LATENTS_PER_SHOT), 0, **more).args[0]

        return windows

    return {
        "dense": lambda model, film, together: model,
        "forgetful": forgetful,
        "ComfyUI's defaults": defaults,
        "shots": ours("shots"),
        "drawn anew": ours("shots, drawn anew"),
        "drawn by chance": by_chance(ours("shots, drawn anew")),
        "bank": ours("shots", bank="on"),
        "bank, all shots": ours("shots", bank="on", bank_shots=""),
        "bank, all frames": ours("shots", bank="on", bank_shots="", bank_frames=0),
        "bank, 4 bit": ours("shots", bank="on", bank_storage="4 bit"),
        "bank, the window's": ours("shots", bank="on", bank_weight="the window"),
        "bank, from a third": ours("shots", bank="on", bank_from=0.33),
        "bank, routed": routed(ours("shots", bank="on")),
        "drawn anew + bank": ours("shots, drawn anew", bank="on"),
    }


def routed(windows: Callable[[Model, Film, int], Model]) -> Callable[[Model, Film, int], Model]:
    """The same node behind MoC Apply, which routes however short the window."""
    shots, apply, trace = pack("moc.shots.cuts").Shots, pack("moc.host.patch").apply_moc, pack("moc.trace.trace").Trace
    settings = pack("moc.config").PRESETS["recommended"].with_schedule(min_tokens=1)

    def put(model, film, together):
        cuts = shots(cuts=film.cuts(), unit="latent")
        return windows(apply(model, cuts, settings, trace()), film, together)

    return put


def by_chance(windows: Callable[[Model, Film, int], Model]) -> Callable[[Model, Film, int], Model]:
    """The same node with another drawing: it is made when a run begins, so that the change is undone behind it."""
    patch = pack("moc.host.windows.patch")

    class Chance(patch.Drawing):
        def _next(self, rng: random.Random) -> list[list[int]]:
            order = rng.sample(range(len(self.sizes)), len(self.sizes))
            count = -(-sum(self.sizes) // self.length)
            return [sorted(order[i::count]) for i in range(count)]

    def put(model, film, together):
        model = windows(model, film, together)

        def around(executor, *args, **kwargs):
            kept, patch.Drawing = patch.Drawing, Chance
            try:
                return executor(*args, **kwargs)
            finally:
                patch.Drawing = kept

        wrappers = model.wrappers["outer_sample"]
        model.wrappers["outer_sample"] = {"chance": [around], **wrappers}  # outside the node's own
        return model

    return put
