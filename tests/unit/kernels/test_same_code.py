"""The same-code gate of tests/tools/same_code.py: what it holds equal, and that the kernels are what was committed."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tools import same_code

PTX = """// a comment
.version 8.8
.visible .entry _old(
	.param .u64 _old_param_0  // q
)
{
	.loc	1 20 0                          // lib/some.py:20:0
$L__tmp0:
	ld.param.b64 	%rd1, [_old_param_0];
	add.s32 	%r1, %r2, 1;
}
	.file	1 "/a/b/some.py"
	.section	.debug_abbrev
	{
.b8 1                                   // Abbreviation Code
	}
	.section	.debug_macinfo	{	}
"""


@pytest.mark.parametrize(
    "change",
    [
        lambda ptx: ptx.replace("_old", "moc_new"),
        lambda ptx: ptx.replace("some.py", "else/where.py").replace("20 0", "35 4"),
        lambda ptx: ptx.replace("$L__tmp0:\n", ""),
        lambda ptx: ptx.replace(".b8 1 ", ".b8 17 "),
        lambda ptx: ptx.replace("// q", "// queries"),
    ],
    ids=["the kernel's name", "its place", "a label of the debugger", "debug data", "a comment"],
)
def test_what_a_move_changes_is_the_same_code(change) -> None:
    assert change(PTX) != PTX
    assert same_code.normalised(change(PTX)) == same_code.normalised(PTX)


@pytest.mark.parametrize(("old", "new"), [("add.s32", "sub.s32"), ("%r2, 1", "%r2, 2"), (".u64", ".u32")])
def test_an_instruction_that_changes_is_other_code(old: str, new: str) -> None:
    assert same_code.normalised(PTX.replace(old, new)) != same_code.normalised(PTX)


def test_a_spec_that_changes_goes_or_comes_is_told_by_name() -> None:
    before, now = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"}
    found = same_code.differences(*({name: {"ptx": x} for name, x in specs.items()} for specs in (before, now)))
    assert [text.partition(":")[0] for text in found] == ["b", "c", "d"]


def test_every_kernel_is_built_to_the_code_that_was_committed() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    version = importlib.metadata.version("triton")
    if same_code.committed(version) is None:
        pytest.skip(f"no hashes were committed for Triton {version}")
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, same_code.__file__], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize("file", sorted(same_code.HASHES.glob("*.json")), ids=lambda file: file.stem)
def test_every_triton_has_hashes_of_the_same_specs(file: Path) -> None:
    of_all = [set(same_code.committed(other.stem) or ()) for other in same_code.HASHES.glob("*.json")]
    assert same_code.committed(file.stem) and all(specs == of_all[0] for specs in of_all)


@pytest.mark.parametrize(("source", "compiled"), [("as committed", 0), ("other", 1)])
def test_only_what_changed_since_it_was_committed_is_compiled(source: str, compiled: int) -> None:
    made = []

    def compile_it():
        made.append(1)
        return SimpleNamespace(asm={"ptx": PTX}, metadata=SimpleNamespace(shared=64))

    before = {"ptx": "1", "shared": 32, "source": "as committed"}
    facts, code = same_code.facts_of(SimpleNamespace(key=lambda: source, compiled=compile_it), before)
    assert len(made) == compiled == bool(code)
    assert facts == (
        {"ptx": same_code.digest(same_code.normalised(PTX)), "shared": 64, "source": "other"} if compiled else before
    )
