"""Every workflow we ship loads and validates on every supported ComfyUI."""

import copy
import json
import re
import urllib.request
from pathlib import Path

import checker
import pytest

from demo.film import WINDOWS, prompt_of
from demo.host import NEWEST
from demo.server import PromptRefused
from tests.tools import blueprints, templates

WORKFLOWS = Path(__file__).resolve().parent.parent.parent / "workflows"
FILES = sorted(WORKFLOWS.glob("*.json"))
OF_FOOTAGE = ("wan_v2v_detected", "wan_remake_shot")  # as large as what is loaded
# than the oldest ComfyUI
NEED_NEWER = {"ltx2_t2v", "minimax_h3_keyframes", "minimax_h3_turbo", "wan_compare", "wan_train_lora"}
RELEASED = sorted(Path(__file__).parent.glob("released/*/*.json"))  # as each version shipped them


def read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def for_stock_nodes(path: Path) -> bool:
    """The demo's workflow needs the demo's nodes and model; `demo/run.py` runs it."""
    return not path.stem.startswith("demo_")


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_workflow_of_an_older_version_still_loads(path, object_info):
    if for_stock_nodes(path):
        assert checker.problems(read(path), object_info) == []
    else:  # other nodes are the demo's
        ours = [node for node in read(path).values() if node["class_type"] in object_info]
        known = {n["class_type"]: {i.name for i in checker.inputs_of(object_info[n["class_type"]])} for n in ours}
        assert ours and all(set(node["inputs"]) <= known[node["class_type"]] for node in ours)


@pytest.mark.parametrize("windows", WINDOWS)
def test_the_long_film_of_the_demo_gives_the_nodes_all_that_they_require(windows, object_info):
    """The demo's own nodes aside, which this server has not."""
    for node in prompt_of(windows, 24, "", 1).values():
        if not node["class_type"].startswith("MoCDemo"):
            wanted = {i.name for i in checker.inputs_of(object_info[node["class_type"]]) if i.required}
            assert wanted <= set(node["inputs"]), node["class_type"]


@pytest.fixture
def fitting(path, server, object_info):
    """A shipped graph, where this ComfyUI has the nodes of its model."""
    workflow = read(path)
    if server.host.version != NEWEST and path.stem in NEED_NEWER:
        pytest.skip("this ComfyUI is older than the model")
    return workflow


shipped = pytest.mark.parametrize("path", [p for p in FILES if for_stock_nodes(p)], ids=lambda path: path.stem)


@shipped
def test_a_workflow_fits_the_nodes_of_the_server(fitting, object_info):
    assert checker.problems(fitting, object_info) == []


@shipped
def test_only_model_files_stand_between_a_workflow_and_its_run(fitting, server, object_info):
    """ComfyUI's own validation accepts everything but the files that this machine does not have."""
    with pytest.raises(PromptRefused) as refusal:
        server.queue(checker.to_prompt(fitting, object_info))
    errors = [e for node in refusal.value.answer["node_errors"].values() for e in node["errors"]]
    assert errors and {e["extra_info"]["input_name"] for e in errors} <= checker.FILES
    assert {e["type"] for e in errors} <= {"value_not_in_list", "custom_validation_failed"}


@shipped
def test_a_workflow_explains_itself_and_shows_the_routing(path):
    workflow = read(path)
    nodes = {node["type"]: node for node in workflow["nodes"]}
    assert {"MoCRouting", "MoCApply", "MoCRoutingHeatmap", "MarkdownNote"} <= set(nodes)
    after_sample = next(i for i in nodes["MoCRoutingHeatmap"]["inputs"] if i["name"] == "after_sample")
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    source = next(kinds[link[1]] for link in workflow["links"] if link[0] == after_sample["link"])
    assert source.startswith(("KSampler", "SamplerCustom")) or source in ("TrimVideoLatent", "LTXVSeparateAVLatent")


@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_a_template_is_what_its_description_says(name, server, object_info):
    """`python -m tests.tools.templates` writes them anew."""
    if server.host.version == NEWEST:
        assert (WORKFLOWS / f"{name}.json").read_text("utf-8") == templates.written(name, object_info)


def test_templates_make_videos_of_the_usual_sizes(server, object_info):
    for name in templates.TEMPLATES:
        if name in NEED_NEWER and server.host.version != NEWEST:
            continue
        inputs = [node["inputs"] for node in checker.to_prompt(read(WORKFLOWS / f"{name}.json"), object_info).values()]
        sizes = {(one["width"], one["height"]) for one in inputs if "width" in one}
        assert sizes <= {(1344, 768), (1280, 720), (1280, 704), (832, 480)}, name
        assert sizes or name in OF_FOOTAGE


def test_every_template_loads_files_that_comfyuis_own_templates_name(server):
    """So that who has them has ours."""
    (packages,) = server.host.python.parent.parent.glob("lib/python3*/site-packages")
    theirs = "".join(path.read_text("utf-8") for path in packages.glob("comfyui_workflow_templates*/**/*.json"))
    ours = "".join((WORKFLOWS / f"{name}.json").read_text("utf-8") for name in templates.TEMPLATES)
    files = set(re.findall(r'"([\w.-]+\.safetensors)"', ours))
    addresses = set(re.findall(r'"(https://[^"]+)"', ours))
    assert len(files) > 10 and len(addresses) > 10
    elsewhere = {templates.PHANTOM, templates.TURBO, *templates.HOLOCINE}  # loaded by no template of ComfyUI
    elsewhere |= {templates.file_of(url) for url in (templates.PHANTOM, templates.TURBO)}
    assert {text for text in files | addresses if text not in theirs} == elsewhere


VARIANTS = {"hunyuan15": "HunyuanVideo 1.5 t2v", "ltx2": "LTX-2 t2v", "minimax": "MiniMax H3 t2v", "wan": "t2v"}


def small(prompt: dict, variant: str) -> dict:
    """The prompt with tiny stand-ins for everything that is loaded, few steps, and small pictures."""
    side = 256 if variant.startswith("LTX") else 64  # its tokens are the largest
    numbers = {"width": side, "height": side, "steps": 2, "rank": 2, "training_dtype": "fp32", "lora_dtype": "fp32"}
    halfway = {"end_at_step": 1, "start_at_step": 1}
    trained = any(node["class_type"] == "TrainLoraNode" for node in prompt.values())
    clip, vae = ("MoCTestClip", {"variant": variant}), ("MoCTestVae", {"variant": variant})
    model, sound = ("MoCTestModel", {"variant": variant, "from_file": trained}), ("MoCTestVae", {"sound": True})
    loaded = {"UNETLoader": model, "CLIPLoader": clip, "DualCLIPLoader": clip, "LTXAVTextEncoderLoader": clip}
    loaded |= {"LTXVAudioVAELoader": sound, "LoadVideoTextDataSetFromFolder": ("MoCTestClips", {})}
    picture = {"width": 64, "height": 64, "batch_size": 1, "color": 0x808080}
    made = {}
    for number, node in prompt.items():
        kind, inputs = node["class_type"], dict(node["inputs"])
        inputs |= {name: value for name, value in numbers.items() if name in inputs}
        inputs |= {name: value for name, value in halfway.items() if inputs.get(name) == 10}
        if kind in loaded:
            kind, inputs = loaded[kind]
        elif kind == "VAELoader":
            kind, inputs = sound if "audio" in inputs["vae_name"] else vae
        elif kind == "CheckpointLoaderSimple":
            made[f"{number}-vae"] = {"class_type": vae[0], "inputs": vae[1]}
            kind, inputs = model
        elif kind == "LoadImage":
            kind, inputs = "EmptyImage", picture
        elif kind == "LoadVideo":
            for shot, count, colour in (("a", 17, 0x808080), ("b", 16, 0x2040F0)):  # a cut that is found
                of_shot = picture | {"batch_size": count, "color": colour}
                made[f"{number}-{shot}"] = {"class_type": "EmptyImage", "inputs": of_shot}
            both = {"image1": [f"{number}-a", 0], "image2": [f"{number}-b", 0]}
            made[f"{number}-frames"] = {"class_type": "ImageBatch", "inputs": both}
            kind, inputs = "CreateVideo", {"images": [f"{number}-frames", 0], "fps": 16.0}
        made[number] = {"class_type": kind, "inputs": inputs}
    return without(made)


def without(prompt: dict) -> dict:
    """Links around what there is no stand-in for: a LoRA file, a checkpoint's VAE, videos that are pictures already."""
    gone = {n: node for n, node in prompt.items() if node["class_type"] == "LoraLoaderModelOnly"}
    moved = {(n, 0): node["inputs"]["model"] for n, node in gone.items()}
    moved |= {(n, 2): [f"{n}-vae", 0] for n in prompt if f"{n}-vae" in prompt}
    for number, node in prompt.items():
        source = node["inputs"].get("video")
        if node["class_type"] == "GetVideoComponents" and prompt[source[0]]["class_type"] == "MoCTestClips":
            gone[number], moved[number, 0] = node, source
    kept = {n: node for n, node in prompt.items() if n not in gone}
    for node in kept.values():
        links = {name: tuple(value) for name, value in node["inputs"].items() if isinstance(value, list)}
        node["inputs"] |= {name: moved[link] for name, link in links.items() if link in moved}
    return kept


@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_a_template_runs_to_its_film_on_a_tiny_model(name, server, object_info):
    if name in NEED_NEWER | {"hunyuan15_t2v"} and server.host.version != NEWEST:
        pytest.skip("this ComfyUI is older than the model or its nodes")
    variant = next((v for family, v in VARIANTS.items() if name.startswith(family)), "t2v")
    prompt = small(checker.to_prompt(read(WORKFLOWS / f"{name}.json"), object_info), variant)
    run = server.wait(server.queue(prompt), timeout=240)
    of = {kind: number for number, kind in ((n, node["class_type"]) for n, node in prompt.items())}
    report = run.texts[of["PreviewAny"]]
    dense = [line for line in report.splitlines() if " dense: " in line]
    if name == "wan_remake_shot":  # which looks at single frames
        assert "6 dense: a single latent frame" in dense.pop() and "through the bank" in report
    asked = any(node["inputs"].get("dense_above", 1.0) < 1.0 for node in prompt.values())
    assert report.startswith("MoC on: ") and len(dense) == asked
    assert not dense or "dense_above" in dense[0]
    assert run.files[of["SaveVideo"]]


@pytest.mark.parametrize("name", blueprints.BLUEPRINTS)
def test_a_blueprint_is_what_its_description_says(name, server, object_info):
    """`python -m tests.tools.blueprints` writes them anew; the browser tests run them."""
    if server.host.version == NEWEST:
        assert (blueprints.FOLDER / f"{name}.json").read_text("utf-8") == blueprints.written(name, object_info)


def test_comfyui_lists_the_workflows_as_templates(server):
    assert set(server.get("/workflow_templates")["mixture-of-contexts"]) == {path.stem for path in FILES}


def test_a_thumbnail_is_where_the_template_browser_looks_and_small(server):
    """`python -m tests.tools.thumbnails` makes them."""
    found = {path.stem: path for path in WORKFLOWS.glob("*.jpg")}
    assert found and set(found) <= {path.stem for path in FILES}
    for name, path in found.items():
        with urllib.request.urlopen(f"{server.url}/api/workflow_templates/mixture-of-contexts/{name}.jpg") as answer:
            assert answer.read() == path.read_bytes() and path.stat().st_size < 60_000


# The checker itself finds what is wrong.


def broken(change):
    workflow = copy.deepcopy(read(WORKFLOWS / "wan_t2v_multishot.json"))
    nodes = {node["type"]: node for node in workflow["nodes"]}
    change(workflow, nodes)
    return workflow


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w, n: n["MoCApply"].update(type="MoCAply"), "no such node"),
        (lambda w, n: n["MoCShots"]["widgets_values"].__setitem__(0, "cut"), "how is 'cut', not one of"),
        (lambda w, n: n["MoCRouting"]["widgets_values"].__setitem__(2, -1), "top_k is -1, outside 0 to"),
        (lambda w, n: n["MoCShots"]["widgets_values"].insert(0, "cuts"), "9 saved values for 8 widgets"),
        (lambda w, n: n["KSampler"]["widgets_values"].pop(1), "is 'uni_pc', not"),
        (lambda w, n: w["links"].pop(), "does not exist"),
        (lambda w, n: n["MoCApply"]["inputs"][0].update(name="modell"), "no input modell"),
        (lambda w, n: n["MoCApply"]["inputs"][0].update(link=None), "does not arrive"),
        (lambda w, n: w.update(last_node_id=3), "last_node_id is too small"),
    ],
)
def test_a_broken_workflow_is_found_out(change, problem, object_info):
    assert any(problem in text for text in checker.problems(broken(change), object_info))
