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
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host.raylight.actors import apply_to_actors
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.trace import Trace
from packaging.version import Version
from raylight_engine import facts, ray, stand_in
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
    engine = workers.load(variant)
    dense = engine.sample(engine.ray_actors)
    assert apart(engine.sample(applied(engine, everything())[0]), dense) < 1e-4
    expected, single = engine.alone(little())
    actors, trace = applied(engine, little())
    assert apart(engine.sample(actors), expected) < 1e-4
    trace.fetch()
    assert trace.routed == single.routed > 0 and trace.dense == single.dense
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
