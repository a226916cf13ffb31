"""Films longer than a model can hold: which shots share a window, step by step. Pure: no ComfyUI, no tensors."""

from .drawn import Drawing
from .settings import DRAWN, FOLLOW, FUSE, SHOTS, WindowSettings
from .shots import by_shots, cut

__all__ = ["DRAWN", "FOLLOW", "FUSE", "SHOTS", "Drawing", "WindowSettings", "by_shots", "cut"]
