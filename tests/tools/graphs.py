"""Graphs as ComfyUI saves them, from a few lines each: nodes in columns, inputs by name."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.workflow import checker

GAP, ROW, TITLE = 60, 24, 46
OURS, NOTE = "#232", "#432"
DRAWN_ONLY = "MarkdownNote"
FOLDERS = {"CheckpointLoaderSimple": "checkpoints", "UNETLoader": "diffusion_models", "LoraLoaderModelOnly": "loras"}


@dataclass(frozen=True)
class Out:
    """An output of a node, to be given to another one's input."""

    node: Node
    name: str


@dataclass
class Node:
    saved: dict[str, Any]
    info: Mapping[str, Any]

    def __getitem__(self, output: str) -> Out:
        return Out(self, output)

    @property
    def only(self) -> Out:
        return Out(self, self.info["output_name"][0])


@dataclass
class Graph:
    """`info`: the nodes of a server (`/object_info`)."""

    info: Mapping[str, Any]
    nodes: list[Node] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    x: int = 0
    y: int = 0
    width: int = 0

    def column(self, title: str, width: int = 400) -> None:
        """From here on nodes stand below each other in a new group."""
        self.close()
        self.x, self.y, self.width = self.x + (self.width + GAP if self.width else 0), 0, width
        self.groups.append({"id": len(self.groups) + 1, "title": f"{len(self.groups) + 1}  {title}", "bounding": []})

    def close(self) -> None:
        if self.groups and not self.groups[-1]["bounding"]:
            box = [self.x - 20, -90, self.width + 40, self.y + 100]
            self.groups[-1] |= {"bounding": box, "color": "#3f789e", "font_size": 24, "flags": {}}

    def note(self, text: str, size: tuple[int, int] = (520, 420)) -> None:
        node = self._node(DRAWN_ONLY, size, "Read me", NOTE) | {"pos": [-size[0] - 40, 0], "widgets_values": [text]}
        self.nodes.append(Node(node, {"output_name": []}))

    def add(self, kind: str, /, title: str | None = None, *, tall: int = 0, url: str = "", **values: Any) -> Node:
        """A node below the last. values: of widgets, or outputs of other nodes. url: where its file comes from."""
        info = self.info[kind]
        items = list(checker.inputs_of(info))
        if unknown := set(values) - {item.name for item in items}:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}")
        rows = max(sum(not item.is_widget for item in items), len(info["output"]))
        rows += sum(item.is_widget and not item.options.get("advanced") for item in items)
        tall = tall or TITLE + ROW * rows
        saved = self._node(kind, (self.width, tall), title, OURS if kind.startswith("MoC") else None)
        saved["properties"] = {
            "Node name for S&R": kind,
            "cnr_id": "mixture-of-contexts" if kind.startswith("MoC") else "comfy-core",
        }
        if url:
            folder, name = url.split("/")[-2:]
            folder = FOLDERS[kind] if folder == "main" else folder
            saved["properties"]["models"] = [{"name": name, "url": url, "directory": folder}]
        node = Node(saved, info)
        self.nodes.append(node)
        saved["outputs"] = [
            {"name": name, "type": type_, "links": [], "slot_index": slot}
            for slot, (name, type_) in enumerate(zip(info["output_name"], info["output"]))
        ]
        for item in items:
            self._input(node, item, values.get(item.name))
        saved["widgets_values"] = list(_widget_values(items, values))
        self.y += tall + GAP
        return node

    def _node(self, kind: str, size: tuple[int, int], title: str | None, color: str | None) -> dict[str, Any]:
        place = {"id": len(self.nodes) + 1, "type": kind, "pos": [self.x, self.y], "size": list(size)}
        rest = {"flags": {}, "order": len(self.nodes), "mode": 0, "inputs": [], "outputs": [], "properties": {}}
        looks = {"title": title} if title else {}
        return {
            **place,
            **rest,
            **looks,
            **({"color": color, "bgcolor": {OURS: "#353", NOTE: "#653"}[color]} if color else {}),
        }

    def _input(self, node: Node, item: checker.Input, value: Any) -> None:
        if item.is_widget and not isinstance(value, Out):
            return
        made: dict[str, Any] = {"name": item.name, "type": item.type, "link": None}
        if not item.required:
            made["shape"] = 7
        if item.is_widget:
            made["widget"] = {"name": item.name}
        node.saved["inputs"].append(made)
        if isinstance(value, Out):
            self._link(value, node, len(node.saved["inputs"]) - 1)

    def _link(self, source: Out, target: Node, slot: int) -> None:
        out = source.node.info["output_name"].index(source.name)
        number, kind = len(self.links) + 1, source.node.info["output"][out]
        self.links.append([number, source.node.saved["id"], out, target.saved["id"], slot, kind])
        source.node.saved["outputs"][out]["links"].append(number)
        target.saved["inputs"][slot]["link"] = number

    def saved(self, name: str) -> dict[str, Any]:
        self.close()
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": [node.saved for node in self.nodes],
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [640, 180]}},
            "version": 0.4,
        }


def from_prompt(prompt: Mapping[str, Any], info: Mapping[str, Any], title: str) -> Graph:
    """The graph of a prompt in API format, a column for every step away from its start."""
    depth: dict[str, int] = {}

    def sources(number: str) -> list[str]:
        return [value[0] for value in prompt[number]["inputs"].values() if isinstance(value, list)]

    def depth_of(number: str) -> int:
        if number not in depth:
            depth[number] = 1 + max((depth_of(source) for source in sources(number)), default=-1)
        return depth[number]

    graph, made = Graph(info), dict[str, Node]()
    for number in sorted(prompt, key=depth_of):
        while len(graph.groups) <= depth_of(number):
            graph.column(title if not graph.groups else "")
        node = prompt[number]
        outputs = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
        given = {name: Out(made[n], made[n].info["output_name"][slot]) for name, (n, slot) in outputs.items()}
        made[number] = graph.add(node["class_type"], node.get("_meta", {}).get("title"), **(node["inputs"] | given))
    return graph


def _widget_values(items: Iterable[checker.Input], values: Mapping[str, Any]) -> Iterable[Any]:
    """By position, as the front end saves them; none behind the last one that is required or was given."""
    widgets = [item for item in items if item.is_widget]
    said = [i for i, item in enumerate(widgets) if item.required or item.name in values]
    for item in widgets[: max(said, default=-1) + 1]:
        value = values.get(item.name)
        if value is None or isinstance(value, Out):
            value = item.options.get("default", (item.options.get("options") or [""])[0])
        yield value
        if item.has_companion:
            yield "fixed" if item.options.get("control_after_generate") else "image"
