"""The pack inside a running ComfyUI, over HTTP: what its nodes offer, what they refuse, and one run from end to end."""

import urllib.request
from pathlib import Path

import checker
import pytest
from PIL import Image

from demo.host import NEWEST
from demo.server import PromptRefused, RunFailed

NODES = {
    "MoCShots": "MoC Shots",
    "MoCDetectShots": "MoC Detect Shots",
    "MoCDetectShotsLatent": "MoC Detect Shots (latent)",
    "MoCShotConditioning": "MoC Shot Conditioning",
    "MoCRouting": "MoC Routing",
    "MoCApply": "MoC Apply",
    "MoCWindows": "MoC Windows",
    "MoCRemake": "MoC Remake",
    "MoCMemory": "MoC Memory",
    "MoCRecall": "MoC Recall",
    "MoCRoutingHeatmap": "MoC Routing Heatmap",
    "MoCProbe": "MoC Probe",
    "MoCProbeReport": "MoC Probe Report",
}
OUTPUTS = {
    "MoCShots": ["MOC_SHOTS", "STRING", "STRING", "STRING"],
    "MoCDetectShots": ["MOC_SHOTS", "STRING", "STRING", "IMAGE", "STRING"],
    "MoCDetectShotsLatent": ["MOC_SHOTS", "STRING"],
    "MoCShotConditioning": ["MODEL", "CONDITIONING", "STRING"],
    "MoCRouting": ["MOC_ROUTING", "STRING"],
    "MoCApply": ["MODEL", "MOC_TRACE"],
    "MoCWindows": ["MODEL"],
    "MoCRemake": ["MODEL", "LATENT", "MOC_SHOTS"],
    "MoCMemory": ["MOC_MEMORY"],
    "MoCRecall": ["MODEL"],
    "MoCRoutingHeatmap": ["IMAGE", "STRING", "LATENT", "STRING"],
    "MoCProbe": ["MODEL", "MOC_PROBE"],
    "MoCProbeReport": ["MOC_ROUTING", "IMAGE", "STRING", "STRING", "LATENT"],
}
FIRST_MET = {
    "MoCShots": ["how", "times", "unit", "fps", "shot_count", "prompt", "family", "detected"],
    "MoCDetectShots": ["detector", "images", "video", "threshold", "min_length", "fps", "family", "scenes_json"],
    "MoCDetectShotsLatent": ["latent", "threshold"],
    "MoCShotConditioning": ["model", "shots", "clip", "captions"],
    "MoCRouting": ["preset", "budget", "top_k", "density"],
    "MoCApply": ["model", "shots", "routing", "quality"],
    "MoCWindows": ["model", "shots", "windows", "length", "overlap", "draw_seed", "bank", "bank_shots", "bank_mask"],
    "MoCRemake": ["model", "film", "shots", "do", "shot", "length", "prompt", "sees"],
    "MoCMemory": ["name", "kind", "latent", "image", "vae", "mask", "made_with", "memories", "frames", "strength"],
    "MoCRecall": ["model", "memories", "shots", "read"],
    "MoCRoutingHeatmap": ["trace", "after_sample", "view", "block", "head", "images"],
    "MoCProbe": ["model", "shots", "routing", "steps_probed"],
    "MoCProbeReport": ["probe", "after_sample", "error", "scope"],
}
DOCS = Path(__file__).resolve().parent.parent.parent / "js" / "docs"


@pytest.mark.parametrize("node", NODES)
class TestWhatANodeOffers:
    def test_its_name_its_place_and_its_outputs(self, node, object_info):
        info = object_info[node]
        assert (info["display_name"], info["category"], info["output"]) == (NODES[node], "MoC", OUTPUTS[node])

    def test_every_socket_and_widget_is_explained(self, node, object_info):
        info = object_info[node]
        assert info["description"]
        assert all(info["output_tooltips"])
        assert [i.name for i in checker.inputs_of(info) if not i.options.get("tooltip")] == []

    def test_few_inputs_are_met_first(self, node, object_info):
        inputs = checker.inputs_of(object_info[node])
        assert [i.name for i in inputs if not i.options.get("advanced")] == FIRST_MET[node]

    def test_choices_are_words_and_the_default_is_one_of_them(self, node, object_info):
        for item in checker.inputs_of(object_info[node]):
            if item.type == "COMBO":
                assert all(isinstance(option, str) for option in item.options["options"])
                assert item.options["default"] in item.options["options"]

    def test_its_help_page_is_served_and_names_every_input(self, node, server, object_info):
        with urllib.request.urlopen(f"{server.url}/extensions/mixture-of-contexts/docs/{node}.md") as answer:
            page = answer.read().decode()
        assert page == (DOCS / f"{node}.md").read_text("utf-8")
        assert [i.name for i in checker.inputs_of(object_info[node]) if i.name not in page] == []


def shots(**inputs):
    return {"class_type": "MoCShots", "inputs": {"how": "cuts", **inputs}}


def routing(**inputs):
    return {"class_type": "MoCRouting", "inputs": {"preset": "recommended", **inputs}}


def show(node, output):
    return {"class_type": "PreviewAny", "inputs": {"source": [node, output]}}


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (shots(times="97, 40"), "cut 2 (frame 40) does not come after frame 97: put the cuts in order."),
        (shots(times="soon"), "'soon' is not a number: write cuts like 49, 97 or 2.5s, 4s."),
        (shots(how="durations", times="20, 0"), "shot 2 lasts 0 frames; every shot needs at least 1."),
        (shots(how="durations"), "no durations given: write one number per shot, like 49, 48, 32."),
        (shots(how="by hand"), "how is 'by hand'; choose one of: cuts, durations, equal shots, prompt, detected."),
        (routing(top_k=-1), "top_k is -1; it counts chunks, so use 0 or more."),
        (routing(density=0), "density is 0.0; it is a share of all pairs: use more than 0 and at most 1"),
        (routing(density=1.5), "density is 1.5; it is a share of all pairs: use more than 0 and at most 1"),
        (routing(tile="4x4"), "tile is '4x4': write three sizes of 1 or more, frames x rows x columns, like 1x4x4."),
        (routing(start_percent=0.9, end_percent=0.1), "both must lie between 0 and 1, start first."),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(server, node, sentence):
    with pytest.raises(PromptRefused) as refusal:
        server.queue({"1": node, "2": show("1", 1)})
    assert any(sentence in text for text in refusal.value.errors["1"])


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (shots(times="40", length=33), "the video ends at frame 33: move the cut or make the video longer."),
        (shots(times="40", prompt="a [shot cut] b [shot cut] c"), "3 shot texts for 2 shots"),
        (shots(how="durations", times="20, 9", length=33), "last 29 frames together, but length is 33"),
        (shots(how="prompt"), "the prompt is empty: write one text per shot"),
    ],
)
def test_inputs_that_contradict_each_other_stop_the_node(server, node, sentence):
    with pytest.raises(RunFailed, match=sentence):
        server.wait(server.queue({"1": node, "2": show("1", 3)}))


def test_a_choice_that_does_not_exist_never_passes(server):
    """Older hosts let it through validation; then the node refuses it."""
    prompt = {"1": routing(preset="best"), "2": show("1", 1)}
    if server.host.version == NEWEST:
        with pytest.raises(PromptRefused, match="Value not in list"):
            server.queue(prompt)
    else:
        with pytest.raises(RunFailed, match="preset is 'best'; choose one of"):
            server.wait(server.queue(prompt))


def test_shots_and_routing_say_what_they_do(server):
    prompt = "[global] a woman [shot 1] walks [shot cut] runs"
    run = server.wait(
        server.queue(
            {
                "1": shots(times="29", prompt=prompt),
                "whole": show("1", 1),
                "each": show("1", 2),
                "summary": show("1", 3),
                "2": routing(budget="top-k", top_k=3),
                "routing": show("2", 1),
            }
        )
    )
    assert run.texts["whole"] == "a woman\nwalks\nruns"
    assert run.texts["each"] == "a woman\nwalks\na woman\nruns"  # the preview ran once per shot
    assert run.texts["summary"] == "2 shots, frames 0-28, 29 to the end."
    assert run.texts["routing"].startswith("Every token sees")


def film(seed: int, times: str = "5, 9", view: str = "shots") -> dict:
    """17 frames of 64x64: 5 latent frames of 4x4 tokens, cut into three shots, through a tiny random model."""
    size = {"width": 64, "height": 64, "length": 17, "batch_size": 1}
    sampling = {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return {
        "model": {"class_type": "MoCTestModel", "inputs": {}},
        "shots": shots(times=times, length=17),
        "routing": routing(budget="top-k", top_k=2, chunking="tile", tile="1x2x2"),
        "apply": {
            "class_type": "MoCApply",
            "inputs": {"model": ["model", 0], "shots": ["shots", 0], "routing": ["routing", 0]},
        },
        "latent": {"class_type": "EmptyHunyuanLatentVideo", "inputs": size},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                **{"model": ["apply", 0], "positive": ["model", 1], "negative": ["model", 1]},
                **{"latent_image": ["latent", 0], "seed": seed, **sampling},
            },
        },
        "heatmap": {
            "class_type": "MoCRoutingHeatmap",
            "inputs": {"trace": ["apply", 1], "after_sample": ["sampler", 0], "view": view},
        },
        "saved": {"class_type": "SaveLatent", "inputs": {"samples": ["heatmap", 2], "filename_prefix": "moc_test"}},
    }


def test_a_film_is_sampled_and_its_routing_is_shown(server):
    run = server.wait(server.queue(film(seed=1)))
    report = run.texts["heatmap"]
    # 3 blocks in 2 steps; a frame of 4 tiles and 2 more of the 16 others: 6 of 20
    assert report.startswith("MoC on: 6 of 6 self-attention calls routed, 30.0% of pairs kept.")
    assert "Shot 3 reads" in report
    (picture,) = run.files["heatmap"]
    with Image.open(picture) as image:
        assert image.width == 1000 and len(image.getcolors(2**20)) > 50
    assert run.outputs["saved"]["latents"]  # the latent came through


def test_another_view_of_the_same_run_samples_nothing_again(server):
    server.wait(server.queue(film(seed=2, view="shots")))
    run = server.wait(server.queue(film(seed=2, view="chunks")))
    cached = next(details["nodes"] for kind, details in run.messages if kind == "execution_cached")
    assert "sampler" in cached and "heatmap" not in cached
    assert run.texts["heatmap"].startswith("MoC on: 6 of 6")


def test_a_new_run_shows_itself_and_not_the_last_one(server):
    """The patched model is cached between runs; its trace starts anew."""
    for seed in (3, 4):
        run = server.wait(server.queue(film(seed=seed)))
        assert run.texts["heatmap"].startswith("MoC on: 6 of 6")


def test_only_the_model_is_needed(server):
    prompt = film(seed=5)
    prompt["apply"]["inputs"] = {"model": ["model", 0]}
    report = server.wait(server.queue(prompt)).texts["heatmap"]
    assert "Shot" not in report  # one shot reads no other


def test_a_heatmap_that_runs_too_early_says_what_to_connect(server):
    prompt = film(seed=6)
    heatmap = {"class_type": "MoCRoutingHeatmap", "inputs": {"trace": ["apply", 1]}}
    run = server.wait(
        server.queue({**{k: prompt[k] for k in ("model", "shots", "routing", "apply")}, "heatmap": heatmap})
    )
    assert "nothing sampled yet. Connect the sampler's LATENT" in run.texts["heatmap"]
    assert run.files["heatmap"]


def test_with_moc_apply_bypassed_the_film_is_made_all_the_same(server):
    """The front end then gives the sampler the model itself, and the heatmap no trace."""
    prompt = film(seed=9)
    del prompt["apply"], prompt["shots"], prompt["routing"], prompt["heatmap"]["inputs"]["trace"]
    prompt["sampler"]["inputs"]["model"] = ["model", 0]
    run = server.wait(server.queue(prompt))
    assert run.texts["heatmap"].startswith("MoC: nothing was routed. MoC Apply is bypassed")
    assert run.files["heatmap"] and run.outputs["saved"]["latents"]


def test_a_cut_beyond_the_film_stops_the_run_before_its_first_step(server):
    prompt = film(seed=7)
    prompt["shots"] = shots(times="33")
    with pytest.raises(RunFailed, match="cut 1 is at frame 33, but this video has only 17 frames"):
        server.wait(server.queue(prompt))
    assert server.wait(server.queue(film(seed=7))).texts["heatmap"].startswith("MoC on")


def test_a_head_that_does_not_exist_is_told(server):
    prompt = film(seed=8)
    prompt["heatmap"]["inputs"]["head"] = 2
    with pytest.raises(RunFailed, match="this model has heads 0 to 1"):
        server.wait(server.queue(prompt))
