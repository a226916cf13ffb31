"""What only a GPU can be asked, in one command: python -m pytest tests/gpu -m gpu --comfyui=FOLDER --report=FILE.json

--comfyui=FOLDER   a ComfyUI, for what is asked inside it (left out otherwise). With `=`: else pytest takes the folder
                   for one with tests before it knows the option
--shard=I/N        every N-th test from the I-th on, for N processes at a time on one GPU; `-n N --dist loadgroup`
                   of pytest-xdist does the same and writes one report
--report=FILE      every result with its figures as JSON, as under benchmarks/results
--card=sm_86       what another card would run (`cards.py`)
--seed=N           repeats the inputs of a report; fresh ones otherwise
--dry              without a GPU as well: small, kernels in Triton's interpreter
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

HIDDEN = {"--comfyui": " --comfyui=FOLDER", "--aimdo": " --aimdo=FOLDER", "--report": ""}  # places on this machine


def pytest_addoption(parser: pytest.Parser) -> None:
    from tests.gpu.cards import CARDS

    group = parser.getgroup("gpu", "what only a GPU can be asked")
    group.addoption("--comfyui", type=Path, help="folder of a ComfyUI 0.3.75 or newer")
    group.addoption("--aimdo", type=Path, action="append", help="folder with a comfy-aimdo; may be given repeatedly")
    group.addoption("--shard", default="0/1", help="I/N: every N-th test from the I-th on")
    group.addoption("--report", type=Path, help="JSON file for the results with their figures")
    group.addoption("--seed", type=int, default=int(time.time()), help="of the inputs")
    group.addoption("--dry", action="store_true", help="on any device, small")
    group.addoption("--card", choices=tuple(CARDS), help="run what another card would run")


def option(config: pytest.Config, name: str, default: Any = None) -> Any:
    """Nobody knows our options where pytest was started above this folder."""
    return config.getoption(name, default)


def pytest_configure(config: pytest.Config) -> None:
    if card := option(config, "card"):
        from tests.gpu import cards

        cards.pretend(card)
    if (file := option(config, "report")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(file, config), "moc-gpu-report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.get_closest_marker("gpu")]
    if not torch.cuda.is_available() and not option(config, "dry"):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="no CUDA device; --dry runs it small on the CPU"))
    # tests that share what is expensive to make are one unit
    units: dict[str, list[pytest.Item]] = {}
    for item in ours:
        group = item.get_closest_marker("xdist_group")
        units.setdefault(group.kwargs["name"] if group else item.nodeid, []).append(item)
    part, parts = map(int, option(config, "shard", "0/1").split("/"))
    if parts > 1:
        kept = {item for unit in list(units.values())[part::parts] for item in unit}
        config.hook.pytest_deselected(items=[item for item in ours if item not in kept])
        items[:] = [item for item in items if item in kept or item not in ours]


class Report:
    """The results of all tests, with what each has noted by `noted`, as JSON."""

    def __init__(self, file: Path, config: pytest.Config) -> None:
        self.file, self.config, self.results = file, config, []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            row = {"test": report.nodeid.rpartition("::")[2], **dict(report.user_properties), "ok": report.passed}
            if report.skipped:
                row = {"test": row["test"], "skipped": str(report.longrepr[2])}  # (file, line, reason)
            elif report.failed:
                row["failed"] = report.longreprtext[-600:]
            self.results.append(row)

    def pytest_sessionfinish(self) -> None:
        asked = [row for row in self.results if "ok" in row]
        facts = {
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "command": self.command(),
            "right": f"{sum(row['ok'] for row in asked)} of {len(asked)}",
        }  # fmt: skip
        self.file.write_text(json.dumps({**facts, "results": self.results}, indent=1) + "\n")

    def command(self) -> str:
        """What was typed, without the places where things lie on this machine."""
        told = "python -m pytest"
        for word in map(str, self.config.invocation_params.args):
            name = word.partition("=")[0]
            told += HIDDEN[name] if name in HIDDEN else f" {shlex.quote(word)}"
        return told


@pytest.fixture
def noted(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """noted(error=.1) puts figures into the report, whether the test passes or not."""

    def note(**figures: object) -> None:
        for name, figure in figures.items():
            record_property(name, figure)

    return note


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return option(request.config, "seed", 0)


@pytest.fixture(scope="session")
def dry(request: pytest.FixtureRequest) -> bool:
    return option(request.config, "dry", False)


@pytest.fixture
def this_card(request: pytest.FixtureRequest) -> None:
    """For tests of the GPU itself and of nothing that another card would run."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if option(request.config, "card"):
        pytest.skip("asks this card, not another one")


@pytest.fixture(scope="session")
def comfyui(request: pytest.FixtureRequest) -> Iterator[Path]:
    if (folder := option(request.config, "comfyui")) is None:
        pytest.skip("give a ComfyUI by --comfyui=FOLDER")
    yield folder
