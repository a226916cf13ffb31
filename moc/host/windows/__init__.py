"""Windows in ComfyUI: its own context windows, laid along the shots, drawn anew at every step, or around one shot."""

from .patch import apply_windows
from .remake import remake_shot

__all__ = ["apply_windows", "remake_shot"]
