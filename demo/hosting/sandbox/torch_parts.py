"""torch, torchvision and torchaudio for ComfyUI, with or without a GPU.

For machines that reach one package index and no other, like build servers and sandboxes; where PyTorch's own index can
be reached, all three come from there and nothing below has work to do.

ComfyUI imports all three. On Linux the package index may hand out a CPU build of torch but only CUDA builds of the
other two, whose compiled parts then do not load. Neither is needed for what runs here, so two repairs suffice, and
each is made only where the import is seen to fail: torchvision gets the names of two operators it annotates, and
torchaudio loses the files it would otherwise insist on loading.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from demo.hosting.common import HostError, say, tail

TORCH = "torch==2.13.0"
FRIENDS = ("torchvision==0.28.0", "torchaudio==2.11.0")
NAMES = ("torch", "torchvision", "torchaudio")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GPU_SIGNS = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
HOOK_NAME = "moc_torchvision_operators"
HOOK = '''"""Names two operators before torchvision is imported: its compiled part does not load beside this torch."""

import sys


class BeforeTorchvision:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


hook = BeforeTorchvision()  # holds the library: its operators live as long as it does
sys.meta_path.insert(0, hook)
'''
IMPORTS = """
import json, sys, sysconfig, traceback
failures = {}
for name in sys.argv[1:]:
    try:
        __import__(name)
    except Exception:
        failures[name] = traceback.format_exc()
print(json.dumps({"site": sysconfig.get_path("purelib"), "failures": failures}))
"""

Pip = Callable[..., None]


def install(pip: Pip) -> None:
    chosen = os.environ.get("MOC_TORCH_INDEX")
    if chosen:
        pip(f"install torch from {chosen}", "install", "--index-url", chosen, TORCH, *FRIENDS)
        return
    if wants_cpu_index():
        # An extra index, so that torch's dependencies come from the usual one; "+cpu" sorts above the plain build.
        try:
            return pip("install torch, CPU build", "install", "--extra-index-url", CPU_INDEX, TORCH, *FRIENDS)
        except HostError:
            say("that did not work; trying the default package index")
    pip("install torch", "install", TORCH)
    pip("install torchvision and torchaudio", "install", "--no-deps", *FRIENDS)


def wants_cpu_index() -> bool:
    """Without a GPU the default build for Linux would bring several GB of CUDA libraries along for nothing."""
    return sys.platform == "linux" and not any(map(os.path.exists, GPU_SIGNS)) and reachable(CPU_INDEX + "/torch/")


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a constant of ours, https
            return bool(answer.read())
    except (OSError, ValueError):
        return False


def make_importable(python: Path) -> None:
    """Import the three; repair what does not import; import again."""
    site, failures = try_imports(python)
    if "torchvision" in failures:
        (site / f"{HOOK_NAME}.py").write_text(HOOK, "utf-8")
        (site / f"{HOOK_NAME}.pth").write_text(f"import {HOOK_NAME}\n", "utf-8")
    if "torchaudio" in failures:
        for library in (site / "torchaudio" / "lib").glob("*"):
            if library.suffix in (".so", ".pyd", ".dll", ".dylib"):
                library.unlink()
    if failures:
        _, failures = try_imports(python)
    for module, trace in failures.items():
        raise HostError(f"{module} is installed but cannot be imported:\n{tail(trace)}")


def try_imports(python: Path) -> tuple[Path, dict[str, str]]:
    """Where packages are installed, and the traceback of each of the three that fails to import."""
    done = subprocess.run([python, "-c", IMPORTS, *NAMES], capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"Python ended while importing torch (exit code {done.returncode}):\n{tail(done.stderr)}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Path(answer["site"]), answer["failures"]
