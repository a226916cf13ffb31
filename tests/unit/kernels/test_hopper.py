"""The kernels for Hopper compile with the Triton that is installed; no GPU is needed for that. What they compute is
checked on one, by tests/gpu/check_gpu.py."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
if importlib.util.find_spec("triton.experimental.gluon") is None:
    pytest.skip("this Triton has no Gluon", allow_module_level=True)

REPO = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.xdist_group(name="builds for Hopper")  # compiled once
NAMES = (
    "routed", "routed, short chunks and tail", "routed, head dim 64", "tail", "tail, rows alike",
    "popular", "popular, no tail", "union", "stream", "few", "few, not so few", "sift",
)  # fmt: skip


@pytest.fixture(scope="module")
def code() -> dict[str, dict[str, str]]:
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"PYTHONPATH": str(REPO)}
    program = [sys.executable, str(REPO / "tests" / "tools" / "hopper_ptx.py")]
    done = subprocess.run(program, env=env, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_all_are_compiled(code: dict[str, dict[str, str]]) -> None:
    assert set(code) == {*NAMES, "sift, best"}


@pytest.mark.parametrize("name", NAMES)
def test_uses_what_hopper_has(code: dict[str, dict[str, str]], name: str) -> None:
    assert "wgmma.mma_async" in code[name]["ptx"] and "cp.async.bulk.tensor" in code[name]["ptx"]


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_let_go_by_all_warps_together(code: dict[str, dict[str, str]], name: str) -> None:
    """One thread tells the producer that a stage is free: only after a barrier of all the warps that read it."""
    frees = [at.start() for at in re.finditer(r"mbarrier\.arrive(?!\.expect)", code[name]["ptx"])]
    assert frees
    for at in frees:
        before = code[name]["ptx"][:at]
        assert before.rfind("bar.sync") > before.rfind("wgmma.wait_group"), "a stage is let go without a barrier"


@pytest.mark.parametrize("name", NAMES)
def test_barriers_keep_their_place(code: dict[str, dict[str, str]], name: str) -> None:
    """A barrier that is made and never waited for loses its place to other data. When the GPU turns to another process
    and back, the place holds a barrier again: on an H100 that others used, rows came out as NaN."""
    ir = code[name]["ttgir"]
    whole = dict(re.findall(r"(%\w+) = ttg\.memdesc_index (%\w+)", ir))
    made = {whole.get(x, x) for x in re.findall(r"ttng\.init_barrier (%\w+)", ir)}
    captured = re.search(r"ttg\.warp_specialize\(([^)]*)\)", ir)
    assert made and captured
    assert made <= set(re.findall(r"%\w+", captured.group(1)))
