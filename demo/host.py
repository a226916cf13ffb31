"""A private environment with a real ComfyUI, made from the package registry alone.

    python -m demo.host [--tools] [--version 0.30.0 0.3.75]

Everything lands in one folder (`.demo` in the repository, or $MOC_DEMO_HOME): a virtual environment, the ComfyUI
versions, logs. Nothing outside it changes and nothing is asked of the machine but Python 3.10 or newer. This file,
`demo/server.py` and `demo/hosting/` use the standard library only, so they run before anything is installed.

Settings: MOC_DEMO_HOME (the folder), MOC_TORCH_INDEX (the package index to take torch from), MOC_NEWEST (the folder of
a ComfyUI newer than the ones known here, for tests).
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from demo.hosting.common import REPO, HostError, locked
from demo.hosting.installer import ARCHIVES, Installer, venv_python

OLDEST_PYTHON = (3, 10)
NEWEST, OLDEST = "0.30.0", "0.3.75"  # the two ends of what the pack supports
BESIDE = ("venv", ".venv", "python_embeded")  # where ComfyUI's own guides put its interpreter


@dataclass(frozen=True)
class Host:
    """A ComfyUI that can be started: its folder, the interpreter that runs it, and the folder it may write to."""

    version: str
    folder: Path
    python: Path
    home: Path


def home_folder() -> Path:
    return Path(os.environ.get("MOC_DEMO_HOME") or REPO / ".demo").expanduser().resolve()


def prepare(version: str = NEWEST, tools: bool = False, home: Path | None = None) -> Host:
    """See to it that the environment and this ComfyUI exist. When they do, this takes milliseconds."""
    if sys.version_info < OLDEST_PYTHON:
        oldest, here = ".".join(map(str, OLDEST_PYTHON)), sys.version.split()[0]
        raise HostError(f"Python {oldest} or newer is needed; this is {here} ({sys.executable}).")
    elsewhere = os.environ.get("MOC_NEWEST")
    if elsewhere and version not in ARCHIVES and version == version_of(Path(elsewhere)):
        return existing(Path(elsewhere), prepare(NEWEST, tools, home).python, home)
    if version not in ARCHIVES:
        known = ", ".join(ARCHIVES)
        raise HostError(f"ComfyUI {version} is not known here: choose from {known}, or give the path of yours.")
    installer = Installer(home or home_folder())
    if not installer.is_ready(version, tools):
        installer.make_home()
        with locked(installer.home / ".lock", "another run is preparing the environment; waiting for it"):
            installer.install(version, tools)
    return Host(version, installer.comfyui(version), installer.python, installer.home)


def existing(folder: Path, python: Path | None = None, home: Path | None = None) -> Host:
    """A ComfyUI the user has, run by the interpreter given, else by one beside it, else by the private one."""
    folder = folder.expanduser().resolve()
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        raise HostError(f"{folder} is no ComfyUI folder: it has no main.py or no comfy/ in it.")
    home = home or home_folder()
    chosen = python.expanduser() if python else python_beside(folder) or prepare(home=home).python
    if not chosen.is_file():
        raise HostError(f"There is no Python interpreter at {chosen}.")
    Installer(home).make_home()
    return Host(version_of(folder), folder, chosen.absolute(), home)


def version_of(folder: Path) -> str:
    try:
        return (folder / "comfyui_version.py").read_text("utf-8").split('"')[-2]
    except (OSError, IndexError):
        return "unknown"


def python_beside(folder: Path) -> Path | None:
    places = [root / name for root in (folder, folder.parent) for name in BESIDE]
    found = (path for place in places for path in (venv_python(place), place / "python.exe"))
    return next((path for path in found if path.is_file()), None)


def main() -> int:
    what = "Make the private environment and say where it is."
    parser = argparse.ArgumentParser(prog="python -m demo.host", description=what)
    parser.add_argument("--version", nargs="+", default=[NEWEST], choices=list(ARCHIVES), help="ComfyUI versions")
    parser.add_argument("--tools", action="store_true", help="also what the tests need")
    options = parser.parse_args()
    try:
        for version in options.version:
            host = prepare(version, options.tools)
            print(f"ComfyUI {host.version}: {host.folder}\npython: {host.python}")
    except HostError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next run repairs what is half done.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
