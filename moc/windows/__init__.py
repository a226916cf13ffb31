"""Films longer than a model can hold: which shots share a window, step by step. Pure: no ComfyUI, no tensors."""

from .bank import AS_MODEL, BANK, OF_SHOT, OFF, STORAGE, WEIGHT, BankSettings
from .drawn import Drawing
from .memory import ALL, CHARACTER, CLIP, KINDS, PICTURE, READ, Memory
from .remake import AGAIN, CONTINUE, DO, INSERT, KEPT, SEES, WHOLE, Making
from .settings import DRAWN, FOLLOW, FUSE, SHOTS, WindowSettings
from .shots import by_shots, cut

__all__ = [
    "AGAIN",
    "ALL",
    "AS_MODEL",
    "BANK",
    "CHARACTER",
    "CLIP",
    "CONTINUE",
    "DO",
    "DRAWN",
    "FOLLOW",
    "FUSE",
    "INSERT",
    "KEPT",
    "KINDS",
    "OFF",
    "OF_SHOT",
    "PICTURE",
    "READ",
    "SEES",
    "SHOTS",
    "STORAGE",
    "WEIGHT",
    "WHOLE",
    "BankSettings",
    "Drawing",
    "Making",
    "Memory",
    "WindowSettings",
    "by_shots",
    "cut",
]
