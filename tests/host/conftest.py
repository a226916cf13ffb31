"""A real ComfyUI in this process, on the CPU, with the pack loaded the way ComfyUI loads it.

`tests/run.py host` runs this folder once per supported ComfyUI. Run by hand, it takes the newest one in the private
environment, or the folder in MOC_COMFYUI_DIR.
"""

import importlib.util
import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
PACK = "mixture_of_contexts"
HOME = Path(os.environ.get("MOC_DEMO_HOME") or REPO / ".demo")
COMFYUI = Path(os.environ.get("MOC_COMFYUI_DIR") or HOME / "comfyui-0.30.0").resolve()


def start_comfyui() -> None:
    if not (COMFYUI / "comfy").is_dir():
        raise RuntimeError(f"No ComfyUI in {COMFYUI}: run `python tests/run.py host`, or set MOC_COMFYUI_DIR.")
    # The pack has a folder `nodes`, ComfyUI has a module `nodes`: here that name is ComfyUI's.
    sys.path[:] = [str(COMFYUI)] + [entry for entry in sys.path if Path(entry or ".").resolve() not in (REPO, COMFYUI)]
    writable = HOME.resolve() / f"base-tests-{COMFYUI.name}"
    (writable / "custom_nodes").mkdir(parents=True, exist_ok=True)
    kept, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--base-directory", str(writable)]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401 - reads the arguments now
    finally:
        sys.argv = kept


def load_pack() -> None:
    spec = importlib.util.spec_from_file_location(PACK, REPO / "__init__.py", submodule_search_locations=[str(REPO)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


start_comfyui()
load_pack()
