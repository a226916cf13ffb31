"""The same-code gate: moving and renaming kernels changes none of their instructions.

    python tests/tools/same_code.py             compare with the hashes committed for the Triton that is installed
    python tests/tools/same_code.py --write     commit to what the kernels are now (after a change of a kernel's body,
                                                or of its place, so that the next run knows it again)
    python tests/tools/same_code.py --all       compile what has not changed since, too
    python tests/tools/same_code.py --shared    print as JSON how much shared memory each spec asks for
    python tests/tools/same_code.py --keep DIR  also leave the normalised PTX there, to see what differs
    python tests/tools/same_code.py few tail    only specs with one of these words in their names

Every spec of hopper_ptx.py and triton_builds.py is compiled to PTX, without a GPU, unless all that goes into it (its
source, that of what it calls, types, constants, Triton) is as it was when its hash was committed. What may change
(comments, places in source files, debug sections, the kernel's name) is taken out and the rest hashed. Specs are known
by their own names, not by where a kernel stands or what it is called. A program of its own: in the tests' process
Triton's interpreter is in the compiler's place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.tools.kernel_builds import Build

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
HASHES = HERE / "ptx_hashes"  # one file per version of Triton

_DEBUG_SECTION = re.compile(r"\.section\s+\.debug_\w+\s*\{[^}]*\}")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_PLACE = re.compile(r"^[ \t]*(\.loc|\.file)\b[^\n]*|^[ \t]*\$L__(tmp|func_)\w*:", re.MULTILINE)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)")


def normalised(ptx: str) -> str:
    """What is left of a kernel's PTX when neither its name nor where its source stands can show."""
    ptx = _PLACE.sub("", _DEBUG_SECTION.sub("", _COMMENT.sub("", ptx)))
    for name in _ENTRY.findall(ptx):
        ptx = re.sub(rf"(?<![\w$]){re.escape(name)}(?=$|_param_|[^\w$])", "KERNEL", ptx)
    return "\n".join(line for line in map(str.strip, ptx.splitlines()) if line)


def digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:24]


def builds(wanted: tuple[str, ...] = ()) -> dict[str, Build]:
    """Every spec whose name holds one of the wanted words; all without any."""
    sys.path[:0] = [str(REPO)]
    from tests.tools import hopper_ptx, triton_builds

    found = {f"sm_90: {name}": hopper_ptx.build(*spec) for name, spec in hopper_ptx.KERNELS.items()}
    found |= {f"{card}: {name}": build for (card, name), build in triton_builds.builds().items()}
    return {name: build for name, build in found.items() if not wanted or any(word in name for word in wanted)}


def facts_of(build: Build, before: dict[str, Any] | None) -> tuple[dict[str, Any], str]:
    """(what is committed of a spec, its PTX). The PTX is empty where nothing that goes into it has changed since: the
    same Triton makes the same code of it."""
    key = build.key()
    if before is not None and before["source"] == key:
        return before, ""
    compiled = build.compiled()
    code = normalised(compiled.asm["ptx"])
    return {"ptx": digest(code), "shared": compiled.metadata.shared, "source": key}, code


def committed(version: str) -> dict[str, dict[str, Any]] | None:
    """spec -> hash of its PTX with this Triton, shared memory that it asks for, and hash of what it is made of; None
    if none were written for it."""
    file = HASHES / f"{version}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def differences(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """In words, what is not as it was."""
    both = [name for name in before if name in now]
    found = [f"{name}: other code than was committed" for name in both if before[name]["ptx"] != now[name]["ptx"]]
    found += [f"{name}: is built no longer" for name in before if name not in now]
    return found + [f"{name}: has no committed code" for name in now if name not in before]


def main(arguments: list[str]) -> int:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("words", nargs="*")
    read.add_argument("--write", action="store_true")
    read.add_argument("--all", action="store_true")
    read.add_argument("--shared", action="store_true")
    read.add_argument("--keep", type=Path)
    asked = read.parse_args(arguments)
    os.environ.pop("TRITON_INTERPRET", None)
    import triton

    before, now, compiled = committed(triton.__version__), {}, 0
    for name, build in builds(tuple(asked.words)).items():
        known = None if asked.all or asked.keep else (before or {}).get(name)
        now[name], code = facts_of(build, known)
        compiled += bool(code)
        if asked.keep:
            asked.keep.mkdir(parents=True, exist_ok=True)
            (asked.keep / f"{name.replace(': ', '_').replace(' ', '_')}.ptx").write_text(code + "\n", "utf-8")
    if asked.shared:
        print(json.dumps({name: facts["shared"] for name, facts in now.items()}))
        return 0
    if asked.write:
        HASHES.mkdir(exist_ok=True)
        merged = (before or {} if asked.words else {}) | now
        (HASHES / f"{triton.__version__}.json").write_text(json.dumps(merged, indent=1) + "\n", "utf-8")
        changed = differences(before or {}, merged)
        print(*changed, f"Triton {triton.__version__}: {len(now)} specs written, {len(changed)} differ", sep="\n")
        return 0
    if before is None:
        print(f"no hashes for Triton {triton.__version__}: run this with --write on the code to compare with")
        return 2
    if asked.words:
        before = {name: value for name, value in before.items() if name in now}
    different = differences(before, now)
    counts = f"{len(now)} specs, {compiled} of them compiled, {len(different)} differ"
    print(*different, f"Triton {triton.__version__}: {counts}", sep="\n")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
