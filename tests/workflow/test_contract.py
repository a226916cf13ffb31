"""Saved workflows hold node ids, inputs and outputs by name, and widget values by position: none of these ever changes.

contract.json says what they are; `python tests/workflow/contract.py` adds to it what was appended to a node, and
refuses whatever would give a saved workflow other values.
"""

import copy
import json
from pathlib import Path

import checker
import contract
import pytest

HERE = Path(__file__).resolve()
WORKFLOWS = [*sorted((HERE.parents[2] / "workflows").glob("*.json")), *sorted(HERE.parent.glob("released/*/*.json"))]
COMMITTED = contract.committed()


def problems(workflow: dict) -> list[str]:
    """Of a saved graph, or of a prompt, which holds values by name."""
    ours = [node for node in workflow.get("nodes", []) if node["type"] in COMMITTED]
    found = [f"{node['type']}: {text}" for node in ours for text in contract.misfits(node, COMMITTED[node["type"]])]
    for node in workflow.values() if "nodes" not in workflow else ():
        known = {item["id"] for item in COMMITTED.get(node["class_type"], {}).get("inputs", [])}
        if known and not known >= set(node["inputs"]):
            found.append(f"{node['class_type']}: no input {set(node['inputs']) - known}")
    return found


def test_every_node_is_what_saved_workflows_hold(object_info):
    assert list(contract.broken(COMMITTED, contract.declared(object_info))) == []


def test_what_was_appended_is_in_the_contract(object_info):
    """Else the next change could take it away again."""
    now = contract.declared(object_info)
    assert {name: [i["id"] for i in node["inputs"]] for name, node in now.items()} == {
        name: [i["id"] for i in node["inputs"]] for name, node in COMMITTED.items()
    }
    assert list(contract.broken(now, COMMITTED)) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_values_in_a_shipped_workflow_stand_where_the_contract_says(path):
    assert problems(json.loads(path.read_text("utf-8"))) == []


def inputs(node: str, now: dict) -> list[dict]:
    return now[node]["inputs"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda now: now.pop("MoCProbe"), "the node is gone"),
        (lambda now: inputs("MoCRouting", now).pop(), "new ones go to the end"),
        (lambda now: inputs("MoCRouting", now).insert(1, inputs("MoCRouting", now).pop(2)), "new ones go to the end"),
        (lambda now: inputs("MoCShots", now)[0].update(id="cuts"), "new ones go to the end"),
        (lambda now: inputs("MoCRouting", now)[2].update(default=21), "default was 20 and is 21"),
        (lambda now: inputs("MoCRouting", now)[2].update(type="FLOAT"), "type was 'INT'"),
        (lambda now: inputs("MoCRouting", now)[2].update(max=4095), "a range may only grow"),
        (lambda now: inputs("MoCRouting", now)[2].update(min=1), "a range may only grow"),
        (lambda now: inputs("MoCRouting", now)[0]["options"].reverse(), "choices were"),
        (lambda now: inputs("MoCRouting", now)[0]["options"].pop(), "choices were"),
        (lambda now: inputs("MoCApply", now)[1].update(required=True), "required was False"),
        (lambda now: inputs("MoCApply", now).append({"id": "new", "type": "INT", "required": True}), "be optional"),
        (lambda now: now["MoCApply"]["outputs"].reverse(), "outputs were"),
        (lambda now: now["MoCApply"]["outputs"][1].update(type="STRING"), "of another type"),
        (lambda now: now["MoCApply"]["hidden"].clear(), "hidden unique_id is gone"),
    ],
)
def test_what_would_spoil_a_saved_workflow_is_told(change, told):
    now = copy.deepcopy(COMMITTED)
    change(now)
    assert any(told in text for text in contract.broken(COMMITTED, now))


def test_inputs_and_choices_may_be_appended_and_ranges_widened():
    now = copy.deepcopy(COMMITTED)
    inputs("MoCApply", now).append({"id": "new", "type": "INT", "required": False})
    inputs("MoCRouting", now)[0]["options"].append("new")
    inputs("MoCRouting", now)[2].update(max=5000)
    now["MoCApply"]["outputs"].append({"type": "STRING", "name": "new", "list": False})
    assert list(contract.broken(COMMITTED, now)) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["fast", "top-k", "20"], "top_k is '20', not INT"),
        (["fast", "top-k", -1], "top_k is -1, outside"),
        (["recommended", 20, "top-k"], "budget is 20, not COMBO"),
        (["quick"], "preset is 'quick', not one of"),
        (["fast"] * 99, "99 values for"),
    ],
)
def test_a_value_that_stands_elsewhere_is_told(values, told):
    found = contract.misfits({"widgets_values": values}, COMMITTED["MoCRouting"])
    assert any(told in text for text in found)


def test_what_hides_an_input_is_an_input_of_the_same_node(object_info):
    told = 0
    for info in object_info.values():
        inputs = {item.name: item.options for item in checker.inputs_of(info)}
        for name, cases in ((n, c) for o in inputs.values() for n, c in o.get("only_when", {}).items()):
            told += 1
            assert name in inputs
            for other, values in (pair for case in cases for pair in case.items()):
                known = set(inputs[other].get("options", [None]))  # None: a socket with nothing connected
                assert set(values) <= known, (name, other)
    assert told > 15
