"""MoC inside the workers of raylight: two processes make the film that one makes, and tell what they routed.

With MOC_RAYLIGHT_DIR these run on raylight's own code; see `raylight_engine`.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host.adapters import Sequence
from mixture_of_contexts.moc.host.raylight.actors import apply_to_actors
from mixture_of_contexts.moc.host.raylight.usp import length_of
from mixture_of_contexts.moc.host.session import VideoPass
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.reasons import Reason
from mixture_of_contexts.moc.trace.trace import Trace
from packaging.version import Version
from raylight_engine import facts, ray
from raylight_engine.worker import REAL
from spies import TWO_SHOTS, apart, everything, little, routed
from variants.wan import ROWS

HOST = Version(comfyui_version.__version__)
RANKS = 2
VARIANTS = [v.name for v in ROWS if Version(v.since) <= HOST]
STAND_INS = ["phantom", "fun control, reference", "i2v"]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory) -> Iterator[None]:
    """As after ComfyUI has loaded raylight's nodes."""
    folder = tmp_path_factory.mktemp("raylight")
    package, entry = types.ModuleType("raylight"), types.ModuleType("raylight_nodes")
    package.__file__ = str(folder / "src" / "raylight" / "__init__.py")
    entry.__file__, entry.__version__ = str(folder / "__init__.py"), "1.5.1"
    with pytest.MonkeyPatch.context() as patched:
        for name, module in (("ray", ray), ("raylight", package), ("raylight_nodes", entry)):
            patched.setitem(sys.modules, name, module)
        yield


class Engine:
    def __init__(self, folder: Path) -> None:
        self.ray_actors = {"workers": [ray.Actor(rank, RANKS, str(folder / "meet")) for rank in range(RANKS)]}
        self.variant = None

    def load(self, variant: str) -> Engine:
        if self.variant is None or self.variant.name != variant:
            self.variant = tiny.variant_of(variant)
            ray.get([actor.load.remote(variant) for actor in self.ray_actors["workers"]])
        return self

    def tell(self, ray_actors: dict, steps: int = 2) -> list:
        """As raylight's sampler node: every worker is told."""
        shape, (tokens, channels) = tiny.shape_of(self.variant), self.variant.text
        text = [[[tiny.random(1, tokens, channels, seed=seed), self.variant.conds(shape)]] for seed in (2, 3)]
        latent = {"samples": torch.zeros(shape)}
        return [
            actor.common_ksampler.remote(4, steps, 1.0, "euler", "simple", *text, latent)
            for actor in ray_actors["workers"]
        ]

    def sample(self, ray_actors: dict) -> torch.Tensor:
        films = [result[0]["samples"] for result in ray.get(self.tell(ray_actors))]
        assert torch.equal(films[0], films[1])
        return films[0]

    def alone(self, settings: MoCSettings | None, shots: Shots | None = TWO_SHOTS, steps: int = 2) -> tuple:
        """The same film by one process that knows nothing of raylight, and its trace."""
        import comfy.sample

        model, shape = tiny.load(str(self.variant)), tiny.shape_of(self.variant)
        model, trace = (model, None) if settings is None else routed(model, settings, shots)
        noise = comfy.sample.prepare_noise(torch.zeros(shape), 4)
        return tiny.sample(model, self.variant, noise=noise, steps=steps), trace

    def close(self) -> None:
        for actor in self.ray_actors["workers"]:
            actor.process.terminate()
            actor.process.join(20)


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("workers"))
    yield made
    made.close()


@pytest.fixture
def engine(workers) -> Engine:
    return workers.load("t2v")


def applied(engine: Engine, settings: MoCSettings, shots: Shots | None = TWO_SHOTS, keep: str = "routing") -> tuple:
    trace = Trace(keep=keep)
    return apply_to_actors(engine.ray_actors, shots, settings, trace), trace


SETTINGS = {
    "little": little(),
    "tiles with a tail": MoCSettings(RoutingConfig.of(top_k=2, tile=(1, 2, 2), own="frame", tail="pooled")),
    "a density for every head": MoCSettings(RoutingConfig.of(own="frame", head_density=(0.3, 0.9))),
    "one block dense": little(dense_first=1),
    "the second half": little(start_percent=0.5),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_two_workers_make_the_film_and_the_trace_of_one(engine, name):
    expected, single = engine.alone(SETTINGS[name])
    actors, trace = applied(engine, SETTINGS[name])
    assert apart(engine.sample(actors), expected) < 1e-4
    trace.fetch()
    assert (trace.routed, trace.dense, trace.blocks) == (single.routed, single.dense, single.blocks)
    assert trace.report() == single.report()
    assert [(r.step, r.block) for r in trace.records] == [(r.step, r.block) for r in single.records]
    for ours, theirs in zip(trace.records, single.records, strict=True):
        assert ours.chosen.shape == theirs.chosen.shape and torch.equal(ours.chosen, theirs.chosen)
        assert ours.density == pytest.approx(theirs.density)


def test_where_full_attention_would_look_comes_back_head_by_head(engine):
    actors, trace = applied(engine, little(), keep="routing and attention")
    engine.sample(actors)
    trace.fetch()
    assert all(record.mass.shape == record.chosen.shape for record in trace.records)
    torch.testing.assert_close(trace.records[0].mass.float().sum(-1), torch.ones(2, 5), atol=5e-3, rtol=0)


def test_what_chooses_everything_loses_nothing(engine):
    dense = engine.sample(engine.ray_actors)
    actors, trace = applied(engine, everything())
    assert apart(engine.sample(actors), dense) < 1e-4
    trace.fetch()
    assert trace.routed == 6 and not trace.dense


@pytest.mark.parametrize("variant", VARIANTS if REAL else STAND_INS)
def test_a_wan_model_keeps_its_order_of_tokens(workers, variant):
    """raylight 1.5.1 itself makes other films of HuMo, S2V and Dancer than ComfyUI does, and attends to filling."""
    engine = workers.load(variant)
    dense, (plain, _), (expected, single) = engine.sample(engine.ray_actors), engine.alone(None), engine.alone(little())
    whole = engine.sample(applied(engine, everything())[0])
    actors, trace = applied(engine, little())
    film = engine.sample(actors)
    trace.fetch()
    assert min(apart(whole, dense), apart(whole, plain)) < 1e-4
    if variant == "s2v":  # motion frames of unknown number: with filling behind them nobody knows where they end
        assert torch.equal(film, dense) and trace.dense == {Reason.LENGTH: single.routed}
        return
    assert apart(film, whole) > 1e-3
    assert trace.routed == single.routed > 0 and trace.dense == single.dense
    if apart(whole, plain) < 1e-4:
        assert apart(film, expected) < 1e-4
        for ours, theirs in zip(trace.records, single.records, strict=True):
            assert torch.equal(ours.chosen, theirs.chosen)


def test_nothing_stays_in_the_workers_behind_a_sampling(engine):
    dense = engine.sample(engine.ray_actors)
    actors, _ = applied(engine, little())
    assert apart(engine.sample(actors), dense) > 1e-3
    assert torch.equal(engine.sample(engine.ray_actors), dense)


def fails_on_the_second(model):
    """Sent to a worker: its kernels break on one GPU of two."""
    import torch.distributed as dist
    from mixture_of_contexts.moc.host.raylight import usp

    def broken(*args, **how):
        raise ValueError("a kernel broke")

    usp.whole = usp.moc_attention
    if dist.get_rank() == 1:
        usp.moc_attention = broken
    return model


def works_again(model):
    from mixture_of_contexts.moc.host.raylight import usp

    usp.moc_attention = usp.whole
    return model


def by_value(function):
    """As Ray sends what stands in a graph's own code: the workers do not have this file."""
    function.__module__ = "__main__"
    return function


def test_an_error_on_one_gpu_ends_the_run_on_all_with_one_sentence(engine):
    actors, trace = applied(engine, little())
    for actor in engine.ray_actors["workers"]:
        actor.model_function_runner.remote(by_value(fails_on_the_second))
    told = "routed attention failed, so all GPUs stopped. GPU 2 of 2: ValueError: a kernel broke"
    try:
        for result in engine.tell(actors):
            with pytest.raises(RuntimeError, match=told):
                ray.get(result)
    finally:
        for actor in engine.ray_actors["workers"]:
            actor.model_function_runner.remote(by_value(works_again))
    expected, _ = engine.alone(little())
    assert apart(engine.sample(actors), expected) < 1e-4, "the workers live on"


def told_in(engine, function, *args):
    """What every worker answers to a function that is sent to it."""
    return [
        ray.get(actor.model_function_runner_get_values.remote(by_value(function), *args))
        for actor in engine.ray_actors["workers"]
    ]


def changes_the_call(model):
    from raylight.distributed_modules import attention

    attention.xFuserLongContextAttention.kept = attention.xFuserLongContextAttention.forward

    def forward(self, query, key, value, attn):
        raise AssertionError

    attention.xFuserLongContextAttention.forward = forward


def changes_it_back(model):
    from raylight.distributed_modules import attention

    attention.xFuserLongContextAttention.forward = attention.xFuserLongContextAttention.kept


def test_an_attention_that_has_changed_is_named_before_anything_is_sampled(engine):
    told_in(engine, changes_the_call)
    try:
        with pytest.raises(MoCError, match="raylight's attention has changed: it takes self, query, key, value"):
            applied(engine, little())
    finally:
        told_in(engine, changes_it_back)
    applied(engine, little())


def test_another_version_is_told_in_the_report(engine, monkeypatch):
    monkeypatch.setattr(sys.modules["raylight_nodes"], "__version__", "9.0")
    actors, trace = applied(engine, little(break_even="measured"))
    engine.sample(actors)
    trace.fetch()
    assert "raylight 9.0 is not one that MoC was tested with (1.5.1)" in trace.notes
    assert any(note.startswith("break_even is estimated") for note in trace.notes)


def test_a_worker_that_is_gone_leaves_the_report_of_the_others(engine, monkeypatch):
    actors, trace = applied(engine, little())
    engine.sample(actors)
    get = ray.get

    def gone(what):
        if getattr(what, "actor", None) is engine.ray_actors["workers"][1]:
            raise ConnectionError
        return get(what)

    monkeypatch.setattr(ray, "get", gone)
    trace.fetch()
    assert trace.routed == 6 and not trace.records
    assert trace.notes == [
        "the heatmap is missing: 1 of 2 GPUs told what they had routed",
        "a GPU could not be asked what it routed (ConnectionError)",
    ]


class Degrees:
    """A worker that is only asked for its degrees."""

    def __init__(self, **degrees):
        self.degrees = {"is_xdit": True, "ulysses_degree": 2, "ring_degree": 1} | degrees

    def __getattr__(self, name):
        return types.SimpleNamespace(remote=lambda *args: types.SimpleNamespace(actor=self, number=0))

    def answer(self, number):
        return self.degrees, None


@pytest.mark.parametrize(
    ("degrees", "told"),
    [
        ({"ring_degree": 2}, "set ring_degree to 1 and ulysses_degree to the number of GPUs"),
        ({"pipefusion_enabled": True}, "leave PipeFusion off"),
        ({"ulysses_degree": 1}, "these workers share no film: set ulysses_degree"),
        ({"is_xdit": False}, "these workers share no film"),
    ],
)
def test_workers_that_share_a_film_otherwise_are_refused(degrees, told):
    with pytest.raises(MoCError, match=told):
        apply_to_actors({"workers": [Degrees(**degrees)]}, None, little(), Trace())


def test_other_workers_are_refused_by_what_they_lack():
    with pytest.raises(MoCError, match=r"not raylight's workers as MoC knows them \(1.5.1\): no common_ksampler"):
        apply_to_actors({"workers": [object()]}, None, little(), Trace())


def test_without_raylight_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray")
    with pytest.raises(MoCError, match="raylight, which is not installed or did not load: install raylight"):
        apply_to_actors({"workers": []}, None, little(), Trace())


def arguments(source: str, name: str) -> str:
    """Of a function in a file, without the types of what it returns."""
    scope = ast.parse(source).body
    for part in name.split("."):
        found = next(node for node in scope if getattr(node, "name", None) == part)
        scope = found.body
    return ast.unparse(found.args)


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, functions in facts.SIGNATURES.items() for name in functions]
)
def test_what_stands_in_for_raylight_is_called_as_raylight_is(file, name):
    folder = Path(REAL) if REAL else None
    source = (folder / file if folder else Path(ray.__file__).with_name("stand_in.py")).read_text("utf-8")
    assert arguments(source, name) == facts.SIGNATURES[file][name]


@pytest.mark.parametrize(
    ("after", "cross", "part", "found"),
    [
        ((), (7,), 40, 80),
        ((("reference", 3),), (7,), 42, 83),  # one token of filling
        ((("reference", 3),), (7,), 43, None),
        ((("reference", None),), (7,), 42, None),  # 83 or 84
        ((), (40,), 40, None),  # text is as long as a part
        ((), (), 257, None),
    ],
)
def test_a_part_of_the_tokens_tells_the_whole_where_only_one_fits(after, cross, part, found):
    video = VideoPass(Sequence((5, 4, 4), (), after=after, cross=cross), None)
    assert length_of(video, part, ranks=2) == found
