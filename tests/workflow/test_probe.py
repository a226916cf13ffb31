"""A film is probed and its advice is used, in one graph, through a running ComfyUI."""

import json

import pytest
from test_server import film, show

from demo.server import PromptRefused


def probed(seed: int, error: float = 0.2, **inputs) -> dict:
    """The film of test_server with a probe in the place of MoC Apply, and its report."""
    prompt = film(seed)
    prompt["apply"] = {"class_type": "MoCProbe", "inputs": {**prompt["apply"]["inputs"], "steps_probed": 2, **inputs}}
    prompt["heatmap"] = {
        "class_type": "MoCProbeReport",
        "inputs": {"probe": ["apply", 1], "after_sample": ["sampler", 0], "error": error},
    }
    prompt["saved"]["inputs"]["samples"] = ["heatmap", 4]
    return {**prompt, "json": show("heatmap", 3)}


def beside(prompt: dict, nodes: dict) -> dict:
    """The prompt, and a second apply, sampler and heatmap like those in `nodes`, wired to each other."""
    second = {old: f"{old}2" for old in ("apply", "sampler", "heatmap")}
    for old, new in second.items():
        inputs = nodes[old]["inputs"].items()
        moved = {k: [second.get(v[0], v[0]), v[1]] if isinstance(v, list) else v for k, v in inputs}
        prompt[new] = {**nodes[old], "inputs": moved}
    return prompt


def test_it_reports_in_words_in_a_picture_and_as_data(server):
    run = server.wait(server.queue(probed(seed=31)))
    report, data = run.texts["heatmap"], json.loads(run.texts["json"])
    assert report.startswith("MoC Probe looked at steps 0-1 of 2 (counted from 0), 3 of 3 blocks, 80 tokens.")
    assert "Advice for an error of at most 20% in every routed block:" in report
    assert len(data["asked"]["calls"]) == 6 and data["advice"]["routes"]
    assert max(data["advice"]["expected_error_of_block"]) <= 0.2 and data["advice"]["work"] < 1
    assert run.files["heatmap"] and run.outputs["saved"]["latents"]


def test_another_error_gives_other_advice_without_sampling_again(server):
    server.wait(server.queue(probed(seed=32, error=0.5)))
    run = server.wait(server.queue(probed(seed=32, error=0.01)))
    cached = next(details["nodes"] for kind, details in run.messages if kind == "execution_cached")
    assert "sampler" in cached and "heatmap" not in cached
    assert "at most 1.0%" in run.texts["heatmap"]


def test_the_advice_goes_into_moc_apply_in_the_same_graph(server):
    prompt = beside(probed(seed=33), film(seed=33))
    prompt["apply2"]["inputs"]["routing"] = ["heatmap", 0]
    run = server.wait(server.queue(prompt))
    assert run.texts["heatmap2"].startswith("MoC on:") and "Advice" in run.texts["heatmap"]


def test_two_probes_with_the_same_inputs_report_their_own_film(server):
    """ComfyUI runs nodes with equal inputs once; what a probe sees must not be shared."""
    prompt = beside(probed(seed=35), probed(seed=35))
    prompt["sampler2"]["inputs"] |= {"steps": 3, "latent_image": ["sampler", 0]}
    prompt["heatmap"]["inputs"]["after_sample"] = ["sampler2", 0]  # both reports come after both films
    run = server.wait(server.queue(prompt))
    assert "of 2 (counted from 0)" in run.texts["heatmap"] and "of 3 (counted from 0)" in run.texts["heatmap2"]


def test_a_report_that_runs_too_early_says_what_to_connect(server):
    prompt = probed(seed=34, tokens=16)  # a probe that no run has filled
    prompt["heatmap"]["inputs"].pop("after_sample")
    run = server.wait(server.queue({k: prompt[k] for k in ("model", "shots", "routing", "apply", "heatmap")}))
    assert "nothing was sampled yet. Connect the sampler's LATENT" in run.texts["heatmap"]


def test_with_the_probe_bypassed_the_film_is_made_by_the_preset(server):
    prompt = {**beside(probed(seed=36), film(seed=36)), "routing2": show("heatmap", 2)}
    prompt["sampler"]["inputs"]["model"] = ["model", 0]
    prompt["apply2"]["inputs"]["routing"] = ["heatmap", 0]
    del prompt["apply"], prompt["routing"], prompt["heatmap"]["inputs"]["probe"]
    run = server.wait(server.queue(prompt))
    assert run.texts["heatmap"].startswith("MoC Probe: nothing was probed. MoC Probe is bypassed")
    assert run.texts["heatmap2"].startswith("MoC on:") and run.outputs["saved"]["latents"]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [({"steps": "first"}, "write step numbers from 0 on"), ({"tiles": "4x4"}, "write sizes like 1x2x2")],
)
def test_what_cannot_be_read_is_refused_before_anything_runs(server, inputs, sentence):
    prompt = probed(seed=35, **inputs)
    del prompt["shots"], prompt["apply"]["inputs"]["shots"]  # a node with a result of its own, which would run
    with pytest.raises(PromptRefused, match=sentence):
        server.queue(prompt)
