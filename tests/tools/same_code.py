"""The same-code gate: moving and renaming kernels changes none of their instructions.

    python tests/tools/same_code.py             compare with the hashes committed for the Triton that is installed
    python tests/tools/same_code.py --write     commit to what the kernels are now (after a change of a kernel's body)
    python tests/tools/same_code.py --keep DIR  also leave the normalised PTX there, to see what differs
    python tests/tools/same_code.py few tail    only specs with one of these words in their names

Every spec of hopper_ptx.py and triton_builds.py is compiled to PTX, without a GPU. What may change (comments, places
in source files, debug sections, the kernel's name) is taken out and the rest hashed. Specs are known by their own
names, not by where a kernel stands or what it is called. A program of its own: in the tests' process Triton's
interpreter is in the compiler's place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

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


def builds(wanted: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(spec, normalised PTX) of every spec whose name holds one of the wanted words; of all without any."""
    sys.path[:0] = [str(REPO), str(HERE)]
    import hopper_ptx
    import triton_builds

    def chosen(name: str) -> bool:
        return not wanted or any(word in name for word in wanted)

    for name, spec in hopper_ptx.KERNELS.items():
        if chosen(full := f"sm_90: {name}"):
            yield full, normalised(hopper_ptx.compiled(*spec)["ptx"])
    for card, size in triton_builds.ARCHITECTURES.items():
        for name, how in triton_builds.kernels(triton_builds.HALF[size]).items():
            if chosen(full := f"{card}: {name}"):
                yield full, normalised(triton_builds.compiled(*how, int(card[3:])).asm["ptx"])


def committed(version: str) -> dict[str, str] | None:
    """spec -> hash of its PTX with this Triton; None if none were written for it."""
    file = HASHES / f"{version}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """In words, what is not as it was."""
    found = [f"{name}: other code than was committed" for name in before if name in now and before[name] != now[name]]
    found += [f"{name}: is built no longer" for name in before if name not in now]
    return found + [f"{name}: has no committed code" for name in now if name not in before]


def main(arguments: list[str]) -> int:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("words", nargs="*")
    read.add_argument("--write", action="store_true")
    read.add_argument("--keep", type=Path)
    asked = read.parse_args(arguments)
    os.environ.pop("TRITON_INTERPRET", None)
    import triton

    now = {}
    for name, code in builds(tuple(asked.words)):
        now[name] = digest(code)
        if asked.keep:
            asked.keep.mkdir(parents=True, exist_ok=True)
            (asked.keep / f"{name.replace(': ', '_').replace(' ', '_')}.ptx").write_text(code + "\n", "utf-8")
    before = committed(triton.__version__)
    if asked.write:
        HASHES.mkdir(exist_ok=True)
        merged = (before or {} if asked.words else {}) | now
        (HASHES / f"{triton.__version__}.json").write_text(json.dumps(merged, indent=1) + "\n", "utf-8")
        print(f"Triton {triton.__version__}: {len(now)} specs written")
        return 0
    if before is None:
        print(f"no hashes for Triton {triton.__version__}: run this with --write on the code to compare with")
        return 2
    if asked.words:
        before = {name: value for name, value in before.items() if name in now}
    different = differences(before, now)
    print(*different, f"Triton {triton.__version__}: {len(now)} specs, {len(different)} differ", sep="\n")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
