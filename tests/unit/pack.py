"""The node pack's own package, loaded from the repository folder under a name of its own, without ComfyUI."""

import importlib
import importlib.util
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
NAME = "moc_pack"


def load(module: str):
    """A module of the pack that needs no ComfyUI, like "nodes.widgets.routing"."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, REPO / "__init__.py")
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return importlib.import_module(f"{NAME}.{module}")
