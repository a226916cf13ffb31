"""Films longer than a model can hold: which shots share a window, step by step. Pure: no ComfyUI, no tensors."""

from .bank import AS_MODEL, BANK, OFF, STORAGE, BankSettings
from .drawn import Drawing
from .remake import AGAIN, CONTINUE, DO, INSERT, KEPT, SEES, WHOLE, Making
from .settings import DRAWN, FOLLOW, FUSE, SHOTS, WindowSettings
from .shots import by_shots, cut

__all__ = [
    "AS_MODEL",
    "BANK",
    "DRAWN",
    "FOLLOW",
    "FUSE",
    "OFF",
    "SHOTS",
    "STORAGE",
    "BankSettings",
    "Drawing",
    "WindowSettings",
    "by_shots",
    "cut",
]
