"""Whether routing pays, by measurement: what is measured, how often, and when it counts. The clock is a number."""

from contextlib import suppress
from functools import partial

import pytest
import torch

from moc.backends.cost_model import Work
from moc.backends.measured import (
    CALLS,
    CLOSE,
    DENSE,
    MOST,
    ROUTED,
    BreakEven,
    DeviceClock,
    Kind,
    Stopwatch,
    Taken,
    identity,
)
from moc.config import RoutingConfig
from moc.trace.reasons import Reason

CPU = torch.device("cpu")
NOISY, LESS, LEAST = 1.0, 0.5, 0.25  # noise levels


class Clock:
    """A device that is as far as `done`; every mark is one work unit of `ms` behind the last one."""

    def __init__(self) -> None:
        self.now, self.done = 0.0, True

    def runs_on(self, device):
        return True

    def mark(self, device):
        return self.now

    def between(self, begin, end):
        return end - begin if self.done else None


def kind(tokens: int = 100) -> Kind:
    work = Work(tokens**2, 0, 0, 0, 0, 0, 0)
    return Kind("sage", ("sage.py", 1), "a card", (1, 2, tokens, 64), torch.float16, work, RoutingConfig(), "triton")


class Film:
    """One run of a process: `call` is what the host does at every attention call."""

    def __init__(self, stopwatch: Stopwatch, dense: float, routed: float, estimate: bool = True) -> None:
        self.told, self.extra = [], 0
        self.stopwatch, self.takes, self.estimate = stopwatch, {DENSE: dense, ROUTED: routed}, estimate
        self.choices = BreakEven(stopwatch, lambda *what: self.told.append(what))

    def call(self, sigma: float, of: Kind | None = None) -> bool:
        of = of or kind()
        taken = self.choices.take(of, sigma, self.estimate)
        lap = self.stopwatch.begins(of, CPU)
        if lap is not None:
            self.extra += 1
            for way in self.takes:
                lap.way(way, lambda way=way: self.compute(way))
        return taken.routed

    def compute(self, way: str) -> torch.Tensor:
        self.stopwatch.clock.now += self.takes[way]
        return torch.ones(1)

    def steps(self, *sigmas: float, blocks: int = 5) -> list[set[bool]]:
        return [{self.call(sigma) for _ in range(blocks)} for sigma in sigmas]


def test_the_first_noise_level_goes_by_the_estimate_and_the_rest_by_what_was_measured():
    film = Film(Stopwatch(Clock()), dense=41.0, routed=17.0, estimate=False)
    assert film.steps(NOISY, LESS, LEAST) == [{False}, {True}, {True}]
    assert film.told == [(kind(), 41.0, 17.0, True)]
    film = Film(Stopwatch(Clock()), dense=17.0, routed=41.0)
    assert film.steps(NOISY, LESS, LEAST) == [{True}, {False}, {False}]


def test_a_second_run_measures_nothing_and_takes_the_same_at_every_noise_level():
    stopwatch = Stopwatch(Clock())
    first, again = (Film(stopwatch, dense=10.0, routed=20.0) for _ in range(2))
    assert first.steps(NOISY, LESS) == again.steps(NOISY, LESS) == [{True}, {False}]
    assert (first.extra, again.extra) == (CALLS, 0)
    assert again.told == first.told


def test_the_first_call_builds_kernels_and_is_not_timed():
    film = Film(Stopwatch(Clock()), dense=1.0, routed=1000.0)
    film.call(NOISY)
    film.takes[ROUTED] = 0.5
    film.steps(NOISY, LESS)
    assert film.told == [(kind(), 1.0, 0.5, True)]


def test_the_shortest_time_of_each_way_counts():
    film = Film(Stopwatch(Clock()), dense=10.0, routed=5.0)
    film.call(NOISY)
    film.call(NOISY)
    film.takes = {DENSE: 30.0, ROUTED: 4.0}
    film.steps(NOISY, LESS)
    assert film.told == [(kind(), 10.0, 4.0, True)]


@pytest.mark.parametrize("estimate", [True, False])
@pytest.mark.parametrize("faster", [DENSE, ROUTED])
def test_times_that_are_nearly_equal_leave_the_estimate(estimate, faster):
    times = dict.fromkeys((DENSE, ROUTED), 100.0) | {faster: 100.0 / (CLOSE - 0.001)}
    film = Film(Stopwatch(Clock()), times[DENSE], times[ROUTED], estimate)
    assert film.steps(NOISY, LESS) == [{estimate}, {estimate}] and film.told[0][3] == estimate
    assert film.choices.take(kind(), LESS, estimate) == Taken(estimate, measured=False)
    times[faster] = 100.0 / (CLOSE + 0.001)
    film = Film(Stopwatch(Clock()), times[DENSE], times[ROUTED], estimate)
    assert film.steps(NOISY, LESS)[1] == {faster == ROUTED}


def test_a_device_that_is_not_there_yet_is_asked_again_at_the_next_noise_level():
    stopwatch = Stopwatch(Clock())
    film = Film(stopwatch, dense=10.0, routed=20.0)
    stopwatch.clock.done = False
    assert film.steps(NOISY, LESS) == [{True}, {True}]
    assert film.call(LEAST), "the estimate holds for the whole level"
    stopwatch.clock.done = True
    assert film.call(LEAST)
    assert not film.call(0.1)


def refuses() -> Reason:
    return Reason.MEMORY


def breaks_off():
    raise MemoryError


@pytest.mark.parametrize("compute", [refuses, breaks_off])
def test_a_way_that_breaks_off_leaves_the_estimate_for_good(compute):
    stopwatch = Stopwatch(Clock())
    for _ in range(CALLS):
        lap = stopwatch.begins(kind(), CPU)
        lap.way(ROUTED, lambda: torch.ones(1))
        with suppress(MemoryError):
            lap.way(DENSE, compute)
    film = Film(stopwatch, 1.0, 1.0)
    assert film.steps(NOISY, LESS, LEAST) == [{True}] * 3 and not film.told


def test_with_few_calls_in_a_pass_the_estimate_holds_until_all_were_measured():
    film = Film(Stopwatch(Clock()), dense=10.0, routed=20.0)
    levels = [0.9, 0.8, 0.7, 0.6]
    assert film.steps(*levels, blocks=2) == [{True}, {True}, {False}, {False}]
    again = Film(film.stopwatch, dense=10.0, routed=20.0)
    assert again.steps(*levels, blocks=2) == [{True}, {True}, {False}, {False}]


def test_a_sampler_that_comes_back_to_a_noise_level_keeps_to_what_was_taken():
    film = Film(Stopwatch(Clock()), dense=10.0, routed=20.0)
    assert film.steps(NOISY, LESS, NOISY) == [{True}, {False}, {False}]


def test_every_kind_of_call_is_measured_and_decided_by_itself():
    film = Film(Stopwatch(Clock()), dense=10.0, routed=20.0)
    film.steps(NOISY)
    film.takes = {DENSE: 20.0, ROUTED: 10.0}
    for sigma in (NOISY, LESS):
        for _ in range(CALLS):
            film.call(sigma, kind(200))
    assert film.call(LESS, kind(200)) and not film.call(LESS)
    assert film.extra == 2 * CALLS


def test_a_process_forgets_the_oldest_kinds():
    stopwatch = Stopwatch(Clock())
    for tokens in range(MOST + 1):
        stopwatch.begins(kind(tokens), CPU)
    assert len(stopwatch._times) == MOST and kind(0) not in stopwatch._times


def test_a_cpu_has_no_clock():
    assert not DeviceClock().runs_on(CPU)


def make(mode: str, scale: float = 1.0, inner=torch.relu):
    def attention(x):
        return inner(x * scale), mode

    return attention


def test_ways_to_compute_are_told_apart_by_code_and_settings_and_not_by_object():
    assert identity(make("int8")) == identity(make("int8"))
    others = [make("fp8"), make("int8", 2.0), make("int8", inner=torch.sigmoid), make("int8", inner=make("int8"))]
    others += [partial(make("int8"), 1), partial(make("int8"), scale=2), torch.relu, lambda x: x, Clock().mark]
    found = [identity(x) for x in (make("int8"), *others)]
    assert len(set(found)) == len(found)
    assert identity(Clock().mark) == identity(Clock().mark)


def test_a_function_that_holds_itself_has_an_end():
    def attention(x):
        return attention(x)

    assert hash(identity(attention))
