"""Checks a saved workflow against what a server says its nodes are, and turns it into what /prompt takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DRAWN_ONLY = {"Note", "MarkdownNote"}  # known to the front end alone
FILES = {"unet_name", "clip_name", "clip_name1", "clip_name2", "text_encoder", "vae_name", "ckpt_name", "lora_name"}
FILES |= {"image", "file", "folder"}  # what there is differs per machine


@dataclass(frozen=True)
class Input:
    name: str
    type: str
    options: dict[str, Any]
    required: bool

    @property
    def is_widget(self) -> bool:
        return self.kind in WIDGETS and not self.options.get("forceInput")

    @property
    def kind(self) -> str:
        """Of the widget; an input of several types may have one too."""
        return str(self.options.get("widgetType", self.type))

    @property
    def has_companion(self) -> bool:
        """The front end saves one more value behind it: "randomize", or an upload button."""
        return any(self.options.get(mark) for mark in ("control_after_generate", "image_upload", "video_upload"))


def inputs_of(info: dict[str, Any]) -> Iterator[Input]:
    """The inputs of a node in the order in which the front end saves them."""
    for section in ("required", "optional"):
        for name, spec in info["input"].get(section, {}).items():
            options = dict(spec[1]) if len(spec) > 1 else {}
            kind = spec[0]
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            elif kind == "COMFY_DYNAMICCOMBO_V3":  # a choice that may bring more inputs; ours stay at the plain ones
                kind, options = "COMBO", {**options, "options": [option["key"] for option in options["options"]]}
            drawn = kind == "IMAGECOMPARE"  # shows results, and holds nothing that would be saved
            if drawn:
                kind, options = "STRING", {**options, "default": ""}
            yield Input(name, kind, options, section == "required" and not drawn)


def is_prompt(workflow: dict[str, Any]) -> bool:
    return "nodes" not in workflow


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Saved graph -> API format."""
    source = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in DRAWN_ONLY:
            continue
        info = object_info[node["type"]]
        inputs = dict(_named_values(node, info))
        inputs |= {i["name"]: source[i["link"]] for i in node["inputs"] if i["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def problems(workflow: dict[str, Any], object_info: dict[str, Any]) -> list[str]:
    """Everything that would not load or not run, in words."""
    if is_prompt(workflow):
        return list(_prompt_problems(workflow, object_info))
    found = list(_graph_problems(workflow, object_info))
    return found or list(_prompt_problems(to_prompt(workflow, object_info), object_info))


def _named_values(node: dict[str, Any], info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    values = iter(node.get("widgets_values", []))
    for item in inputs_of(info):
        if item.is_widget:
            value = next(values, item.options.get("default"))
            if item.has_companion:
                next(values, None)
            if value is not None:
                yield item.name, value


def _graph_problems(workflow: dict[str, Any], object_info: dict[str, Any]) -> Iterator[str]:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    if len(nodes) != len(workflow["nodes"]) or max(nodes) > workflow["last_node_id"]:
        yield "node ids are not unique, or last_node_id is too small"
    links = {link[0]: link for link in workflow["links"]}
    if len(links) != len(workflow["links"]) or max(links) > workflow["last_link_id"]:
        yield "link ids are not unique, or last_link_id is too small"
    for number, source, out, target, slot, kind in links.values():
        outputs, inputs = nodes[source]["outputs"], nodes[target]["inputs"]
        if out >= len(outputs) or number not in outputs[out]["links"] or outputs[out]["type"] != kind:
            yield f"link {number} does not leave output {out} of node {source}"
        if slot >= len(inputs) or inputs[slot]["link"] != number:
            yield f"link {number} does not arrive at input {slot} of node {target}"
    for node in workflow["nodes"]:
        place = f"{node['type']} (node {node['id']})"
        if node["type"] in DRAWN_ONLY:
            continue
        if node["type"] not in object_info:
            yield f"{place}: no such node"
            continue
        info = object_info[node["type"]]
        saved = {link for item in node["inputs"] if (link := item["link"]) is not None}
        saved |= {link for item in node["outputs"] for link in item["links"]}
        for number in sorted(saved - set(links)):
            yield f"{place}: link {number} does not exist"
        known = {item.name for item in inputs_of(info)}
        for item in node["inputs"]:
            if item["name"] not in known:
                yield f"{place}: no input {item['name']}"
        widgets = [item for item in inputs_of(info) if item.is_widget]
        room = len(widgets) + sum(item.has_companion for item in widgets)
        if len(node.get("widgets_values", [])) > room:
            yield f"{place}: {len(node['widgets_values'])} saved values for {room} widgets"
        names = info["output_name"]
        # an older host may not have an output yet that nothing is wired to
        if [item["name"] for item in node["outputs"]][: len(names)] != names[: len(node["outputs"])]:
            yield f"{place}: outputs are {names}"


def _prompt_problems(prompt: dict[str, Any], object_info: dict[str, Any]) -> Iterator[str]:
    for number, node in prompt.items():
        place = f"{node['class_type']} (node {number})"
        if node["class_type"] not in object_info:
            yield f"{place}: no such node"
            continue
        known = {item.name: item for item in inputs_of(object_info[node["class_type"]])}
        for item in known.values():
            if item.required and item.name not in node["inputs"]:
                yield f"{place}: {item.name} is missing"
        for name, value in node["inputs"].items():
            if name not in known:
                yield f"{place}: no input {name}"
            elif isinstance(value, list):
                yield from (
                    f"{place}: {name} {text}" for text in _link_problems(value, known[name], prompt, object_info)
                )
            elif not known[name].is_widget:
                yield f"{place}: {name} needs a connection"
            elif text := _value_problem(value, known[name]):
                yield f"{place}: {name} {text}"


def _link_problems(link: list[Any], item: Input, prompt: dict[str, Any], object_info: dict[str, Any]) -> Iterator[str]:
    source = prompt.get(str(link[0]))
    if source is None:
        yield f"comes from node {link[0]}, which does not exist"
    elif source["class_type"] in object_info:
        outputs = object_info[source["class_type"]]["output"]
        if link[1] >= len(outputs):
            yield f"comes from output {link[1]} of {source['class_type']}, which has {len(outputs)}"
        elif "*" not in (outputs[link[1]], item.type) and outputs[link[1]] not in item.type.split(","):
            yield f"is {item.type} and gets {outputs[link[1]]}"


def _value_problem(value: Any, item: Input) -> str | None:
    kinds = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}
    if not isinstance(value, kinds[item.kind]) or (isinstance(value, bool) and item.kind != "BOOLEAN"):
        return f"is {value!r}, not {item.kind}"
    if item.kind == "COMBO" and item.name not in FILES and value not in item.options.get("options", []):
        return f"is {value!r}, not one of {item.options.get('options')}"
    if item.kind in ("INT", "FLOAT"):
        low, high = item.options.get("min", value), item.options.get("max", value)
        if not low <= value <= high:
            return f"is {value}, outside {low} to {high}"
    return None
