"""A ComfyUI in this process, for the benchmarks that need one."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI 0.3.75 or newer")


def command(name: str, package: str = "benchmarks") -> str:
    """What was typed to get a result, without the places where it lay and went on this machine."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--comfyui")
    parser.add_argument("--out")
    parser.add_argument("--aimdo", action="append", default=[])
    placed, rest = parser.parse_known_args(sys.argv[1:])
    folder = [] if placed.comfyui is None else ["--comfyui", "FOLDER"]
    folder += ["--aimdo", "FOLDER"] * len(placed.aimdo)
    return " ".join(["python -m", f"{package}.{name}", *folder, *rest])


def start(folder: Path, *arguments: str) -> str:
    """Make `comfy` importable, with ComfyUI's own command line; returns its version."""
    if not (folder / "comfy").is_dir():
        raise SystemExit(f"No ComfyUI in {folder}.")
    # The pack has a folder `nodes`, ComfyUI has a module `nodes`: here that name is ComfyUI's.
    rest = [entry for entry in sys.path if Path(entry or ".").resolve() not in (REPO, folder.resolve())]
    sys.path[:] = [str(folder.resolve()), *rest, str(REPO)]
    kept, sys.argv = sys.argv, [sys.argv[0], "--base-directory", tempfile.mkdtemp(prefix="moc_host_"), *arguments]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401 - reads the arguments now
    finally:
        sys.argv = kept
    import comfyui_version

    return comfyui_version.__version__


def watched(command: list[str], seconds: float, environment: dict[str, str]) -> tuple[int | None, str]:
    """(exit code, None where it had to be ended because time was up; what it wrote to stderr, without folders)."""
    process = subprocess.Popen(command, cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True)
    code: int | None = None
    try:
        _, errors = process.communicate(timeout=seconds)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    return code, re.sub(r'File ".*?([^/"]+)"', r'File "\1"', errors)
