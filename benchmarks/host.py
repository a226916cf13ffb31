"""A ComfyUI in this process, for the benchmarks that need one."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI 0.3.75 or newer")


def command(name: str) -> str:
    """What was typed to get a result, without the places where it lay and went on this machine."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--comfyui")
    parser.add_argument("--out")
    placed, rest = parser.parse_known_args(sys.argv[1:])
    folder = [] if placed.comfyui is None else ["--comfyui", "FOLDER"]
    return " ".join(["python -m", f"benchmarks.{name}", *folder, *rest])


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
