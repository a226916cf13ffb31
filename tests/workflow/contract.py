"""What saved workflows hold of our nodes: ids, inputs in order, defaults, choices, outputs. contract.json only grows.

    python tests/workflow/contract.py    add to contract.json what nodes declare beyond it

The front end saves the values of widgets by position, so an input that moves, or comes before another, gives every
saved workflow wrong values without a word. What breaks the contract is told and not written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import checker  # noqa: E402

PACK = "mixture-of-contexts"
CONTRACT = HERE / "contract.json"
FIXED = ("type", "required", "default", "step", "multiline", "forceInput", "control_after_generate", "image_upload")
KEPT = (*FIXED[2:], "options", "min", "max", "advanced")  # of an input's options

Node = dict[str, Any]


def declared(object_info: dict[str, Any]) -> dict[str, Node]:
    """Our nodes as a server declares them."""
    ours = {name: info for name, info in object_info.items() if info["python_module"].endswith(PACK)}
    return {name: _node(info) for name, info in sorted(ours.items())}


def _node(info: dict[str, Any]) -> Node:
    inputs = [
        {"id": item.name, "type": item.type, "required": item.required}
        | {key: value for key in KEPT if _says_something(key, value := item.options.get(key))}
        for item in checker.inputs_of(info)
    ]
    outputs = [
        {"type": kind, "name": name, "list": is_list}
        for kind, name, is_list in zip(info["output"], info["output_name"], info["output_is_list"], strict=True)
    ]
    return {"inputs": inputs, "hidden": sorted(info["input"].get("hidden", {})), "outputs": outputs}


def _says_something(key: str, value: Any) -> bool:
    return value is not None and (key == "default" or value is not False)


def committed() -> dict[str, Node]:
    return json.loads(CONTRACT.read_text("utf-8"))


def broken(before: dict[str, Node], now: dict[str, Node]) -> Iterator[str]:
    """In words, where saved workflows would load wrongly or not at all."""
    for name, node in before.items():
        if name not in now:
            yield f"{name}: the node is gone"
            continue
        for part, key in (("inputs", "id"), ("outputs", "name")):
            old, new = ([item[key] for item in which[name][part]] for which in (before, now))
            if new[: len(old)] != old:
                yield f"{name}: {part} were {', '.join(old)} and are {', '.join(new)}; new ones go to the end"
        if gone := set(node["hidden"]) - set(now[name]["hidden"]):
            yield f"{name}: hidden {', '.join(sorted(gone))} is gone"
        for old, new in zip(node["outputs"], now[name]["outputs"], strict=False):
            if (old["type"], old["list"]) != (new["type"], new["list"]):
                yield f"{name}: output {old['name']} is of another type"
        declared_now = {item["id"]: item for item in now[name]["inputs"]}
        for item in node["inputs"]:
            if item["id"] in declared_now:
                yield from (f"{name}.{item['id']}: {text}" for text in _changes(item, declared_now[item["id"]]))
        known = {item["id"] for item in node["inputs"]}
        for item in now[name]["inputs"]:
            if item["required"] and item["id"] not in known:
                yield f"{name}.{item['id']}: a new input must be optional"


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key in FIXED:
        if old.get(key) != new.get(key):
            yield f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
    choices = old.get("options", [])
    if new.get("options", [])[: len(choices)] != choices:
        yield f"choices were {choices} and are {new.get('options')}; new ones go to the end"
    for key, sign in (("min", -1), ("max", 1)):
        if key in new and (key not in old or sign * new[key] < sign * old[key]):
            yield f"{key} was {old.get(key)} and is {new[key]}; a range may only grow"


def misfits(node: dict[str, Any], contract: Node) -> Iterator[str]:
    """What is wrong with the values that a saved node holds by position, given the contract of its kind."""
    widgets = [item for item in contract["inputs"] if item["type"] in checker.WIDGETS and not item.get("forceInput")]
    values = node.get("widgets_values", [])
    if len(values) > len(widgets):
        yield f"{len(values)} values for {len(widgets)} widgets"
    for item, value in zip(widgets, values, strict=False):
        kinds = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}[item["type"]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and item["type"] != "BOOLEAN"):
            yield f"{item['id']} is {value!r}, not {item['type']}"
        elif item["type"] == "COMBO" and value not in item["options"]:
            yield f"{item['id']} is {value!r}, not one of {item['options']}"
        elif item["type"] in ("INT", "FLOAT") and not item.get("min", value) <= value <= item.get("max", value):
            yield f"{item['id']} is {value}, outside {item.get('min')} to {item.get('max')}"


def main() -> int:
    from demo.host import NEWEST, prepare
    from demo.server import Server

    with Server(prepare(NEWEST, tools=True), cpu=True) as server:
        now = declared(server.object_info())
    problems = list(broken(committed(), now)) if CONTRACT.exists() else []
    if problems:
        print("not written:", *problems, sep="\n")
        return 1
    CONTRACT.write_text(json.dumps(now, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
