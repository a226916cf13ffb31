"""The folder a server writes to: its custom nodes, models, outputs and settings, apart from ComfyUI's own files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from demo.hosting.common import REPO, try_lock

PACK = "mixture-of-contexts"
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks", "demo", "node_modules")


class BaseFolder:
    """`<home>/base-<version>`; a second server of the same version gets `-2`, and so on. Taken until `release()`."""

    def __init__(self, home: Path, version: str) -> None:
        number = 1
        while True:
            self.path = home / (f"base-{version}" if number == 1 else f"base-{version}-{number}")
            self.nodes = self.path / "custom_nodes"
            for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self.lock: TextIO = (self.path / ".lock").open("a")
            if try_lock(self.lock.fileno()):
                break
            self.lock.close()
            number += 1

    def release(self) -> None:
        self.lock.close()

    def link_nodes(self, extra: Iterable[Path]) -> None:
        """The pack and the given folders are the only custom nodes."""
        for entry in self.nodes.iterdir():
            unlink(entry)
        link(REPO, self.nodes / PACK)
        for folder in extra:
            link(folder.resolve(), self.nodes / folder.name)

    def write_model_paths(self, models: Mapping[str, Path]) -> Path:
        """ComfyUI reads YAML, and JSON is YAML."""
        file = self.path / "extra_model_paths.yaml"
        paths = {kind: str(folder.resolve()) for kind, folder in models.items()}
        file.write_text(json.dumps({"demo": paths} if paths else {}), "utf-8")
        return file


def link(source: Path, target: Path) -> None:
    """A symbolic link, or what comes closest to one where those need special rights."""
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:
        try:
            make_junction(source, target)
        except OSError:
            shutil.copytree(source, target, ignore=LEFT_OUT)


def make_junction(source: Path, target: Path) -> None:
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(source), str(target))
    else:
        raise OSError("only Windows has junctions")


def unlink(entry: Path) -> None:
    """Remove a link or a copy, never what a link points to."""
    is_junction = getattr(os.path, "isjunction", lambda _: False)(entry)
    if entry.is_symlink() or entry.is_file():
        entry.unlink()
    elif is_junction or not any(entry.iterdir()):
        entry.rmdir()
    else:
        shutil.rmtree(entry)  # refuses links and, since Python 3.8, junctions
