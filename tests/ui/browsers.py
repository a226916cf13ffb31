"""Which browser, and which front end, the browser tests use."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from demo.host import NEWEST, Host
from demo.hosting.common import HostError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def find_browser() -> str | None:
    """Path of a Chromium."""
    if chosen := os.environ.get("MOC_CHROMIUM"):
        return chosen
    return next((path for name in NAMES if (path := shutil.which(name))), None)


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
        loading = folder.with_suffix(".loading")
        shutil.rmtree(loading, ignore_errors=True)
        pip = [str(host.python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        if subprocess.run([*pip, "--no-deps", "--no-compile", "--target", str(loading), wanted]).returncode:
            raise HostError(f"Cannot install {wanted}, the front end of ComfyUI {host.version}.")
        shutil.rmtree(folder, ignore_errors=True)
        Path(loading).replace(folder)
    return ["--front-end-root", str(root)]
