"""Values that no widget would give, through the API: each is refused in a sentence, before anything is sampled."""

import json
import urllib.error

import pytest
from test_live import fetch
from test_server import routing, shots, show

from demo.server import PromptRefused, RunFailed

NAN, DIGITS = float("nan"), "9" * 5000


def images(**inputs):
    source = {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 4, "color": 0}}
    return {"images": source, "1": {"class_type": "MoCDetectShots", "inputs": {"images": ["images", 0], **inputs}}}


def latent(**inputs):
    source = {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": 32, "height": 32, "length": 9, "batch_size": 1},
    }
    return {
        "latent": source,
        "1": {"class_type": "MoCDetectShotsLatent", "inputs": {"latent": ["latent", 0], **inputs}},
    }


def scenes(text):
    source = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": text}}
    node = {"class_type": "MoCShots", "inputs": {"how": "detected", "detected": ["text", 0]}}
    return {"text": source, "1": node}


BAD = {
    "fps NaN": ({"1": shots(times="3", fps=NAN)}, "fps is nan: use 0.01 to 1000"),
    "fps NaN, read by nobody": ({"1": shots(how="equal shots", fps=NAN)}, "fps is nan: use 0.01 to 1000"),
    "fps beyond its range": ({"1": shots(times="3", fps=2000.0)}, "fps is 2000.0: use 0.01 to 1000"),
    "a unit of no list": ({"1": shots(how="equal shots", unit="hours")}, "unit is 'hours'; choose one of: frames"),
    "a way of no list": ({"1": shots(how="by hand")}, "how is 'by hand'; choose one of: cuts"),
    "a cut of many digits": ({"1": shots(times=DIGITS)}, "is beyond frame 1000000"),
    "a duration of many digits": ({"1": shots(how="durations", times=f"{DIGITS}s")}, "is beyond frame 1000000"),
    "a mark of many digits": ({"1": shots(prompt=f"[shot {DIGITS}] a")}, "number the shots 1, 2, 3 in order"),
    "a mark that lasts": ({"1": shots(how="prompt", prompt=f"[cut: {DIGITS}s] a [cut] b")}, "is beyond frame 1000000"),
    "beta NaN": ({"1": routing(rule="threshold", beta=NAN)}, "beta is nan: give it an ordinary number"),
    "top_p NaN": ({"1": routing(top_p=NAN)}, "top_p is nan: give it an ordinary number"),
    "drop_in NaN": ({"1": routing(drop_in=NAN)}, "drop_in is nan: give it an ordinary number"),
    "top_k beyond its range": ({"1": routing(top_k=5000)}, "top_k is 5000: use 0 to 4096"),
    "density NaN": ({"1": routing(density=NAN)}, "density is nan"),
    "start_percent NaN": ({"1": routing(start_percent=NAN)}, "both must lie between 0 and 1"),
    "a tile of many digits": ({"1": routing(tile=f"1x4x{DIGITS}")}, "write three sizes of 1 or more"),
    "a block of many digits": ({"1": routing(dense_blocks=DIGITS)}, "names no blocks of the model"),
    "a tile for a block": ({"1": routing(block_tiles=f"0: 1x{DIGITS}x2")}, "write three sizes of 1 or more"),
    "a head density NaN": ({"1": routing(head_density="0.1, nan")}, "each is a share of all pairs"),
    "a head density of many digits": ({"1": routing(head_density=DIGITS)}, "each is a share of all pairs"),
    "detect threshold NaN": (
        images(threshold=NAN, detector="built-in"),
        "threshold is nan: give it an ordinary number",
    ),
    "detect fps NaN": (images(fps=NAN, detector="built-in"), "fps is nan: give it an ordinary number"),
    "latent threshold NaN": (latent(threshold=NAN), "threshold is nan: give it an ordinary number"),
    "scenes nested deeply": (scenes("[" * 100_000 + "]" * 100_000), "nested too deeply"),
    "a scene nested deeply": (scenes("[" * 900 + "]" * 900), "is another list: expected an object"),
    "a scene's time nested deeply": (scenes('[{"start":' + "[" * 900 + "]" * 900 + "}]"), "has the time 'list'"),
    "a scene of 400 digits": (scenes(f"[[0, 9], [{DIGITS[:400]}, 9]]"), "is another list: expected an object"),
    "a scene beyond all films": (scenes("[[0, 9], [1e18, 9]]"), "outside of frames 0 to 1000000"),
    "a scene's time beyond all films": (scenes(json.dumps([{"start": DIGITS}])), "outside of frames 0 to 1000000"),
    "a scene without a number": (scenes('[{"start_frame": NaN}]'), "does not say where it starts"),
    "error NaN": ({"1": {"class_type": "MoCProbeReport", "inputs": {"error": NAN}}}, "error is nan: give it"),
    "across NaN": ({"1": {"class_type": "MoCProbeReport", "inputs": {"across": NAN}}}, "across is nan: give it"),
}


@pytest.mark.parametrize(("nodes", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_value_is_refused_in_a_sentence(server, nodes, sentence):
    with pytest.raises((PromptRefused, RunFailed)) as refusal:
        server.wait(server.queue({**nodes, "shown": show("1", 1)}), timeout=60)
    error = refusal.value
    if isinstance(error, RunFailed):
        assert error.details["exception_type"].endswith("MoCError") and sentence in str(error)
    else:
        assert any(sentence in text for text in error.errors["1"])


ROUTES = {
    "/moc/heatmap/{trace}?block=" + DIGITS: 404,
    "/moc/heatmap/" + DIGITS: 404,
    "/moc/npz/nan": 404,
    "/moc/last?client=" + DIGITS: 400,
    "/moc/last?client=a&workflow=%5B%5B%5B&node=1": 400,
    "/moc/last?client=a&workflow=w&node=nan%00": 400,
}


@pytest.mark.parametrize(("path", "status"), ROUTES.items())
def test_a_bad_question_is_refused(server, path, status):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        fetch(server, path)
    assert refusal.value.code == status and b"Traceback" not in refusal.value.read()
