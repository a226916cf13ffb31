"""Writes the blueprints in subgraphs/, which ComfyUI offers as nodes of their own: python -m tests.tools.blueprints"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tools.graphs import Graph, Node, Out
from tests.tools.templates import SHOTS

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
INPUT, OUTPUT = -10, -20  # what ComfyUI calls the two ends of a subgraph
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


class Inside(Graph):
    """A graph that has inputs, outputs, and widgets that are shown on the outside."""

    def __init__(self, info: dict[str, Any]) -> None:
        super().__init__(info)
        self.source = Node({"id": INPUT, "outputs": []}, {"output_name": [], "output": []})
        self.target = Node({"id": OUTPUT, "inputs": []}, {})
        self.shown: list[list[str]] = []

    def given(self, name: str, kind: str) -> Out:
        self.source.info["output_name"].append(name)
        self.source.info["output"].append(kind)
        self.source.saved["outputs"].append({"name": name, "type": kind, "links": []})
        return Out(self.source, name)

    def gives(self, name: str, out: Out) -> None:
        kind = out.node.info["output"][out.node.info["output_name"].index(out.name)]
        self.target.saved["inputs"].append({"name": name, "type": kind, "link": None})
        self._link(out, self.target, len(self.target.saved["inputs"]) - 1)

    def show(self, node: Node, *widgets: str) -> None:
        self.shown += [[str(node.saved["id"]), widget] for widget in widgets]

    def blueprint(self, name: str, about: str) -> dict[str, Any]:
        self.close()
        number = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        ends = {"inputs": self.source.saved["outputs"], "outputs": self.target.saved["inputs"]}
        slots = {
            side: [
                {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {side} {slot['name']}")), "name": slot["name"]}
                | {"type": slot["type"], "linkIds": slot["links"] if side == "inputs" else [slot["link"]]}
                for slot in found
            ]
            for side, found in ends.items()
        }
        high = 60 + 20 * max(map(len, slots.values()))
        inside = {
            "id": number,
            "version": 1,
            "state": {"lastGroupId": 0, "lastNodeId": len(self.nodes), "lastLinkId": len(self.links)}
            | {"lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": name,
            "inputNode": {"id": INPUT, "bounding": [-240, 0, 140, high]},
            "outputNode": {"id": OUTPUT, "bounding": [self.x + self.width + 100, 0, 140, high]},
            **slots,
            "widgets": [],
            "nodes": [node.saved for node in self.nodes],
            "groups": [],
            "links": [dict(zip(LINK, link)) for link in self.links],
            "extra": {},
            "category": "MoC",
            "description": about,
        }
        outside = {
            "id": len(self.nodes) + 1,
            "type": number,
            "pos": [0, 0],
            "size": [400, 100 + 24 * (max(map(len, slots.values())) + len(self.shown))],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [{"name": s["name"], "type": s["type"], "link": None} for s in slots["inputs"]],
            "outputs": [{"name": s["name"], "type": s["type"], "links": []} for s in slots["outputs"]],
            "properties": {"proxyWidgets": self.shown},
            "widgets_values": [],
            "title": name,
        }
        ids = {"last_node_id": outside["id"], "last_link_id": len(self.links)}
        return {"revision": 0, **ids, "nodes": [outside], "links": [], "version": 0.4} | {
            "definitions": {"subgraphs": [inside]}
        }


def sample_with_moc(g: Inside) -> str:
    """In place of KSampler."""
    model, positive = g.given("model", "MODEL"), g.given("positive", "CONDITIONING")
    negative, latent = g.given("negative", "CONDITIONING"), g.given("latent_image", "LATENT")
    g.column("Shots and routing", 480)
    shots = g.add("MoCShots", tall=780)
    routing = g.add("MoCRouting", tall=150)
    g.column("Sampling")
    applied = g.add("MoCApply", tall=140, model=model, shots=shots["shots"], routing=routing["routing"])
    how = {"steps": 20, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"}
    texts = {"positive": positive, "negative": negative, "latent_image": latent}
    sampled = g.add("KSampler", model=applied["model"], **texts, **how)
    g.column("Heatmap", 560)
    heatmap = g.add("MoCRoutingHeatmap", tall=640, trace=applied["trace"], after_sample=sampled.only, view="shots")
    for name in ("latent", "heatmap", "report"):
        g.gives(name, heatmap[name])
    g.show(shots, "times", "family")
    g.show(routing, "preset")
    g.show(sampled, "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
    return "KSampler with the video's shots, routing, and a heatmap of who read whom. Shots are drawn on the inside."


def shots_with_prompts(g: Inside) -> str:
    """In front of any sampler."""
    model, clip = g.given("model", "MODEL"), g.given("clip", "CLIP")
    g.column("Shots", 480)
    shots = g.add("MoCShots", tall=780, times="29, 57", prompt=SHOTS, length=81, family="Wan")
    g.column("Model")
    captions = g.add("MoCShotConditioning", model=model, shots=shots["shots"], clip=clip)
    routing = g.add("MoCRouting", tall=150)
    applied = g.add("MoCApply", tall=140, model=captions["model"], shots=shots["shots"], routing=routing["routing"])
    outputs = {"model": applied["model"], "positive": captions["conditioning"]}
    for name, out in {**outputs, "shots": shots["shots"], "trace": applied["trace"]}.items():
        g.gives(name, out)
    g.show(shots, "prompt", "times", "family")
    g.show(routing, "preset")
    return "Gives every shot of a video its own prompt and turns MoC on. trace is for MoC Routing Heatmap."


BLUEPRINTS: dict[str, Callable[[Inside], str]] = {
    "Sample with MoC": sample_with_moc,
    "MoC Shots with Prompts": shots_with_prompts,
}


def written(name: str, object_info: dict[str, Any]) -> str:
    graph = Inside(object_info)
    about = BLUEPRINTS[name](graph)
    return json.dumps(graph.blueprint(name, about), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    from demo.host import NEWEST, prepare
    from demo.server import Server

    with Server(prepare(NEWEST, tools=True), cpu=True) as server:
        info = server.object_info()
    FOLDER.mkdir(exist_ok=True)
    for name in BLUEPRINTS:
        (FOLDER / f"{name}.json").write_text(written(name, info), "utf-8")


if __name__ == "__main__":
    main()
