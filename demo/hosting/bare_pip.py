"""pip for a Python that comes without one: Debian and Ubuntu keep it in a package of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from demo.hosting.common import HostError, say

INDEX = "https://pypi.org/simple"


def pip_is_bundled() -> bool:
    return importlib.util.find_spec("ensurepip") is not None


def install(python: Path) -> None:
    """pip's own wheel can install itself."""
    page = (os.environ.get("PIP_INDEX_URL") or INDEX).rstrip("/") + "/pip/"
    say("this Python has no pip; fetching it ...")
    try:
        links = re.findall(r'href="([^"]+/pip-[\d.]+-py3-none-any\.whl[^"]*)"', read(page).decode())
        newest = max(links, key=version_in)
        url = urljoin(page, newest)
        with tempfile.TemporaryDirectory() as folder:
            wheel = Path(folder) / Path(urlsplit(url).path).name
            wheel.write_bytes(read(url))
            subprocess.run([python, wheel / "pip", "install", "--quiet", wheel], check=True, capture_output=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        advice = "install the package python3-venv, or check the network"
        raise HostError(f"This Python has no pip and fetching it failed ({error}): {advice}.") from error


def version_in(link: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", link.rpartition("/pip-")[2].partition("-")[0])]


def reachable(url: str) -> bool:
    try:
        return bool(read(url, timeout=5))
    except (OSError, ValueError):
        return False


def read(url: str, timeout: float = 60) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is no web address")
    with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310
        return bytes(answer.read())
