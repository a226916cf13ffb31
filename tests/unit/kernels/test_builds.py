"""The kernels that every card takes build for cards that nobody here has, and fit the shared memory that these have. No
GPU is needed for that: what they compute is checked by the interpreter, and on a GPU by tests/gpu/check_gpu.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
REPO = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.xdist_group(name="builds")  # compiled once
# Bytes a program may use: A100, RTX 30, RTX 40, RTX 50. On two of them just what takes 8 bits is built
MOST = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_89": 99 * 1024, "sm_120": 99 * 1024}
IN_8_BITS = 8


@pytest.fixture(scope="module")
def shared() -> dict[str, dict[str, int]]:
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"PYTHONPATH": str(REPO)}
    program = [sys.executable, str(REPO / "tests" / "tools" / "same_code.py"), "--shared", *MOST]
    done = subprocess.run(program, env=env, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return {
        card: {n.removeprefix(f"{card}: "): size for n, size in found.items() if n.startswith(card)} for card in MOST
    }


@pytest.mark.parametrize("card", MOST)
def test_every_kernel_fits(shared: dict[str, dict[str, int]], card: str) -> None:
    assert len([name for name in shared[card] if "8 bits" in name]) == IN_8_BITS
    assert len(shared[card]) == IN_8_BITS + 41 * (card in ("sm_86", "sm_120"))
    assert {name: size for name, size in shared[card].items() if size > MOST[card]} == {}


@pytest.mark.parametrize("card", MOST)
def test_keys_and_values_are_fetched_ahead(shared: dict[str, dict[str, int]], card: str) -> None:
    """Two stages of 32 keys and values of 256 bytes: less would mean that products wait for loads. Keys of 8 bits are
    half as long."""
    assert shared[card].get("routed, long", 2**20) >= 2 * 2 * 32 * 256
    assert shared[card]["routed, long, 8 bits"] >= 2 * 32 * (256 + 128)
