"""Windows in ComfyUI: its own context windows, laid along the shots, drawn anew at every step, or around one shot."""

from .memory import Recall, apply_recall
from .patch import apply_windows
from .remake import remake_shot

__all__ = ["Recall", "apply_recall", "apply_windows", "remake_shot"]
